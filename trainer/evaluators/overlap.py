"""Overlap of boxes, and who is matched with whom. Everything works on lists of pairs, so that frames stay small."""

from __future__ import annotations

import numpy as np

from stmixer.trainer.evaluators.tables import Floats, Ints, Mask, Unit


def areas(boxes: Floats, unit: Unit) -> Floats:
    """Areas (n,) of (n, 4) xyxy boxes; pixel boxes are inclusive, so a side is x2 − x1 + 1."""
    extra = 1.0 if unit == "pixels" else 0.0
    sides: Floats = np.maximum(boxes[:, 2:] - boxes[:, :2] + extra, 0.0)
    return sides[:, 0] * sides[:, 1]


def iou(a: Floats, b: Floats, unit: Unit) -> Floats:
    """Intersection over union of rows: (n, 4) and (n, 4) xyxy → (n,) in 0–1; 0 where both are empty."""
    shared = _shared(a, b, unit)
    union = areas(a, unit) + areas(b, unit) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def inside(a: Floats, b: Floats, unit: Unit) -> Floats:
    """How much of each box of ``a`` lies in the same row of ``b``: (n, 4) and (n, 4) xyxy → (n,) share of its area."""
    own = areas(a, unit)
    return np.divide(_shared(a, b, unit), own, out=np.zeros_like(own), where=own > 0)


def _shared(a: Floats, b: Floats, unit: Unit) -> Floats:
    return areas(np.hstack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])]), unit)


def pairs(left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """All (i, j) with ``left[i] == right[j]``, by rising i, then rising j.

    Args:
        left, right: (n,) and (m,) group numbers.
    """
    order = np.argsort(right, kind="stable")
    there = right[order]
    first = np.searchsorted(there, left, "left")
    count = np.searchsorted(there, left, "right") - first
    i = np.repeat(np.arange(len(left)), count)
    start = np.repeat(first - (np.cumsum(count) - count), count)
    return i, order[start + np.arange(len(i))]


def overlaps(left: Floats, right: Floats, left_group: Ints, right_group: Ints, unit: Unit) -> tuple[Ints, Ints, Floats]:
    """`pairs` of two groups of boxes, (n, 4) and (m, 4) xyxy, and each pair's `iou`."""
    i, j = pairs(left_group, right_group)
    return i, j, iou(left[i], right[j], unit)


def assign(found: Ints, truth: Ints, overlap: Floats, rank: Ints, threshold: float, *, best_only: bool) -> Ints:
    """Give each detection at most one true box, and each true box at most one detection.

    Detections choose one after the other by rising rank. The chosen box is the detection's best-overlapping box that
    is still free, if it reaches the threshold. With ``best_only`` (the AVA evaluators) a detection looks at its
    best-overlapping box alone and goes away empty where that one is taken. Equal overlaps: the lower truth index.

    Args:
        found, truth, overlap: (p,) candidate pairs and their IoU; a pair that is absent does not overlap.
        rank: (n,) each detection's place in the queue, 0 first.
        threshold: IoU, inclusive.

    Returns:
        (n,) truth index or −1.
    """
    order = np.lexsort((truth, -overlap, rank[found]))
    if best_only and len(order):
        order = order[np.concatenate([[True], np.diff(found[order]) != 0])]
    order = order[overlap[order] >= threshold]
    taken = np.full(len(rank), -1, dtype=np.int64)
    used: set[int] = set()
    for i, j in zip(found[order].tolist(), truth[order].tolist(), strict=True):
        if taken[i] < 0 and j not in used:
            taken[i] = j
            used.add(j)
    return taken


def ranks(score: Floats) -> Ints:
    """Each row's place by falling score, 0 first; equal scores keep the table's order."""
    place = np.empty(len(score), dtype=np.int64)
    place[np.argsort(-score, kind="stable")] = np.arange(len(score))
    return place


def best_overlap(found: Ints, overlap: Floats, chosen: Mask, rows: int) -> Floats:
    """(rows,) the best overlap of each detection over the chosen pairs, 0 without one."""
    best = np.zeros(rows)
    np.maximum.at(best, found[chosen], overlap[chosen])
    return best
