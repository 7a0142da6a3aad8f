"""All sets of one evaluation at a glance: a file for machines, a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from stmixer.trainer.evaluate.report import Json, Report, cut_values, out_of_set_values, percent
from stmixer.trainer.evaluators.empty import EmptyReport


def overview(reports: Sequence[Report], empty_reports: Sequence[EmptyReport]) -> Json:
    """Plain values: per set mAP, whose boxes, people found and false, AP per class beside its tracks; no mean over
    sets, whose boxes are of different origins."""
    return {
        "sets": [_set(report) for report in reports],
        "empty": [
            {key: value for key, value in empty.as_dict().items() if key not in ("notes", "surest")}
            for empty in empty_reports
        ],
        "notes": sorted({note for notes in (*_notes(reports), *(e.notes for e in empty_reports)) for note in notes}),
    }


def write_overview(path: Path, reports: Sequence[Report], empty_reports: Sequence[EmptyReport]) -> None:
    """Write `overview` as strict JSON."""
    text = json.dumps(overview(reports, empty_reports), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def overview_table(reports: Sequence[Report], empty_reports: Sequence[EmptyReport]) -> Table:
    """For the terminal: a row per set. False people are those of person score ≥ 0.6, per keyframe; "recall at 0.72" is
    at that precision; "named" is the share of people out of set of whom a label is said that they do not have."""
    table = Table(title="all sets")
    for head in ("set", "boxes"):
        table.add_column(head)
    for head in ("mAP %", "person AP %", "recall %", "recall at 0.72 %", "false people", "named %", "keyframes"):
        table.add_column(head, justify="right")
    for report in reports:
        p, name = report.people, f"{report.subject.name} ({report.protocol})"
        people, keyframes = ("–",) * 4, "–"
        if p is not None:
            found = (percent(p.ap), percent(p.recall), percent(p.precise.recall))
            people, keyframes = (*found, f"{p.false_per_keyframe:.3f}"), str(p.keyframes)
        named = "–" if report.out_of_set is None else percent(report.out_of_set.any_label.share)
        table.add_row(name, report.subject.origin, percent(report.mean_ap), *people, named, keyframes)
    for empty in empty_reports:
        false = f"{empty.false_per_keyframe:.3f}"
        table.add_row(f"{empty.name} (nobody there)", "none", "–", "–", "–", "–", false, "–", str(empty.keyframes))
    return table


def _notes(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    return [report.subject.notes for report in reports]


def _set(report: Report) -> Json:
    p = report.people
    return {
        "set": report.subject.name,
        "split": report.subject.split,
        "origin": report.subject.origin,
        "protocol": report.protocol,
        "iou": report.iou,
        "mean_ap": report.mean_ap,
        "classes": [
            {"name": c.name, "ap": c.ap, "boxes": c.boxes, "tracks": c.tracks, "few_tracks": c.few}
            for c in report.classes
        ],
        "person_ap": None if p is None else p.ap,
        "person_recall": None if p is None else p.recall,
        "person_precision": None if p is None else p.precision,
        "false_people_per_keyframe": None if p is None else p.false_per_keyframe,
        "person_threshold": None if p is None else p.threshold,
        "people": None if p is None else p.people,
        "served": None if p is None else cut_values(p.served),
        "precise": None if p is None else cut_values(p.precise),
        "false_people_per_empty_keyframe": None if p is None else p.false_per_empty_keyframe,
        "out_of_set": out_of_set_values(report.out_of_set),
        "keyframes": None if p is None else p.keyframes,
        "video_map": report.video_map,
    }
