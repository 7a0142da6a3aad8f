"""One evaluation as a typed report: JSON for machines, a table for the terminal; the page is in `page`.

Every figure stands beside the protocol that made it and the origin of the boxes it was measured against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from stmixer.trainer.evaluators.ava import AvaProtocol, evaluate_ava
from stmixer.trainer.evaluators.frames import FRAMES_ALL, FrameProtocol, action_outcomes, evaluate_frames, protocol_rows
from stmixer.trainer.evaluators.people import PERSON_THRESHOLD, PersonScore, evaluate_people
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, ClassScore, Score
from stmixer.trainer.evaluators.reliability import Reliability, reliability
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, Keyframes, PersonDetections
from stmixer.trainer.evaluators.tube_scores import COCO_THRESHOLDS, evaluate_tubes
from stmixer.trainer.evaluators.tubes import Linking, link

Origin = Literal["true", "pseudo", "mixed"]
Json = dict[str, object]
ORIGINS: Mapping[Origin, str] = {
    "true": "annotated by people",
    "pseudo": "PSEUDO: a person detector's, not people's",
    "mixed": "MIXED: some boxes annotated by people, some a detector's (pseudo)",
}
TUBE_THRESHOLDS = (0.2, *COCO_THRESHOLDS)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated.

    Attributes:
        name, split: of the data, for instance "caviar", "val".
        origin: who drew the boxes.
        notes: short lines for the report's head: checkpoint, commit, anything that a reader of the figures must know.
    """

    name: str
    split: str
    origin: Origin
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise ValueError(f"origin {self.origin!r} is none of {', '.join(ORIGINS)}")


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """The result of one evaluation.

    Attributes:
        actions: frame mAP.
        people: None where no person detections were given.
        tubes: video scores, one per threshold of ``TUBE_THRESHOLDS``; empty where none were asked for.
        person_reliability: person score against "somebody is there", over all detections that counted.
        action_reliability: action score against "the person does it", where a person was found.
    """

    subject: Subject
    actions: Score
    people: PersonScore | None = None
    tubes: tuple[Score, ...] = ()
    person_reliability: Reliability | None = None
    action_reliability: Reliability | None = None

    @property
    def video_map(self) -> dict[str, float]:
        """Video mAP by threshold: "0.2", "0.5" and "0.5:0.95", where all of them are there."""
        at = {f"{s.iou:g}": s.mean_ap for s in self.tubes}
        chosen: dict[str, float] = {key: at[key] for key in ("0.2", "0.5") if key in at}
        if all(f"{t:g}" in at for t in COCO_THRESHOLDS):
            chosen["0.5:0.95"] = float(np.mean([at[f"{t:g}"] for t in COCO_THRESHOLDS]))
        return chosen

    def as_dict(self) -> Json:
        """Plain values for JSON; curves and verdicts stay out, what is not defined is None."""
        subject = self.subject
        return {
            "set": subject.name,
            "split": subject.split,
            "origin": subject.origin,
            "notes": list(subject.notes),
            "protocol": self.actions.protocol,
            "iou": self.actions.iou,
            "mean_ap": self.actions.mean_ap,
            "classes": [_class(c) for c in self.actions.classes],
            "people": _people(self.people),
            "video_map": self.video_map,
            "tubes": [_tubes(s) for s in self.tubes],
            "person_reliability": bins(self.person_reliability),
            "action_reliability": bins(self.action_reliability),
        }

    def write_json(self, path: Path) -> None:
        """Write `as_dict`; strict JSON, never NaN."""
        path.write_text(json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """For the terminal: a row per label, the mean below."""
        title = f"{self.subject.name} {self.subject.split} · {self.actions.protocol} · IoU {self.actions.iou:g}"
        table = Table(title=title)
        table.add_column("label")
        for head in ("AP %", "boxes", "tracks", "detections"):
            table.add_column(head, justify="right")
        for c in self.actions.classes:
            tracks = "–" if c.tracks is None else f"{c.tracks}{' (few)' if c.few else ''}"
            table.add_row(c.name, percent(c.ap), str(c.boxes), tracks, str(c.detections))
        table.add_section()
        table.add_row("mean", percent(self.actions.mean_ap))
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """``rich.print(report)``: the table, then `summary`."""
        yield self.table()
        for line in summary(self):
            yield Text(line)


def report_frames(
    subject: Subject,
    truth: GroundTruth,
    found: Detections,
    labels: Mapping[int, str],
    protocol: FrameProtocol,
    *,
    people: PersonDetections | None = None,
    empty: Keyframes | None = None,
    person_threshold: float = PERSON_THRESHOLD,
    threshold: float = 0.5,
    linking: Linking | None = None,
    with_tubes: bool = True,
) -> Report:
    """Evaluate JHMDB, UCF101-24 or a custom set; the arguments are those of the single evaluators.

    Args:
        with_tubes: link and evaluate tubes too; needs tracks in the ground truth.
        linking: None for the defaults.
    """
    actions = evaluate_frames(truth, found, labels, protocol, threshold=threshold)
    persons = None
    if people is not None:
        persons = evaluate_people(
            truth, people, protocol, empty=empty, threshold=person_threshold, overlap_from=threshold
        )
    counts, there = action_outcomes(truth, found, protocol, threshold=threshold)
    tubes: tuple[Score, ...] = ()
    if with_tubes:
        linked = link(found, linking, pictures=_pictures(truth, found, protocol))
        tubes = evaluate_tubes(truth, linked, labels, protocol, thresholds=TUBE_THRESHOLDS)
    return Report(
        subject=subject,
        actions=actions,
        people=persons,
        tubes=tubes,
        person_reliability=_person_reliability(people, persons),
        action_reliability=reliability(found.score[counts], there[counts]),
    )


def report_ava(
    subject: Subject,
    truth: GroundTruth,
    found: Detections,
    labels: Mapping[int, str],
    protocol: AvaProtocol,
    *,
    excluded: Keyframes | None = None,
    people: PersonDetections | None = None,
    person_threshold: float = PERSON_THRESHOLD,
) -> Report:
    """Evaluate AVA; people and reliability are measured on all timestamps given, without cap or exclusions."""
    actions = evaluate_ava(truth, found, labels, protocol, excluded=excluded)
    persons = None
    if people is not None:
        persons = evaluate_people(truth, people, FRAMES_ALL, threshold=person_threshold)
    counts, there = action_outcomes(truth, found, FRAMES_ALL)
    counts &= np.isin(found.label, list(labels))
    return Report(
        subject=subject,
        actions=actions,
        people=persons,
        person_reliability=_person_reliability(people, persons),
        action_reliability=reliability(found.score[counts], there[counts]),
    )


def summary(report: Report) -> list[str]:
    """The report's head, in lines."""
    subject = report.subject
    lines = [f"boxes: {ORIGINS[subject.origin]}", *subject.notes]
    if any(c.few for c in report.actions.classes):
        lines.append("(few): fewer than 3 people with that label in the split, too few to claim anything")
    if report.tubes:
        means = " · ".join(f"{at} {percent(v)}" for at, v in report.video_map.items())
        lines.append(f"video mAP % ({report.tubes[0].protocol}): {means}")
    p = report.people
    if p is not None:
        lines.append(
            f"people at IoU {p.iou:g}: AP {percent(p.ap)} %; at score ≥ {p.threshold:g} recall {percent(p.recall)} %, "
            f"precision {percent(p.precision)} %, {p.false_per_keyframe:.3f} false people per keyframe "
            f"({p.people} people on {p.keyframes} keyframes)"
        )
        if p.false_per_empty_keyframe is not None:
            lines.append(
                f"{p.false_per_empty_keyframe:.3f} false people per empty keyframe ({p.empty_keyframes} of them)"
            )
    for what, r in (("person", report.person_reliability), ("action", report.action_reliability)):
        if r is not None and r.ece is not None:
            lines.append(f"{what} score: expected calibration error {r.ece:.3f}")
    return lines


def percent(share: float | None) -> str:
    """One decimal, or a dash where there is nothing to measure."""
    return "–" if share is None else f"{100 * share:.1f}"


def _pictures(truth: GroundTruth, found: Detections, protocol: FrameProtocol) -> Keyframes:
    """All pictures that the detector looked at: the evaluated ones, also where it found nobody, and what it found."""
    there = protocol_rows(truth, found, protocol)[0]
    return Keyframes(np.concatenate([there.video, found.video]), np.concatenate([there.frame, found.frame]))


def _person_reliability(people: PersonDetections | None, persons: PersonScore | None) -> Reliability | None:
    if people is None or persons is None:
        return None
    counts = persons.verdict != IGNORED
    return reliability(people.score[counts], persons.verdict[counts] == RIGHT)


def _class(c: ClassScore) -> Json:
    return {
        "label": c.label,
        "name": c.name,
        "ap": c.ap,
        "boxes": c.boxes,
        "tracks": c.tracks,
        "few_tracks": c.few,
        "detections": c.detections,
    }


def _tubes(s: Score) -> Json:
    classes = [{"name": c.name, "ap": c.ap, "tubes": c.positives, "detections": c.detections} for c in s.classes]
    return {"protocol": s.protocol, "iou": s.iou, "mean_ap": s.mean_ap, "classes": classes}


def _people(p: PersonScore | None) -> Json | None:
    if p is None:
        return None
    return {f.name: getattr(p, f.name) for f in fields(p) if f.name not in ("curve", "verdict")}


def bins(r: Reliability | None) -> Json | None:
    """A reliability as plain values for JSON."""
    if r is None:
        return None
    plain = [[None if math.isnan(v) else v for v in column.tolist()] for column in (r.predicted, r.observed)]
    return {"ece": r.ece, "predicted": plain[0], "observed": plain[1], "count": r.count.tolist()}
