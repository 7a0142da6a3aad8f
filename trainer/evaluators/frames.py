"""Frame mAP for JHMDB, UCF101-24 and custom sets, at any IoU.

The rules of the evaluator behind published JHMDB and UCF101-24 numbers (Kalogeiton et al., ACT, ICCV 2017; agrees with
``tests/reference/tube_eval``): detections of a class go by falling score over all frames, each takes its
best-overlapping still unused box of its frame and class, if that reaches the threshold; AP is the trapezoid area from
(recall 0, precision 1); the mean is over labels that have boxes in the split. Equal scores keep the table's order.

Protocols:

- ``frames-all``: every frame counts, and a detection on a frame without ground truth is wrong. JHMDB, UCF101-24, whose
  boxes are in inclusive pixels (the tables' unit decides).
- ``frames-custom``: docs/data.md. Only keyframes count: all annotated frames, or those whose index is a multiple of a
  number (`every`). A person with an empty label has an unknown action: a detection that takes no true box is ignored,
  not wrong, if such a person is the one it overlaps most and by at least the threshold.
- ``frames-custom-negative``: the same, but an empty label is somebody who does none of the set's actions, and
  detections on them are wrong: the receiver in ``interaction``.
- ``pictures``: every picture counts; a person with an empty label has an unknown action.

Where a set says label by label what is **known to be absent** of a person, this replaces the rule of the empty label: a
detection is wrong if the person whom it overlaps most is known not to do its label, ignored if that is unknown.
Detections on nobody are wrong, unless they lie in an ignore area (`trainer.evaluators.ignore_areas`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from stmixer.trainer.evaluators.ignore_areas import in_ignore_area
from stmixer.trainer.evaluators.overlap import assign, best_overlap, overlaps, ranks
from stmixer.trainer.evaluators.precision import IGNORED, WRONG, Score, class_scores, trapezoid_area, verdicts
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_ACTION,
    Detections,
    Floats,
    GroundTruth,
    IgnoreAreas,
    Ints,
    Keyframes,
    Mask,
    PersonDetections,
    Tubes,
    check_labels,
    check_pair,
    keys,
)


@dataclass(frozen=True, slots=True)
class FrameProtocol:
    """What sets the protocols apart.

    Attributes:
        step: keyframes are annotated frames whose index is a multiple of it; None: all frames count.
        empty_is_negative: whether a person with an empty label does none of the actions, or unknown ones.
    """

    name: str
    step: int | None
    empty_is_negative: bool

    @property
    def rules(self) -> str:
        """What it does, in a line to stand beside its figures."""
        if self.step is None:
            return "every picture of the split counts, whether somebody is annotated on it or not"
        which = "annotated frames" if self.step == 1 else f"annotated frames whose index is a multiple of {self.step}"
        empty = (
            "does none of the actions" if self.empty_is_negative else "does something unknown, neither right nor wrong"
        )
        return f"{which} count; a person without a label {empty}"


FRAMES_ALL = FrameProtocol("frames-all", step=None, empty_is_negative=False)
FRAMES_CUSTOM = FrameProtocol("frames-custom", step=1, empty_is_negative=False)
FRAMES_CUSTOM_NEGATIVE = FrameProtocol("frames-custom-negative", step=1, empty_is_negative=True)
PICTURES = FrameProtocol("pictures", step=None, empty_is_negative=False)


def every(protocol: FrameProtocol, step: int) -> FrameProtocol:
    """A custom set's protocol with annotated frames whose index is a multiple of ``step`` for keyframes."""
    assert protocol.step is not None, protocol
    return replace(protocol, step=step)


def keyframes_of(truth: GroundTruth, step: int = 1) -> Keyframes:
    """A custom set's evaluation keyframes: its annotated frames whose index is a multiple of ``step``, once each."""
    chosen = truth.frame % step == 0
    first = np.unique(keys(truth)[0][chosen], return_index=True)[1]
    return Keyframes(truth.video[chosen][first], truth.frame[chosen][first])


def evaluate_frames(
    truth: GroundTruth,
    found: Detections,
    labels: Mapping[int, str],
    protocol: FrameProtocol,
    *,
    threshold: float = 0.5,
    absent: GroundTruth | None = None,
    ignored: IgnoreAreas | None = None,
) -> Score:
    """Frame mAP.

    Args:
        truth: all annotated frames of the split; the protocol picks the keyframes.
        found: may hold other frames than keyframes; the protocol ignores them.
        labels: the labels that the set annotates. Leave others out of ``found``: the set says nothing about them.
        threshold: IoU from which a detection is right.
        absent: where the set says it label by label, a row per person of ``truth`` and label that the person is known
            not to do; every other label that is not in ``truth`` is then unknown.
        ignored: areas to ignore. A detection that overlaps a true person by at least the threshold is about that
            person and not about the area.

    Raises:
        ValueError: an empty split, different units, or a label outside the list.
    """
    check_pair(truth, found)
    check_labels(truth, labels)
    check_labels(found, labels)
    truth, counts = protocol_rows(truth, found, protocol, ignored)
    truth_key, found_key = keys(truth, found)
    i, j, overlap = overlaps(found.boxes, truth.boxes, np.where(counts, found_key, -1), truth_key, truth.unit)
    same = found.label[i] == truth.label[j]
    taken = assign(i[same], j[same], overlap[same], ranks(found.score), threshold, best_only=False)
    verdict = verdicts(counts, taken)
    wrong = verdict == WRONG
    best = best_overlap(i, overlap, np.ones(len(i), dtype=np.bool_), len(found))
    if absent is not None:
        known = np.maximum(best_overlap(i, overlap, same, len(found)), _overlap_with_absent(found, absent))
        verdict[wrong & (best >= threshold) & (best > known)] = IGNORED
    elif not protocol.empty_is_negative:
        verdict[wrong & on_unknown(i, overlap, truth.label[j], len(found), threshold)] = IGNORED
    verdict[wrong & (best < threshold) & in_ignore_area(found, ignored)] = IGNORED
    classes = class_scores(labels, truth, (found.label, found.score), verdict, trapezoid_area)
    return Score(protocol.name, threshold, classes, verdict)


def protocol_rows(
    truth: GroundTruth,
    found: Detections | PersonDetections | Tubes,
    protocol: FrameProtocol,
    ignored: IgnoreAreas | None = None,
) -> tuple[GroundTruth, Mask]:
    """The true rows on the protocol's pictures, and which detections lie on them. A picture that has nothing but areas
    to ignore is one of them.

    Raises:
        ValueError: no ground truth on any keyframe.
    """
    if protocol.step is None:
        return truth, np.ones(len(found), dtype=np.bool_)
    truth = truth.take(truth.frame % protocol.step == 0)
    if not len(truth):
        raise ValueError(f"the split is empty: no annotated frame is a multiple of {protocol.step}")
    if ignored is None:
        truth_key, found_key = keys(truth, found)
        return truth, np.isin(found_key, truth_key)
    truth_key, found_key, ignored_key = keys(truth, found, on_pictures(ignored, protocol))
    return truth, np.isin(found_key, np.concatenate([truth_key, ignored_key]))


def on_pictures(areas: IgnoreAreas, protocol: FrameProtocol) -> IgnoreAreas:
    """Those on the protocol's pictures."""
    return areas if protocol.step is None else areas.take(areas.frame % protocol.step == 0)


def action_outcomes(
    truth: GroundTruth,
    found: Detections,
    protocol: FrameProtocol,
    *,
    threshold: float = 0.5,
    absent: GroundTruth | None = None,
) -> tuple[Mask, Mask]:
    """Whether an action was there, given that a person was: what an action score predicts.

    A detection counts if it overlaps somebody by at least the threshold on one of the protocol's pictures, and the one
    it overlaps most has known actions (with ``empty_is_negative`` everybody has; with ``absent``, as in
    `evaluate_frames`, a known answer for the detection's label). The action was there if that person has the
    detection's label. Two people of equal overlap are taken together.

    Returns:
        ``counts`` and ``there``, (n,) bool per detection; ``there`` is meaningless where ``counts`` is not set.
    """
    check_pair(truth, found)
    truth, counts = protocol_rows(truth, found, protocol)
    truth_key, found_key = keys(truth, found)
    i, j, overlap = overlaps(found.boxes, truth.boxes, np.where(counts, found_key, -1), truth_key, truth.unit)
    best = best_overlap(i, overlap, np.ones(len(i), dtype=np.bool_), len(found))
    nearest = (overlap >= threshold) & (overlap == best[i])
    there, unknown = np.zeros(len(found), dtype=np.bool_), np.zeros(len(found), dtype=np.bool_)
    there[i[nearest & (found.label[i] == truth.label[j])]] = True
    unknown[i[nearest & (truth.label[j] == UNKNOWN_ACTION)]] = True
    counts &= best >= threshold
    if absent is not None:
        counts &= there | (_overlap_with_absent(found, absent) == best)
    elif not protocol.empty_is_negative:
        counts &= ~unknown
    return counts, there


def _overlap_with_absent(found: Detections, absent: GroundTruth) -> Floats:
    """(n,) each detection's best overlap with somebody who is known not to do its label."""
    found_key, absent_key = keys(found, absent)
    i, j, overlap = overlaps(found.boxes, absent.boxes, found_key, absent_key, found.unit)
    return best_overlap(i, overlap, found.label[i] == absent.label[j], len(found))


def on_unknown(found: Ints, overlap: Floats, truth_label: Ints, rows: int, threshold: float) -> Mask:
    """(rows,) detections whose most-overlapped person is one with unknown action, by at least the threshold."""
    unknown = truth_label == UNKNOWN_ACTION
    there = best_overlap(found, overlap, unknown, rows)
    return (there >= threshold) & (there > best_overlap(found, overlap, ~unknown, rows))
