"""Who on this picture is who on the last: one association step, for every tracker. Imports neither torch nor scipy.

A step has a gain (how well a track and a detection go together), an assignment (at most one detection for a track, at
most one track for a detection) and a gap (how long a track that nobody continues stays alive). Trackers differ in where
they expect a track, in what they add to the overlap, and in whether tracks choose one after the other or all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Pairs = list[tuple[int, int]]
"""Track and detection, by their rows."""


@dataclass(frozen=True, slots=True)
class Association:
    """What a track and a detection need to be one.

    Attributes:
        min_iou: least overlap, 0..1; boxes that do not touch are never one.
        max_gap: pictures in a row on which a track may be missed and still go on.
    """

    min_iou: float
    max_gap: int

    def is_alive(self, last: int, now: int) -> bool:
        """Whether a track last seen on picture ``last`` may go on with picture ``now``."""
        return now - last - 1 <= self.max_gap

    def gains(self, overlap: Floats, scores: Floats | None = None) -> Floats:
        """(N, M) IoU of N tracks with M detections -> (N, M) gains, 0 where the two cannot be one.

        ``scores`` (M,), not below 0, are added: the link energy of Gkioxari and Malik, Finding Action Tubes, CVPR 2015.
        """
        reached = overlap >= max(self.min_iou, float(np.finfo(np.float64).tiny))
        return np.where(reached, overlap if scores is None else overlap + scores, 0.0)


def pairs_by_turns(gains: Floats, turns: Sequence[int]) -> Pairs:
    """Tracks choose one after the other, in the order of ``turns``, each the best detection that is still free.

    (N, M) gains, 0 for none. Of equal gains the first detection's. Pairs come in the order of the turns.
    """
    left = np.array(gains, dtype=np.float64)
    pairs: Pairs = []
    for track in turns if left.shape[1] else ():
        best = int(left[track].argmax())
        if left[track, best] > 0:
            left[:, best] = 0.0
            pairs.append((track, best))
    return pairs


def pairs_of_most_gain(gains: Floats) -> Pairs:
    """The assignment of the largest sum of (N, M) gains, none of them below 0; 0 for none. By rising track."""
    fits = gains > 0
    alone = fits & (fits.sum(1, keepdims=True) == 1) & (fits.sum(0, keepdims=True) == 1)
    pairs = list(zip(*(side.tolist() for side in np.nonzero(alone)), strict=True))  # whom nobody else wants
    if len(pairs) == np.count_nonzero(fits):
        return pairs
    rows, columns = (np.flatnonzero(fits.any(axis) & ~alone.any(axis)) for axis in (1, 0))
    left = np.asarray(gains[np.ix_(rows, columns)], dtype=np.float64)
    if len(rows) <= len(columns):
        chosen = list(enumerate(_cheapest_columns(-left)))
    else:
        chosen = [(row, column) for column, row in enumerate(_cheapest_columns(-left.T))]
    pairs += [(int(rows[row]), int(columns[column])) for row, column in chosen if left[row, column] > 0]
    return sorted(pairs)


def _cheapest_columns(costs: NDArray[np.float64]) -> list[int]:
    """A column of its own for each row of (N, M) costs, N <= M, at the least sum.

    Shortest augmenting paths (Crouse, On implementing 2D rectangular assignment algorithms, 2016): rows are added one
    by one, each by the cheapest chain of changes; ``of_row`` and ``of_column`` are the dual prices.
    """
    rows, columns = costs.shape
    of_row, of_column = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for added in range(rows):
        path = np.full(columns, -1)
        length = np.full(columns, np.inf)
        remaining = np.arange(columns)[::-1].copy()
        row, shortest, seen_rows, seen_columns = added, 0.0, [], []
        while True:
            seen_rows.append(row)
            through = shortest + costs[row, remaining] - of_row[row] - of_column[remaining]
            shorter = through < length[remaining]
            length[remaining[shorter]], path[remaining[shorter]] = through[shorter], row
            shortest = float(length[remaining].min())
            nearest = np.flatnonzero(length[remaining] == shortest)
            free = nearest[row_of[remaining[nearest]] < 0]
            place = int(free[-1] if len(free) else nearest[0])
            column = int(remaining[place])
            seen_columns.append(column)
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            remaining[place] = remaining[-1]
            remaining = remaining[:-1]
        others = seen_rows[1:]
        of_row[added] += shortest
        of_row[others] += shortest - length[column_of[others]]
        of_column[seen_columns] -= shortest - length[seen_columns]
        while True:
            row = int(path[column])
            row_of[column], (column_of[row], column) = row, (column, int(column_of[row]))
            if row == added:
                break
    return [int(column) for column in column_of]
