"""What was wrong, one by one: said of whom it is not true, or not said of whom it is; and what is true instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluate.pictures import SHOWN_SCORE, Pick, missed_rows, pick_of
from stmixer.trainer.evaluators.frames import FrameProtocol, protocol_rows
from stmixer.trainer.evaluators.overlap import overlaps
from stmixer.trainer.evaluators.precision import WRONG, Score
from stmixer.trainer.evaluators.tables import UNKNOWN_ACTION, Detections, GroundTruth, Ints, keys

MOST_FAULTS = 200
"""That are listed; all are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """A wrong detection and what is true there, or a missed person and what was said of them; ``label`` in words."""

    pick: Pick
    label: str
    instead: str


@dataclass(frozen=True, slots=True, eq=False)
class Faults:
    """The surest wrong detections and the largest missed people, half of each where there are many; and how many there
    are of both."""

    listed: tuple[Fault, ...]
    wrong: int
    missed: int


def find_faults(
    truth: GroundTruth, found: Detections, score: Score, labels: Mapping[int, str], protocol: FrameProtocol
) -> Faults:
    """Of detections that are likely enough to be shown.

    Args:
        score: of ``found`` against ``truth`` (`evaluate_frames` with the same protocol).
    """
    truth = protocol_rows(truth, found, protocol)[0]
    shown = found.score >= SHOWN_SCORE
    wrong = np.flatnonzero((score.verdict == WRONG) & shown)
    wrong = wrong[np.argsort(-found.score[wrong], kind="stable")]
    missed = missed_rows(truth, found, score)
    half = MOST_FAULTS // 2
    of_wrong = max(half, MOST_FAULTS - len(missed))
    of_missed = max(half, MOST_FAULTS - len(wrong))
    first_wrong, first_missed = wrong[:of_wrong], missed[:of_missed]
    true_there = _near(found, first_wrong, truth, np.arange(len(truth)), score.iou)
    said_there = _near(truth, first_missed, found, np.flatnonzero(shown), score.iou)
    listed = [
        Fault(
            pick_of("wrong", found, row, float(found.score[row])),
            labels[int(found.label[row])],
            _true(truth, rows, labels),
        )
        for row, rows in zip(first_wrong.tolist(), true_there, strict=True)
    ]
    listed += [
        Fault(pick_of("missed", truth, row, None), labels[int(truth.label[row])], _said(found, rows, labels))
        for row, rows in zip(first_missed.tolist(), said_there, strict=True)
    ]
    return Faults(tuple(listed), len(wrong), len(missed))


def _near(
    table: GroundTruth | Detections, rows: Ints, other: GroundTruth | Detections, among: Ints, threshold: float
) -> list[list[int]]:
    """For each row the rows of the other table that overlap it by the threshold or more, the nearest first."""
    ours, theirs = table.take(rows), other.take(among)
    our_key, their_key = keys(ours, theirs)
    i, j, overlap = overlaps(ours.boxes, theirs.boxes, our_key, their_key, table.unit)
    near: list[list[int]] = [[] for _ in range(len(rows))]
    for at in np.argsort(-overlap, kind="stable").tolist():
        if overlap[at] >= threshold:
            near[int(i[at])].append(int(among[j[at]]))
    return near


def _true(truth: GroundTruth, rows: Sequence[int], labels: Mapping[int, str]) -> str:
    if not rows:
        return "nobody is there"
    nearest = truth.boxes[rows[0]]
    own = [int(truth.label[row]) for row in rows if (truth.boxes[row] == nearest).all()]
    names = [labels[label] for label in dict.fromkeys(own) if label in labels]
    if names:
        return ", ".join(names)
    return "somebody whose action is not annotated" if UNKNOWN_ACTION in own else "somebody who does none of it"


def _said(found: Detections, rows: Sequence[int], labels: Mapping[int, str]) -> str:
    if not rows:
        return "not found, or nothing said"
    best = sorted(rows, key=lambda row: -float(found.score[row]))[:2]
    return ", ".join(f"{labels.get(int(found.label[row]), '?')} {found.score[row]:.2f}" for row in best)
