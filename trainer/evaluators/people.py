"""Are people found at all: person AP, recall, and people who are not there.

Actions do not matter here: a person with an empty label is as true as any, and one with three labels is one person.
Matching and AP are those of `trainer.evaluators.frames`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.frames import FrameProtocol, protocol_rows
from stmixer.trainer.evaluators.overlap import assign, overlaps, ranks
from stmixer.trainer.evaluators.precision import RIGHT, WRONG, Curve, Verdict, curve, trapezoid_area, verdicts
from stmixer.trainer.evaluators.tables import GroundTruth, Keyframes, Mask, PersonDetections, check_pair, keys

PERSON_THRESHOLD = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class PersonScore:
    """How well people are found.

    Attributes:
        protocol: which pictures counted.
        iou: the overlap from which a detection is right.
        threshold: the person score from which somebody is reported.
        ap: over all detections, 0–1.
        recall: share of true people found at the threshold.
        precision: share of the reported that are true; None if nobody is reported.
        false_per_keyframe: people reported who match nobody (duplicates too), per picture.
        false_per_empty_keyframe: the same on the pictures known to be empty; None if there are none.
        people, keyframes, empty_keyframes: how many there were; ``keyframes`` includes the empty ones.
        curve: precision and recall over all detections.
        verdict: (n,) int8 per detection, whatever its score.
    """

    protocol: str
    iou: float
    threshold: float
    ap: float
    recall: float
    precision: float | None
    false_per_keyframe: float
    false_per_empty_keyframe: float | None
    people: int
    keyframes: int
    empty_keyframes: int
    curve: Curve
    verdict: Verdict


def evaluate_people(
    truth: GroundTruth,
    found: PersonDetections,
    protocol: FrameProtocol,
    *,
    empty: Keyframes | None = None,
    threshold: float = PERSON_THRESHOLD,
    overlap_from: float = 0.5,
) -> PersonScore:
    """Judge person detections.

    Args:
        truth: as for `evaluate_frames`.
        found: people of any score; best all queries, so that AP sees the whole curve.
        protocol: picks the pictures; with ``frames-all`` all that truth, detections or ``empty`` name.
        empty: pictures known to hold nobody (for instance a fixed camera's temporal median), taken in beside them.
        threshold, overlap_from: person score from which somebody is reported, IoU from which it is right; inclusive.

    Raises:
        ValueError: an empty split, different units, or people on a picture said to be empty.
    """
    check_pair(truth, found)
    empty = empty if empty is not None else Keyframes(truth.video[:0], truth.frame[:0])
    if set(zip(empty.video, empty.frame, strict=True)) & set(zip(truth.video, truth.frame, strict=True)):
        raise ValueError("a picture said to be empty has people in the ground truth")
    truth, counts = protocol_rows(_people(truth), found, protocol)
    truth_key, found_key, empty_key = keys(truth, found, empty)
    on_empty = np.isin(found_key, empty_key)
    counts |= on_empty
    verdict = _verdict(truth, found, counts, overlap_from)
    pictures = len(np.unique(np.concatenate([truth_key, empty_key, found_key[counts]])))
    empty_keyframes = len(np.unique(empty_key))
    reported = found.score >= threshold
    right, wrong = int((reported & (verdict == RIGHT)).sum()), reported & (verdict == WRONG)
    line = curve(found.score[counts], verdict[counts] == RIGHT, len(truth))
    return PersonScore(
        protocol=protocol.name,
        iou=overlap_from,
        threshold=threshold,
        ap=trapezoid_area(line),
        recall=right / len(truth),
        precision=_share(right, right + int(wrong.sum())),
        false_per_keyframe=int(wrong.sum()) / pictures,
        false_per_empty_keyframe=_share(int((wrong & on_empty).sum()), empty_keyframes),
        people=len(truth),
        keyframes=pictures,
        empty_keyframes=empty_keyframes,
        curve=line,
        verdict=verdict,
    )


def _verdict(truth: GroundTruth, found: PersonDetections, counts: Mask, overlap_from: float) -> Verdict:
    truth_key, found_key = keys(truth, found)
    i, j, overlap = overlaps(found.boxes, truth.boxes, np.where(counts, found_key, -1), truth_key, truth.unit)
    taken = assign(i, j, overlap, ranks(found.score), overlap_from, best_only=False)
    return verdicts(counts, taken)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _people(truth: GroundTruth) -> GroundTruth:
    """One row per person: rows that agree in picture, box and track are one."""
    columns = np.column_stack([keys(truth)[0].astype(np.float64), truth.boxes, truth.track.astype(np.float64)])
    first = np.unique(columns, axis=0, return_index=True)[1]
    return truth.take(np.sort(first))
