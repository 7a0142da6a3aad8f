"""Parts of the report's page that show how it came and where it went wrong: curves, who is taken for what, clips, a
list of errors with links to their moments."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from stmixer.trainer.evaluate.clip_videos import ReportClip
from stmixer.trainer.evaluate.faults import Fault, Faults
from stmixer.trainer.evaluate.history import History
from stmixer.trainer.evaluate.moments import ErrorMoment, ErrorMoments, clock
from stmixer.trainer.evaluate.pictures import Pick, ReportPicture
from stmixer.trainer.evaluate.plots import line_chart
from stmixer.trainer.evaluators.confusion import Confusion

STYLE = """
.confusion td, .confusion th { padding: .15rem .4rem; text-align: center; font-variant-numeric: tabular-nums; }
.confusion th { font-weight: 400; font-size: 13px; } .confusion thead th { vertical-align: bottom; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11rem; }
.confusion th:first-child { text-align: right; white-space: nowrap; }
.confusion .own { outline: 2px solid var(--soft); outline-offset: -2px; }
.faults { max-height: 26rem; overflow: auto; border: 1px solid var(--line); }
.faults table { width: 100%; } .faults td, .faults th { text-align: left; padding: .15rem .6rem; }
.faults thead th { position: sticky; top: 0; background: var(--paper); }
video { max-width: 100%; display: block; background: #000; }
a { color: inherit; }
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a page shows besides the figures: pictures, clips, errors and where they are, and how the run went."""

    pictures: Sequence[ReportPicture] = ()
    clips: Sequence[ReportClip] = ()
    faults: Faults | None = None
    moments: ErrorMoments | None = None
    history: History = field(default_factory=History)

    def moment(self, one: Pick) -> ErrorMoment | None:
        """Where a pick can be looked at."""
        return None if self.moments is None else self.moments.of(one.video, one.frame)


def history_section(history: History, name: str) -> str:
    """Loss, and this set's mAP beside it."""
    charts = []
    if len(history.loss) > 1:
        charts.append(line_chart(history.loss, "training loss", "step"))
    maps = history.maps.get(name, [])
    if maps:
        top = max(maps, key=lambda point: point[1])
        title = f"mAP %, best {100 * top[1]:.1f} at step {top[0]:.0f}"
        charts.append(line_chart([(step, 100 * value) for step, value in maps], title, "step", top=100.0))
    if not charts:
        return ""
    return f'<h2>How training went</h2><div class="plots">{"".join(charts)}</div>'


def confusion_section(c: Confusion | None) -> str:
    """Rows are what is true, columns what is said; a cell's shade is its share of the row."""
    if c is None:
        return ""
    used = [at for at, name in enumerate(c.columns) if c.counts[:, at].any() or name in c.rows]
    head = "".join(f"<th><span>{escape(c.columns[at])}</span></th>" for at in used)
    body = []
    for name, counts in zip(c.rows, c.counts, strict=True):
        whole = max(int(counts.sum()), 1)
        cells = []
        for at in used:
            share, count = counts[at] / whole, int(counts[at])
            own = ' class="own"' if c.columns[at] == name else ""
            shade = f"background: color-mix(in srgb, #3b8fcf {100 * share:.0f}%, transparent)"
            says = escape(f"{name}: {c.columns[at]}, {count} of {whole}", quote=True)
            cells.append(f'<td{own} style="{shade}" title="{says}">{count or ""}</td>')
        body.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        "<h2>Who is taken for what</h2><p>Each row is a true label, each column the surest thing that is said of its "
        f"people (score {c.said_from:g} or more, person score {c.person_score:g} or more), counted on keyframes. "
        "Somebody with several labels stands in several rows, and in the frame where the label is among those said.</p>"
        f'<div class="wide"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def clips_section(evidence: Evidence) -> str:
    """The worst clips, each playable in the page."""
    figures = []
    for clip in evidence.clips:
        sure = "" if clip.pick.score is None else f" {clip.pick.score:.2f}"
        what = escape(f"{clip.pick.kind}: {clip.label}{sure} · {clip.pick.video}")
        caption = f"{what} · {moment_link(clip.pick, evidence)}"
        video, poster = (base64.b64encode(data).decode("ascii") for data in (clip.mp4, clip.jpeg))
        figures.append(
            '<figure><video controls muted loop playsinline preload="metadata"'
            f' poster="data:image/jpeg;base64,{poster}" src="data:video/mp4;base64,{video}"></video>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if not figures:
        return ""
    return (
        "<h2>The worst clips</h2><p>Of the videos with the most errors, the moment of the worst, with what comes "
        f'before and after it. Found left, true right.</p><div class="pictures">{"".join(figures)}</div>'
    )


def faults_section(evidence: Evidence) -> str:
    """Every error that is listed, with a link to its moment."""
    faults = evidence.faults
    if faults is None or not faults.listed:
        return ""
    rows = "".join(_row(fault, evidence) for fault in faults.listed)
    shown = len(faults.listed)
    some = "" if shown == faults.wrong + faults.missed else f" {shown} of them are listed."
    return (
        f"<h2>Errors, one by one</h2><p>{faults.wrong} times something is said that is not true, {faults.missed} times "
        f"it is not said of somebody who does it.{some} A link opens the video at that moment, from where it lies now."
        "</p>"
        '<div class="faults"><table><thead><tr><th>error</th><th>said or missed</th><th>instead</th><th>video</th>'
        f"<th>moment</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def moment_link(one: Pick, evidence: Evidence) -> str:
    """A frame's number as a link to its moment, where that is known."""
    text, moment = f"frame {one.frame}", evidence.moment(one)
    if moment is None:
        return text
    if moment.seconds is not None:
        text += f", {clock(moment.seconds)}"
    return f'<a href="{escape(moment.link, quote=True)}" target="_blank" rel="noopener">{text}</a>'


def _row(fault: Fault, evidence: Evidence) -> str:
    one = fault.pick
    sure = "" if one.score is None else f" {one.score:.2f}"
    cells = (one.kind, f"{fault.label}{sure}", fault.instead, one.video)
    plain = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr>{plain}<td>{moment_link(one, evidence)}</td></tr>"
