"""Video mAP: detected tubes against true ones, at spatio-temporal IoU.

Agrees with ``tests/reference/tube_eval``: duplicates among the tubes of a class and video go first (`suppress`),
at spatio-temporal IoU 0.3; the rest go by falling score, each takes its best-overlapping still unused true tube of its
class and video, if that reaches the threshold; AP is the trapezoid area from (recall 0, precision 1).

The overlap of two tubes is the mean spatial IoU over their common frames × temporal IoU, and temporal IoU is common
frames / frames of either. For tubes without gaps that equals the overlap of intervals; counted this way it also holds
on keyframes that lie some frames apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.frames import FrameProtocol, on_unknown, protocol_rows
from stmixer.trainer.evaluators.overlap import assign, overlaps, ranks
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG, Score, Verdict, class_scores, trapezoid_area
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_TRACK,
    Floats,
    GroundTruth,
    Ints,
    Tubes,
    check_labels,
    check_pair,
    codes,
    keys,
)

NMS_IOU = 0.3
COCO_THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


@dataclass(frozen=True, slots=True, eq=False)
class _TubeSpans:
    """Which tube each row is of, and per tube: its length in rows, label and first row."""

    tube: Ints
    length: Ints
    label: Ints
    first: Ints


@dataclass(frozen=True, slots=True, eq=False)
class _TubeOverlaps:
    """Detected tubes (score, label), and each one's overlap with each true tube it meets."""

    score: Floats
    label: Ints
    found: Ints
    true: Ints
    overlap: Floats
    true_label: Ints


def evaluate_tubes(
    truth: GroundTruth,
    found: Tubes,
    labels: Mapping[int, str],
    protocol: FrameProtocol,
    *,
    thresholds: Sequence[float],
    nms_iou: float | None = NMS_IOU,
) -> tuple[Score, ...]:
    """Video mAP at each threshold; the mean of ``mean_ap`` over ``COCO_THRESHOLDS`` is video mAP 0.5:0.95.

    A true tube is a run of one person's boxes with one label on successive evaluated frames; where the label pauses,
    a new tube begins. With keyframes, tubes are judged on keyframes only. A tube that takes no true one is ignored if a
    person of unknown action is who it overlaps most and by at least the threshold (unless empty labels are negative).

    Args:
        truth: with known tracks.
        found: see `trainer.evaluators.tubes.link`.
        labels: the labels that the set annotates.
        nms_iou: spatio-temporal IoU for `suppress`; None to leave duplicates in.

    Returns:
        A `Score` per threshold, whose positives are tubes. Its ``verdict`` is per tube left after suppression that
        lies on an evaluated frame, by (video, label, tube number).

    Raises:
        ValueError: an empty split, different units, a label outside the list, unknown tracks, or two boxes of a tube
            in one frame.
    """
    check_pair(truth, found)
    check_labels(truth, labels)
    check_labels(found, labels)
    if (truth.track == UNKNOWN_TRACK).any():
        raise ValueError("video mAP needs tracks; some ground truth rows have none")
    if nms_iou is not None:
        found = suppress(found, nms_iou)
    truth, counts = protocol_rows(truth, found, protocol)
    found = found.take(counts)
    mine, true = _spans(found), _true_spans(truth, protocol.step)
    i, j, overlap = _tube_overlaps(found, mine, truth, true)
    meeting = _TubeOverlaps(found.score[mine.first], mine.label, i, j, overlap, true.label[j])
    positives = dict(zip(*(v.tolist() for v in np.unique(true.label, return_counts=True)), strict=True))
    scores = []
    for threshold in thresholds:
        verdict = _verdict(meeting, threshold, protocol)
        classes = class_scores(labels, truth, (meeting.label, meeting.score), verdict, trapezoid_area, positives)
        scores.append(Score(f"{protocol.name}-tubes", threshold, classes, verdict))
    return tuple(scores)


def _verdict(m: _TubeOverlaps, threshold: float, protocol: FrameProtocol) -> Verdict:
    same = m.label[m.found] == m.true_label
    taken = assign(m.found[same], m.true[same], m.overlap[same], ranks(m.score), threshold, best_only=False)
    verdict = np.where(taken >= 0, RIGHT, WRONG).astype(np.int8)
    if not protocol.empty_is_negative:
        unknown = on_unknown(m.found, m.overlap, m.true_label, len(m.score), threshold)
        verdict[(verdict == WRONG) & unknown] = IGNORED
    return verdict


def suppress(found: Tubes, threshold: float = NMS_IOU) -> Tubes:
    """Non-maximum suppression: without tubes that overlap a better-scored one of their class and video, itself not
    suppressed, by **more** than the threshold.
    """
    spans = _spans(found)
    i, j, overlap = _tube_overlaps(found, spans, found, spans, within_label=True)
    place = ranks(found.score[spans.first])
    close = (overlap > threshold) & (place[i] < place[j])
    i, j = i[close], j[close]
    gone = np.zeros(len(spans.first), dtype=np.bool_)
    order = np.argsort(place[i], kind="stable")
    for better, worse in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if not gone[better]:
            gone[worse] = True
    return found.take(~gone[spans.tube])


def _tube_overlaps(
    left: Tubes | GroundTruth,
    left_spans: _TubeSpans,
    right: Tubes | GroundTruth,
    right_spans: _TubeSpans,
    *,
    within_label: bool = False,
) -> tuple[Ints, Ints, Floats]:
    """All tubes that meet in a frame (of any label, or of the same one), and their spatio-temporal IoU."""
    left_key, right_key = keys(left, right)
    if within_label:
        left_label, right_label = codes(left.label, right.label)
        wide = int(max(left_label.max(initial=0), right_label.max(initial=0))) + 1
        left_key, right_key = left_key * wide + left_label, right_key * wide + right_label
    i, j, spatial = overlaps(left.boxes, right.boxes, left_key, right_key, left.unit)
    wide = max(len(right_spans.first), 1)
    met, at = np.unique(left_spans.tube[i] * wide + right_spans.tube[j], return_inverse=True)
    common = np.bincount(at, minlength=len(met))
    total = np.bincount(at, weights=spatial, minlength=len(met))
    a, b = met // wide, met % wide
    either = left_spans.length[a] + right_spans.length[b] - common
    return a, b, (total / np.maximum(common, 1)) * (common / np.maximum(either, 1))


def _spans(found: Tubes) -> _TubeSpans:
    number = _numbered(codes(found.video)[0], found.label, found.tube)
    spans = _spans_of(found, number)
    if (found.score != found.score[spans.first][number]).any():
        raise ValueError("a tube has different scores on its rows")
    return spans


def _true_spans(truth: GroundTruth, step: int | None) -> _TubeSpans:
    """Runs of a (video, label, track) on successive evaluated frames. With a ``step`` of keyframes these lie no further
    apart than it or, where a video is annotated more seldom, than the video's usually do."""
    video = codes(truth.video)[0]
    person = _numbered(video, truth.label, truth.track)
    order = np.lexsort((truth.frame, person))
    apart = np.ones(len(truth), dtype=np.int64) if step is None else np.maximum(_usual_steps(video, truth.frame), step)
    near = np.diff(truth.frame[order]) <= apart[order][1:]
    starts = np.concatenate([[True], ~(near & (np.diff(person[order]) == 0))])
    number = np.empty(len(truth), dtype=np.int64)
    number[order] = np.cumsum(starts) - 1
    return _spans_of(truth, number)


def _usual_steps(video: Ints, frame: Ints) -> Ints:
    """(n,) of each row the median distance between neighbouring frames of its video; 0 where that has one alone."""
    steps = np.zeros(len(frame), dtype=np.int64)
    for each in np.unique(video):
        distances = np.diff(np.unique(frame[video == each]))
        if len(distances):
            steps[video == each] = int(np.median(distances))
    return steps


def _spans_of(table: Tubes | GroundTruth, number: Ints) -> _TubeSpans:
    first, length = np.unique(number, return_index=True, return_counts=True)[1:]
    if len(np.unique(_numbered(number, table.frame))) < len(number):
        raise ValueError(f"{type(table).__name__}: a tube has two boxes in one frame")
    return _TubeSpans(number, length, table.label[first], first)


def _numbered(*columns: Ints) -> Ints:
    """A number from 0 per distinct row of the columns, in their sorted order."""
    number = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        (rank,) = codes(column)
        (number,) = codes(number * (int(rank.max(initial=0)) + 1) + rank)
    return number
