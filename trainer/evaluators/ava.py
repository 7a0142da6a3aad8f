"""AVA's frame mAP at IoU 0.5 under the two protocols in use. They give different numbers for the same detections.

- ``ava-activitynet``: ActivityNet's evaluator. The best 50 (box, class) pairs of a timestamp are kept, timestamps
  without ground truth of any class, inside the label map or not, are ignored, the exclusion list is **not** used.
- ``ava-uncapped``: the evaluator of PySlowFast and AlphAction, behind STMixer's numbers. No cap; the timestamps of the
  exclusion list are dropped; detections at timestamps without ground truth are wrong.

In both, labels outside the label map (the 60 of ``ava_action_list_…_for_activitynet``) are left out of ground truth and
detections before anything else, boxes are normalised, a detection looks only at its best-overlapping true box of its
class and is wrong where a better-scored one has it (`overlap.assign`, ``best_only``), boxes without area are dropped
after the cap, and AP is Pascal's (`precision.pascal_area`). A person is one per class: several labels of one box are
several boxes, each to be found by a detection of its class. The rules were found from
``tests/reference/ava_eval/expected.json``. Equal scores keep the table's order; the public evaluators leave that to an
unstable sort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.overlap import assign, overlaps, ranks
from stmixer.trainer.evaluators.precision import Score, class_scores, pascal_area, verdicts
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_ACTION,
    Detections,
    GroundTruth,
    Ints,
    Keyframes,
    Mask,
    check_pair,
    keys,
)

AVA_CLASSES = 80


@dataclass(frozen=True, slots=True)
class AvaProtocol:
    """What sets the protocols apart.

    Attributes:
        cap: (box, class) pairs kept per timestamp; None for all.
        needs_truth: detections at timestamps without ground truth of any class are ignored, not wrong.
        excludes: timestamps of the exclusion list are dropped.
    """

    name: str
    cap: int | None
    needs_truth: bool
    excludes: bool

    @property
    def rules(self) -> str:
        """What it does, in a line to stand beside its figures."""
        kept = "all" if self.cap is None else f"the best {self.cap}"
        without = "ignored" if self.needs_truth else "wrong"
        listed = "dropped" if self.excludes else "kept"
        return (
            f"{kept} (box, label) pairs of a timestamp count; what is found where no ground truth is, is {without}; "
            f"timestamps of the exclusion list are {listed}"
        )


AVA_ACTIVITYNET = AvaProtocol("ava-activitynet", cap=50, needs_truth=True, excludes=False)
AVA_UNCAPPED = AvaProtocol("ava-uncapped", cap=None, needs_truth=False, excludes=True)


def evaluate_ava(
    truth: GroundTruth,
    found: Detections,
    labels: Mapping[int, str],
    protocol: AvaProtocol,
    *,
    excluded: Keyframes | None = None,
    threshold: float = 0.5,
) -> Score:
    """AVA frame mAP.

    Args:
        truth, found: normalised boxes; ``frame`` is the timestamp in seconds.
        labels: the label map, the whitelist.
        excluded: the exclusion list (an empty table for none); required by ``ava-uncapped``.

    Raises:
        ValueError: an empty split, pixel boxes, a label outside 1–80, or a missing exclusion list.
    """
    check_pair(truth, found)
    _check(truth, found, protocol, excluded)
    truth_key, found_key, excluded_key = keys(truth, found, excluded if excluded is not None else truth.take(_NONE))
    listed = np.array(list(labels), dtype=np.int64)
    wanted, counts = np.isin(truth.label, listed), np.isin(found.label, listed)
    if protocol.excludes:
        wanted &= ~np.isin(truth_key, excluded_key)
        counts &= ~np.isin(found_key, excluded_key)
    if protocol.cap is not None:
        counts = _cap(found, found_key, counts, protocol.cap)
    if protocol.needs_truth:
        counts &= np.isin(found_key, truth_key[truth.label != UNKNOWN_ACTION])
    counts &= (found.boxes[:, 2:] > found.boxes[:, :2]).all(1)
    truth, truth_key = truth.take(wanted), truth_key[wanted]
    # One number per (timestamp, label): the group within which boxes meet.
    wide = AVA_CLASSES + 1
    found_group, truth_group = np.where(counts, found_key * wide + found.label, -1), truth_key * wide + truth.label
    i, j, overlap = overlaps(found.boxes, truth.boxes, found_group, truth_group, truth.unit)
    taken = assign(i, j, overlap, ranks(found.score), threshold, best_only=True)
    verdict = verdicts(counts, taken)
    classes = class_scores(labels, truth, (found.label, found.score), verdict, pascal_area)
    return Score(protocol.name, threshold, classes, verdict)


_NONE: Ints = np.zeros(0, dtype=np.int64)


def _check(truth: GroundTruth, found: Detections, protocol: AvaProtocol, excluded: Keyframes | None) -> None:
    if truth.unit != "normalised":
        raise ValueError("AVA boxes are normalised; these are in pixels")
    if protocol.excludes and excluded is None:
        raise ValueError(f"{protocol.name} needs the exclusion list")
    for what, label in (("ground truth", truth.label), ("detections", found.label)):
        bad = ((label < 1) | (label > AVA_CLASSES)) & ((label != UNKNOWN_ACTION) | (what == "detections"))
        if bad.any():
            raise ValueError(f"{what} row {bad.argmax()}: label {label[bad.argmax()]} is outside 1–{AVA_CLASSES}")


def _cap(found: Detections, key: Ints, counts: Mask, cap: int) -> Mask:
    """The best ``cap`` rows of each timestamp.

    Ties for the last places go as in a heap that is filled in the table's order and refuses what is not better than
    its least entry, the least by (score, label, y1, x1, y2, x2): of the rows that tie, those come in that have fewer
    than ``cap`` rows at least as good before them, and of these the greatest by (label, y1, x1, y2, x2) stay.
    """
    rows = np.flatnonzero(counts)
    score, group = found.score[rows], np.unique(key[rows], return_inverse=True)[1]
    if not len(rows):
        return counts
    order = np.lexsort((-score, group))
    start = np.searchsorted(group[order], np.arange(group.max() + 1))
    size = np.bincount(group)
    least = np.where(size > cap, score[order][start + np.minimum(cap, size) - 1], -np.inf)[group]
    by_group = np.argsort(group, kind="stable")  # the table's order within each timestamp
    good = (score >= least)[by_group]
    before: Ints = np.cumsum(good) - good
    earlier = np.empty(len(rows), dtype=np.int64)
    earlier[by_group] = before - before[start][group[by_group]]
    admitted = (score >= least) & ((score > least) | (earlier < cap))
    x1, y1, x2, y2 = found.boxes[rows].T
    best = np.lexsort((-x2, -y2, -x1, -y1, -found.label[rows], -score, ~admitted, group))
    place = np.empty(len(rows), dtype=np.int64)
    place[best] = np.arange(len(rows)) - start[group[best]]
    kept = np.zeros(len(found), dtype=np.bool_)
    kept[rows[admitted & (place < cap)]] = True
    return kept
