"""Precision–recall curves, the two areas in use, and the scores that evaluators return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stmixer.trainer.evaluators.tables import UNKNOWN_TRACK, Floats, GroundTruth, Mask, codes

Verdict = NDArray[np.int8]
RIGHT, WRONG, IGNORED = 1, 0, -1
FEW_TRACKS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall after each detection, by falling score.

    Attributes:
        score, precision, recall: (n,) float64; recall rises and is of all true boxes.
    """

    score: Floats
    precision: Floats
    recall: Floats


@dataclass(frozen=True, slots=True, eq=False)
class ClassScore:
    """One label's result.

    Attributes:
        ap: 0–1; None where the split has no box of the label, which then does not enter the mean.
        positives: what recall is a share of: boxes, or tubes in video mAP.
        boxes: true boxes on the evaluated pictures.
        tracks: distinct people (video, track) with the label; None where tracks are unknown (AVA).
        detections: those that counted, right or wrong.
    """

    label: int
    name: str
    ap: float | None
    positives: int
    boxes: int
    tracks: int | None
    detections: int
    curve: Curve

    @property
    def few(self) -> bool:
        """Fewer than 3 tracks: too little to claim anything (docs/data.md)."""
        return self.ap is not None and self.tracks is not None and self.tracks < FEW_TRACKS


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What an evaluator says.

    Attributes:
        protocol: its name.
        iou: the overlap from which a detection is right.
        classes: one per label of the list, in its order.
        verdict: (n,) int8 per row of the detections given (per tube in video mAP): ``RIGHT``, ``WRONG``, ``IGNORED``.
    """

    protocol: str
    iou: float
    classes: tuple[ClassScore, ...]
    verdict: Verdict

    @property
    def mean_ap(self) -> float:
        """Mean AP over the labels that have boxes in the split, 0–1."""
        return float(np.mean([c.ap for c in self.classes if c.ap is not None]))

    def ap(self, name: str) -> float | None:
        """One label's AP; KeyError for an unknown name."""
        return {c.name: c.ap for c in self.classes}[name]


def curve(score: Floats, right: Mask, positives: int) -> Curve:
    """The curve of detections that count; equal scores keep the table's order.

    Args:
        score: (n,). right: (n,) bool. positives: number of true boxes.
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(right[order], dtype=np.float64)
    seen = np.arange(1, len(order) + 1, dtype=np.float64)
    return Curve(score[order], hits / seen, hits / max(positives, 1))


def pascal_area(c: Curve) -> float:
    """Pascal VOC's area, all points: precision is first made non-increasing from the right. AVA's evaluators."""
    if not len(c.recall):
        return 0.0
    envelope = np.maximum.accumulate(c.precision[::-1])[::-1]
    return float(np.sum(np.diff(c.recall, prepend=0.0) * envelope))


def trapezoid_area(c: Curve) -> float:
    """Area of the raw curve by trapezoids, from (recall 0, precision 1). JHMDB's and UCF101-24's evaluator."""
    precision = np.concatenate([[1.0], c.precision])
    steps = np.diff(c.recall, prepend=0.0)
    return float(np.sum(steps * (precision[1:] + precision[:-1]) / 2))


def verdicts(counts: Mask, taken: NDArray[np.int64]) -> Verdict:
    """Each detection's verdict: (n,) whether it counts, and (n,) the true box that it took, or −1."""
    return np.where(counts, np.where(taken >= 0, RIGHT, WRONG), IGNORED).astype(np.int8)


def class_scores(
    labels: Mapping[int, str],
    truth: GroundTruth,
    found: tuple[NDArray[np.int64], Floats],
    verdict: Verdict,
    area: Callable[[Curve], float],
    positives: Mapping[int, int] | None = None,
) -> tuple[ClassScore, ...]:
    """Judge each label of the list.

    Args:
        truth: the evaluated rows (label −1 counts for nobody).
        found: label and score of each detection.
        verdict: of each detection.
        positives: per label, where recall is not of boxes.

    Raises:
        ValueError: no label of the list has a box in the split.
    """
    scores = []
    for label, name in labels.items():
        rows, mine = truth.label == label, (found[0] == label) & (verdict != IGNORED)
        wanted = int(rows.sum()) if positives is None else positives.get(label, 0)
        line = curve(found[1][mine], verdict[mine] == RIGHT, wanted)
        scores.append(
            ClassScore(
                label=label,
                name=name,
                ap=area(line) if wanted else None,
                positives=wanted,
                boxes=int(rows.sum()),
                tracks=_tracks(truth, rows),
                detections=len(line.score),
                curve=line,
            )
        )
    if all(s.ap is None for s in scores):
        raise ValueError("the split is empty: no label of the list has a box in it")
    return tuple(scores)


def _tracks(truth: GroundTruth, rows: Mask) -> int | None:
    track = truth.track[rows]
    if (track == UNKNOWN_TRACK).any():
        return None
    return len(np.unique(np.stack([codes(truth.video[rows])[0], track]), axis=1).T)
