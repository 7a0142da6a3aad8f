"""Are people found at all: person AP, recall, and people who are not there.

Actions do not matter here: a person with an empty label is as true as any, and one with three labels is one person.
Matching and AP are those of `trainer.evaluators.frames`; areas to ignore, `trainer.evaluators.ignore_areas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.frames import FrameProtocol, on_pictures, protocol_rows
from stmixer.trainer.evaluators.ignore_areas import in_ignore_area
from stmixer.trainer.evaluators.overlap import assign, overlaps, ranks
from stmixer.trainer.evaluators.person_cut import CountedPeople, PersonCut
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG, Curve, Verdict, curve, trapezoid_area, verdicts
from stmixer.trainer.evaluators.tables import (
    GroundTruth,
    IgnoreAreas,
    Ints,
    Keyframes,
    Mask,
    PersonDetections,
    check_pair,
    keys,
)

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
        served: the people found at ``threshold``.
        precise: the people found at the lowest score of a precision of 0.72.
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
    served: PersonCut
    precise: PersonCut
    curve: Curve
    verdict: Verdict


def evaluate_people(
    truth: GroundTruth,
    found: PersonDetections,
    protocol: FrameProtocol,
    *,
    empty: Keyframes | None = None,
    ignored: IgnoreAreas | None = None,
    labels: Mapping[int, str] | None = None,
    threshold: float = PERSON_THRESHOLD,
    overlap_from: float = 0.5,
) -> PersonScore:
    """Judge person detections.

    Args:
        truth: as for `evaluate_frames`.
        found: people of any score; best all queries, so that AP sees the whole curve.
        protocol: picks the pictures; with ``frames-all`` all that truth, detections or ``empty`` name.
        empty: pictures known to hold nobody (for instance a fixed camera's temporal median), taken in beside them.
        ignored: areas to ignore.
        labels: whose people are counted by themselves too.
        threshold, overlap_from: person score from which somebody is reported, IoU from which it is right; inclusive.

    Raises:
        ValueError: an empty split, different units, or people on a picture said to be empty.
    """
    check_pair(truth, found)
    empty = empty if empty is not None else Keyframes(truth.video[:0], truth.frame[:0])
    if set(zip(empty.video, empty.frame, strict=True)) & set(zip(truth.video, truth.frame, strict=True)):
        raise ValueError("a picture said to be empty has people in the ground truth")
    areas = IgnoreAreas(truth.video[:0], truth.frame[:0], truth.boxes[:0], truth.unit) if ignored is None else ignored
    areas = on_pictures(areas, protocol)
    rows, counts = protocol_rows(truth, found, protocol, areas)
    truth, person = one_row_each(rows)
    truth_key, found_key, empty_key, areas_key = keys(truth, found, empty, areas)
    on_empty = np.isin(found_key, empty_key)
    counts |= on_empty
    taken = people_taken(truth, found, counts, overlap_from)
    verdict = verdicts(counts, taken)
    verdict[(verdict == WRONG) & in_ignore_area(found, areas)] = IGNORED
    pictures = len(np.unique(np.concatenate([truth_key, empty_key, found_key[counts], areas_key])))
    empty_keyframes = len(np.unique(empty_key))
    wrong = (found.score >= threshold) & (verdict == WRONG)
    judged = verdict != IGNORED
    line = curve(found.score[judged], verdict[judged] == RIGHT, len(truth))
    counted = _counted(truth, found, verdict, taken, _does(rows, person, labels or {}), labels or {})
    served = counted.at(threshold)
    return PersonScore(
        protocol=protocol.name,
        iou=overlap_from,
        threshold=threshold,
        ap=trapezoid_area(line),
        recall=served.recall,
        precision=served.precision,
        false_per_keyframe=int(wrong.sum()) / pictures,
        false_per_empty_keyframe=_share(int((wrong & on_empty).sum()), empty_keyframes),
        people=len(truth),
        keyframes=pictures,
        empty_keyframes=empty_keyframes,
        served=served,
        precise=counted.as_precise_as(),
        curve=line,
        verdict=verdict,
    )


def people_taken(truth: GroundTruth, found: PersonDetections, counts: Mask, overlap_from: float) -> Ints:
    """(n,) the person whom each detection takes, by falling score, or -1; those that do not count take nobody."""
    truth_key, found_key = keys(truth, found)
    i, j, overlap = overlaps(found.boxes, truth.boxes, np.where(counts, found_key, -1), truth_key, truth.unit)
    return assign(i, j, overlap, ranks(found.score), overlap_from, best_only=False)


def _counted(
    truth: GroundTruth, found: PersonDetections, verdict: Verdict, taken: Ints, does: Mask, labels: Mapping[int, str]
) -> CountedPeople:
    heights = np.full(len(truth), np.nan) if truth.height_px is None else truth.height_px
    postures = np.full(len(truth), "") if truth.posture is None else truth.posture
    return CountedPeople(found.score, verdict, taken, heights, postures, does, tuple(labels.values()))


def _does(rows: GroundTruth, person: Ints, labels: Mapping[int, str]) -> Mask:
    """(m, C) which of the labels each person has."""
    does = np.zeros((int(person.max()) + 1, len(labels)), dtype=np.bool_)
    for column, label in enumerate(labels):
        does[person[rows.label == label], column] = True
    return does


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def one_row_each(rows: GroundTruth) -> tuple[GroundTruth, Ints]:
    """One row per person, and each row's person: rows that agree in picture, box and track are one."""
    columns = np.column_stack([keys(rows)[0].astype(np.float64), rows.boxes, rows.track.astype(np.float64)])
    _, first, person = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return rows.take(first[order]), place[person.reshape(-1)]
