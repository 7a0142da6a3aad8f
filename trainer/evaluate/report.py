"""One evaluation as a typed report: JSON for machines, a table for the terminal; the page is in `page`.

Every figure stands beside the protocol that made it and the origin of the boxes it was measured against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from stmixer.trainer.evaluators.ava import AvaProtocol, evaluate_ava
from stmixer.trainer.evaluators.confusion import Confusion, confusion
from stmixer.trainer.evaluators.frames import FRAMES_ALL, FrameProtocol, action_outcomes, evaluate_frames, protocol_rows
from stmixer.trainer.evaluators.out_of_set import NamedOf, OutOfSet, evaluate_out_of_set
from stmixer.trainer.evaluators.people import PERSON_THRESHOLD, PersonScore, evaluate_people
from stmixer.trainer.evaluators.person_cut import PRECISION_FROM, FoundOf, PersonCut
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, ClassScore, Score
from stmixer.trainer.evaluators.reliability import Reliability, reliability
from stmixer.trainer.evaluators.tables import (
    HEIGHT_AT,
    Detections,
    GroundTruth,
    IgnoreAreas,
    Keyframes,
    PersonDetections,
    check_pair,
)
from stmixer.trainer.evaluators.tube_scores import COCO_THRESHOLDS, evaluate_tubes
from stmixer.trainer.evaluators.tubes import Linking, link

Origin = Literal["true", "pseudo", "mixed"]
Json = dict[str, object]
ORIGINS: Mapping[Origin, str] = {
    "true": "annotated by people",
    "pseudo": "PSEUDO: a person detector's, not people's",
    "mixed": "MIXED: some boxes annotated by people, some a detector's (pseudo) or drawn by other means",
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
    """The result of one evaluation: of actions, of people, or of both.

    Attributes:
        protocol, rules: which pictures counted, by name and in words.
        iou: the overlap from which a detection is right.
        actions: frame mAP; None where no label has a box in the split, or people alone are measured.
        people: None where no person detections were given.
        out_of_set: None where the set does not say which labels are absent of whom.
        tubes: video scores, one per threshold of ``TUBE_THRESHOLDS``; empty where none were asked for.
        person_reliability: person score against "somebody is there", over all detections that counted.
        action_reliability: action score against "the person does it", where a person was found.
        confusion: who is taken for what; None where actions or people are not measured.
    """

    subject: Subject
    protocol: str
    rules: str
    iou: float
    actions: Score | None
    people: PersonScore | None = None
    out_of_set: OutOfSet | None = None
    tubes: tuple[Score, ...] = ()
    person_reliability: Reliability | None = None
    action_reliability: Reliability | None = None
    confusion: Confusion | None = None

    @property
    def mean_ap(self) -> float | None:
        """Frame mAP, 0–1."""
        return None if self.actions is None else self.actions.mean_ap

    @property
    def classes(self) -> tuple[ClassScore, ...]:
        """One per label."""
        return () if self.actions is None else self.actions.classes

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
            "protocol": self.protocol,
            "rules": self.rules,
            "iou": self.iou,
            "mean_ap": self.mean_ap,
            "classes": [_class(c) for c in self.classes],
            "people": _people(self.people),
            "out_of_set": out_of_set_values(self.out_of_set),
            "video_map": self.video_map,
            "tubes": [_tubes(s) for s in self.tubes],
            "person_reliability": bins(self.person_reliability),
            "action_reliability": bins(self.action_reliability),
            "confusion": _confusion(self.confusion),
        }

    def write_json(self, path: Path) -> None:
        """Write `as_dict`; strict JSON, never NaN."""
        path.write_text(json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """For the terminal: a row per label, the mean below."""
        title = f"{self.subject.name} {self.subject.split} · {self.protocol} · IoU {self.iou:g}"
        table = Table(title=title)
        table.add_column("label")
        for head in ("AP %", "boxes", "tracks", "detections"):
            table.add_column(head, justify="right")
        for c in self.classes:
            tracks = "–" if c.tracks is None else f"{c.tracks}{' (few)' if c.few else ''}"
            table.add_row(c.name, percent(c.ap), str(c.boxes), tracks, str(c.detections))
        table.add_section()
        table.add_row("mean", percent(self.mean_ap))
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """``rich.print(report)``: the table, then `summary`."""
        if self.actions is None:
            yield Text(f"{self.subject.name} {self.subject.split} · {self.protocol} · IoU {self.iou:g}: people alone")
        else:
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
    ignored: IgnoreAreas | None = None,
    absent: GroundTruth | None = None,
    among: Collection[str] = (),
    person_threshold: float = PERSON_THRESHOLD,
    actions_from: float = 0.0,
    threshold: float = 0.5,
    linking: Linking | None = None,
    with_actions: bool = True,
    with_tubes: bool = True,
) -> Report:
    """Evaluate JHMDB, UCF101-24, a custom set or pictures; the arguments are those of the single evaluators.

    Args:
        actions_from: person score from which people have rows in ``found``. Who is out of set is found from the
            higher of it and ``person_threshold``.
        with_actions: evaluate actions where a label has a box in the split; else people alone.
        with_tubes: link and evaluate tubes too; needs tracks in the ground truth. They know no areas to ignore.
        linking: None for the defaults.
    """
    check_pair(truth, found)
    actions, persons, out_of_set = None, None, None
    if with_actions and np.isin(protocol_rows(truth, found, protocol)[0].label, list(labels)).any():
        actions = evaluate_frames(truth, found, labels, protocol, threshold=threshold, absent=absent, ignored=ignored)
    if people is not None:
        persons = evaluate_people(
            *(truth, people, protocol),
            empty=empty,
            ignored=ignored,
            labels=labels,
            threshold=person_threshold,
            overlap_from=threshold,
        )
    if with_actions and people is not None and absent is not None:
        out_of_set = evaluate_out_of_set(
            *(truth, absent, people, found, labels, protocol),
            among=among,
            person_threshold=max(person_threshold, actions_from),
            overlap_from=threshold,
        )
    counts, there = action_outcomes(truth, found, protocol, threshold=threshold, absent=absent)
    tubes: tuple[Score, ...] = ()
    if actions is not None and with_tubes:
        linked = link(found, linking, pictures=_pictures(truth, found, protocol))
        tubes = evaluate_tubes(truth, linked, labels, protocol, thresholds=TUBE_THRESHOLDS)
    return Report(
        subject=subject,
        protocol=protocol.name,
        rules=protocol.rules,
        iou=threshold,
        actions=actions,
        people=persons,
        out_of_set=out_of_set,
        tubes=tubes,
        person_reliability=_person_reliability(people, persons),
        action_reliability=reliability(found.score[counts], there[counts]) if with_actions else None,
        confusion=None
        if actions is None or people is None
        else confusion(
            *(truth, found, people, labels, protocol),
            ignored=ignored,
            person_score=max(person_threshold, actions_from),
            overlap_from=threshold,
        ),
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
        protocol=actions.protocol,
        rules=protocol.rules,
        iou=actions.iou,
        actions=actions,
        people=persons,
        person_reliability=_person_reliability(people, persons),
        action_reliability=reliability(found.score[counts], there[counts]),
        confusion=None
        if people is None
        else confusion(truth, found, people, labels, FRAMES_ALL, person_score=person_threshold),
    )


def summary(report: Report) -> list[str]:
    """The report's head, in lines."""
    subject = report.subject
    lines = [f"boxes: {ORIGINS[subject.origin]}", f"{report.protocol}: {report.rules}", *subject.notes]
    if any(c.few for c in report.classes):
        lines.append("(few): fewer than 3 people with that label in the split, too few to claim anything")
    if report.tubes:
        means = " · ".join(f"{at} {percent(v)}" for at, v in report.video_map.items())
        lines.append(f"video mAP % ({report.tubes[0].protocol}) at IoU {means}")
    p = report.people
    if p is not None:
        lines.append(
            f"people ({p.protocol}) at IoU {p.iou:g}: AP {percent(p.ap)} %; at score ≥ {p.threshold:g} "
            f"recall {percent(p.recall)} %, precision {percent(p.precision)} %, "
            f"{p.false_per_keyframe:.3f} false people per keyframe "
            f"({p.people} people on {p.keyframes} keyframes)"
        )
        if p.false_per_empty_keyframe is not None:
            lines.append(
                f"{p.false_per_empty_keyframe:.3f} false people per empty keyframe ({p.empty_keyframes} of them)"
            )
        lines += [_cut("served", p.served), _cut(f"at precision ≥ {PRECISION_FROM:g}", p.precise)]
    if report.out_of_set is not None:
        lines += _out_of_set(report.out_of_set)
    by = report.protocol if p is None else p.protocol
    for what, r in (("person", report.person_reliability), ("action", report.action_reliability)):
        if r is not None and r.ece is not None:
            lines.append(f"{what} score ({by}): expected calibration error {r.ece:.3f}")
    return lines


def _cut(at: str, cut: PersonCut) -> str:
    """A cut in a line: who is found, of which height, posture and label."""
    if cut.score is None:
        return f"{at}: nobody is found, no score is that precise"
    kinds = "".join(
        f"; {what}: {', '.join(str(each) for each in found)}"
        for what, found in (
            (f"height at a short side of {HEIGHT_AT} px", cut.by_height),
            ("posture", cut.by_posture),
            ("label", cut.by_label),
        )
        if found
    )
    return f"{at} (score ≥ {cut.score:.2f}): found {cut.found} of {cut.people}, {percent(cut.recall)} %{kinds}"


def _out_of_set(o: OutOfSet) -> list[str]:
    """Who has a label that is known to be absent, in all and of the labels that were asked for."""
    by_label = ", ".join(f"{each.of} {each.named} of {each.people}" for each in o.by_label if each.named)
    at = f"at score ≥ {o.score:g}, person score ≥ {o.person_score:g}"
    lines = [f"out of set: {_named(o.any_label)} {at}{f'; {by_label}' if by_label else ''}"]
    if o.among is not None:
        lines.append(f"out of set, among {o.among.of}: {_named(o.among)}")
    return lines


def _named(n: NamedOf) -> str:
    return f"{n.named} of {n.people} people found ({percent(n.share)} %) have a label that is known to be absent"


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
    plain = {f.name: getattr(p, f.name) for f in fields(p) if f.name not in ("curve", "verdict")}
    return plain | {"served": cut_values(p.served), "precise": cut_values(p.precise)}


def cut_values(cut: PersonCut) -> Json:
    """A cut as plain values for JSON."""

    def found(of: tuple[FoundOf, ...]) -> list[Json]:
        return [asdict(each) for each in of]

    return {
        "score": cut.score,
        "precision": cut.precision,
        "recall": cut.recall,
        "found": cut.found,
        "people": cut.people,
        "false_people": cut.false_people,
        "by_height": found(cut.by_height),
        "by_posture": found(cut.by_posture),
        "by_label": found(cut.by_label),
    }


def out_of_set_values(o: OutOfSet | None) -> Json | None:
    """The share out of set as plain values for JSON."""
    if o is None:
        return None

    def plain(n: NamedOf) -> Json:
        return asdict(n) | {"share": n.share}

    return {
        "score": o.score,
        "person_score": o.person_score,
        "people": o.people,
        "any_label": plain(o.any_label),
        "among": None if o.among is None else plain(o.among),
        "by_label": [plain(n) for n in o.by_label],
    }


def _confusion(c: Confusion | None) -> Json | None:
    if c is None:
        return None
    return {
        "person_score": c.person_score,
        "said_from": c.said_from,
        "true": list(c.rows),
        "said": list(c.columns),
        "counts": c.counts.tolist(),
    }


def bins(r: Reliability | None) -> Json | None:
    """A reliability as plain values for JSON."""
    if r is None:
        return None
    plain = [[None if math.isnan(v) else v for v in column.tolist()] for column in (r.predicted, r.observed)]
    return {"ece": r.ece, "predicted": plain[0], "observed": plain[1], "count": r.count.tolist()}
