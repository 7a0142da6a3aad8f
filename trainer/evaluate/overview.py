"""All sets of one evaluation at a glance: a file for machines, a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from stmixer.trainer.evaluate.report import Json, Report, percent
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
    """For the terminal: a row per set. False people are those of person score ≥ 0.6, per keyframe."""
    table = Table(title="all sets")
    for head in ("set", "boxes"):
        table.add_column(head)
    for head in ("mAP %", "person AP %", "recall %", "false people", "keyframes"):
        table.add_column(head, justify="right")
    for report in reports:
        p, name = report.people, f"{report.subject.name} ({report.actions.protocol})"
        people = ("–",) * 4
        if p is not None:
            people = (percent(p.ap), percent(p.recall), f"{p.false_per_keyframe:.3f}", str(p.keyframes))
        table.add_row(name, report.subject.origin, percent(report.actions.mean_ap), *people)
    for empty in empty_reports:
        false = f"{empty.false_per_keyframe:.3f}"
        table.add_row(f"{empty.name} (nobody there)", "none", "–", "–", "–", false, str(empty.keyframes))
    return table


def _notes(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    return [report.subject.notes for report in reports]


def _set(report: Report) -> Json:
    p = report.people
    return {
        "set": report.subject.name,
        "split": report.subject.split,
        "origin": report.subject.origin,
        "protocol": report.actions.protocol,
        "iou": report.actions.iou,
        "mean_ap": report.actions.mean_ap,
        "classes": [
            {"name": c.name, "ap": c.ap, "boxes": c.boxes, "tracks": c.tracks, "few_tracks": c.few}
            for c in report.actions.classes
        ],
        "person_ap": None if p is None else p.ap,
        "person_recall": None if p is None else p.recall,
        "person_precision": None if p is None else p.precision,
        "false_people_per_keyframe": None if p is None else p.false_per_keyframe,
        "person_threshold": None if p is None else p.threshold,
        "people": None if p is None else p.people,
        "keyframes": None if p is None else p.keyframes,
        "video_map": report.video_map,
    }
