"""The report as one HTML file: nothing is loaded from anywhere, pictures and plots are inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from stmixer.trainer.evaluate.pictures import KINDS, Kind
from stmixer.trainer.evaluate.plots import bars, person_curve, precision_recall, reliability_diagram
from stmixer.trainer.evaluate.report import ORIGINS, Report, percent, summary
from stmixer.trainer.evaluate.sections import STYLE as SECTIONS_STYLE
from stmixer.trainer.evaluate.sections import (
    Evidence,
    clips_section,
    confusion_section,
    faults_section,
    history_section,
    moment_link,
)
from stmixer.trainer.evaluators.out_of_set import OutOfSet
from stmixer.trainer.evaluators.people import PersonScore
from stmixer.trainer.evaluators.person_cut import PRECISION_FROM
from stmixer.trainer.evaluators.tables import HEIGHT_AT

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --soft: #666; --line: #ddd; --warn: #8a3b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --soft: #9a9a9a; --line: #34373b; --warn: #ffb070; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
svg .soft { fill: var(--soft); } svg .head { font-size: 12px; font-weight: 600; }
svg .grid { stroke: var(--line); fill: none; }
.plots, .pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.wide { overflow-x: auto; }
.origin { color: var(--warn); font-weight: 600; }
figure { margin: 0; max-width: 30rem; } figure img { max-width: 100%; display: block; }
figcaption { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid var(--line); }
"""
_HEADS: dict[Kind, str] = {
    "right": "Right: the surest detections that are true",
    "wrong": "Wrong: the surest detections that are not",
    "missed": "Missed: people whose action was not reported",
}
_HEADS_OF_PEOPLE: dict[Kind, str] = {
    "right": "Right: the surest of who was found",
    "wrong": "Wrong: the surest of who is not there",
    "missed": "Missed: people who were not found, the largest first",
}


def write_page(path: Path, report: Report, evidence: Evidence | None = None) -> None:
    """Write `page` to a file."""
    path.write_text(page(report, evidence), encoding="utf-8")


def page(report: Report, evidence: Evidence | None = None) -> str:
    """The whole document.

    Args:
        evidence: its pictures (see `trainer.evaluate.pictures.draw`) are shown by kind, found on the left, true on the
            right.
    """
    evidence = evidence or Evidence()
    subject = report.subject
    figure, means = f"mAP {percent(report.mean_ap)}", ", mean over the labels that have boxes in the split"
    if report.actions is None and report.people is not None:
        figure, means = f"person AP {percent(report.people.ap)}", ", people alone"
    title = f"{subject.name} {subject.split}: {figure} %"
    lines, heads = summary(report), _HEADS if report.actions is not None else _HEADS_OF_PEOPLE
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Protocol <code>{escape(report.protocol)}</code> at IoU {report.iou:g}{means}.</p>",
        f'<p class="origin">Boxes: {escape(ORIGINS[subject.origin])}.</p>',
        "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines[1:]) + "</ul>" if lines[1:] else "",
        history_section(evidence.history, subject.name),
        f'<h2>AP per label</h2><div class="wide">{bars(report.classes)}</div>' if report.classes else "",
        _people(report.people),
        confusion_section(report.confusion),
        _out_of_set(report.out_of_set),
        _absent(report),
        _tubes(report),
        f'<h2>Precision and recall</h2><div class="plots">{_curves(report)}</div>',
        _reliability(report),
        clips_section(evidence),
        *(_gallery(heads[kind], kind, evidence) for kind in KINDS),
        faults_section(evidence),
    ]
    return _document(title, body)


def write_diagrams(path: Path, title: str, diagrams: Mapping[str, Sequence[str]]) -> None:
    """Write a page of SVG plots, a row under each heading. Raises OSError."""
    rows = (f'<h2>{escape(head)}</h2><div class="plots">{"".join(plots)}</div>' for head, plots in diagrams.items())
    path.write_text(_document(title, [f"<h1>{escape(title)}</h1>", *rows]), encoding="utf-8")


def _document(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{SECTIONS_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _absent(report: Report) -> str:
    names = [c.name for c in report.classes if c.ap is None]
    return f"<p>Without boxes in this split, so not measured: {escape(', '.join(names))}.</p>" if names else ""


def _people(p: PersonScore | None) -> str:
    if p is None:
        return ""
    cuts = (p.served, p.precise)
    heads = (f"score ≥ {p.threshold:g}", f"precision ≥ {PRECISION_FROM:g}")
    whole = [f"{cut.found} of {cut.people}" for cut in cuts]
    kinds = [("everybody", *whole)]
    for one, other in zip(*((*cut.by_height, *cut.by_posture, *cut.by_label) for cut in cuts), strict=True):
        kinds.append((one.kind, f"{one.found} of {one.people}", f"{other.found} of {other.people}"))
    return (
        f"<h2>People found</h2><p>Heights are those of a picture with a short side of {HEIGHT_AT} px.</p>"
        f"{_table(('', *heads), kinds)}"
    )


def _out_of_set(o: OutOfSet | None) -> str:
    if o is None:
        return ""
    shown = [o.any_label, *([] if o.among is None else [o.among]), *o.by_label]
    rows = [(n.of, str(n.named), str(n.people), percent(n.share)) for n in shown]
    return (
        "<h2>Labels of people who do not do them</h2><p>People who are "
        f"found with a score of {o.person_score:g} or more and of whom the set says that they do not do this; "
        "named are those of whom it is said with a score of "
        f"{o.score:g} or more.</p>"
        f"{_table(('label', 'named', 'people found', '%'), rows)}"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{row(heads, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _curves(report: Report) -> str:
    shown = sorted((c for c in report.classes if c.ap is not None), key=lambda c: -(c.ap or 0.0))
    people = [] if report.people is None else [person_curve(report.people.curve, report.people.ap)]
    return "".join(people + [precision_recall(c) for c in shown])


def _tubes(report: Report) -> str:
    if not report.tubes:
        return ""
    shown = [s for s in report.tubes if f"{s.iou:g}" in report.video_map]
    heads = "".join(f"<th>{s.iou:g}</th>" for s in shown)
    rows = []
    for at, c in enumerate(report.classes):
        if shown and shown[0].classes[at].ap is not None:
            cells = "".join(f"<td>{percent(s.classes[at].ap)}</td>" for s in shown)
            rows.append(f"<tr><td>{escape(c.name)}</td><td>{shown[0].classes[at].positives}</td>{cells}</tr>")
    means = "".join(f"<td>{percent(s.mean_ap)}</td>" for s in shown)
    return (
        f"<h2>Video AP, percent, at spatio-temporal IoU</h2><table><tr><th>label</th><th>tubes</th>{heads}</tr>"
        f"{''.join(rows)}<tr><td>mean</td><td></td>{means}</tr></table>"
    )


def _reliability(report: Report) -> str:
    both = (("person", report.person_reliability), ("action", report.action_reliability))
    plots = [reliability_diagram(r, what) for what, r in both if r is not None]
    if not plots:
        return ""
    return f'<h2>Do the scores mean what they say?</h2><div class="plots">{"".join(plots)}</div>'


def _gallery(head: str, kind: Kind, evidence: Evidence) -> str:
    figures = []
    for p in evidence.pictures:
        if p.pick.kind != kind:
            continue
        data = base64.b64encode(p.jpeg).decode("ascii")
        figures.append(
            f'<figure><img alt="{escape(p.caption, quote=True)}" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{escape(p.what)} · {moment_link(p.pick, evidence)}</figcaption></figure>"
        )
    if not figures:
        return ""
    return f'<h2>{head}</h2><p>Found left, true right.</p><div class="pictures">{"".join(figures)}</div>'
