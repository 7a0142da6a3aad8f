"""What somebody does over a stretch of time: action scores of each track, smoothed. Imports neither torch nor scipy.

Not in the paper. Of each track and label a mean of the log odds of all keyframes so far, each weighing by the time that
it stands for and less the longer ago it was (an exponential filter, right at any rate and of irregular keyframes: its
time constant is in seconds). In log odds rather than in probabilities, the time constant and the weight of ``warming``
keyframes as they gave the best frame mAP on validation (docs/evaluation.md, Smoothed actions).

No keyframe waits for another: it looks back only, and what is past a keyframe is what the model's own clip has shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmixer.model.tracks import TrackChanges

Floats = NDArray[np.floating[Any]]

TIME_CONSTANT_S = 1.0
"""After so long a change has come through by two thirds."""
WARMING = 0.25
"""What a keyframe counts whose clip is not whole: at the start, and after a gap."""
SUREST = 1e-4
"""Scores count as no nearer to 0 and 1 than this: a single keyframe, however sure, decides nothing for good."""


@dataclass(frozen=True, slots=True)
class ActionScores:
    """What a keyframe says of its people: ``labels`` are numbers of actions, ``values`` (people, labels) in 0..1."""

    labels: tuple[int, ...]
    values: Floats

    @classmethod
    def nothing(cls, people: int) -> ActionScores:
        """Of people, and no action."""
        return cls((), np.zeros((people, 0)))


class SmoothedActions:
    """The filters of one stream: a row for each track that lives (``tracks.MAX_TRACKS`` at most), a column a label."""

    def __init__(self) -> None:
        self._labels: tuple[int, ...] = ()
        self._begin_anew(())

    def update(
        self, at_s: float, changes: TrackChanges, scores: ActionScores, *, period_s: float, warming: bool
    ) -> Floats:
        """Take up a keyframe whose people ``Tracks.update`` has told apart.

        Args:
            at_s: its moment in the stream, seconds; after the last one's.
            changes: of whom the rows of ``scores`` are, and who has gone.
            period_s: from one keyframe to the next, more than 0: what the first one of a track stands for.
            warming: its clip was not whole.

        Returns:
            (people, labels) in 0..1, of the people in ``scores``' order.
        """
        if scores.labels != self._labels:  # another model's: nothing that was said compares
            self._begin_anew(scores.labels)
        rows = self._rows_of(changes.ids, at_s - period_s)
        weight = 1 - np.exp((self._seen_s[rows] - at_s) / TIME_CONSTANT_S)
        self._weight[rows] *= 1 - weight
        self._sum[rows] *= (1 - weight)[:, None]
        weight *= WARMING if warming else 1.0
        self._weight[rows] += weight
        self._sum[rows] += weight[:, None] * _log_odds(scores.values)
        self._seen_s[rows] = at_s
        smoothed = 1 / (1 + np.exp(-self._sum[rows] / self._weight[rows, None]))
        self._end(changes.ended)
        return np.asarray(smoothed)

    def __len__(self) -> int:
        """Tracks that it remembers."""
        return len(self._ids)

    def _begin_anew(self, labels: Sequence[int]) -> None:
        self._labels = tuple(labels)
        self._ids = np.zeros(0, np.int64)
        """Rising: numbers are given in order, and never again."""
        self._seen_s = np.zeros(0)
        self._weight = np.zeros(0)
        self._sum = np.zeros((0, len(labels)))

    def _rows_of(self, ids: NDArray[np.int64], before_s: float) -> NDArray[np.intp]:
        """Each track's row; those that are new get one, last seen ``before_s``."""
        new = np.sort(ids[~np.isin(ids, self._ids)])
        if len(new):
            self._ids = np.concatenate((self._ids, new))
            self._seen_s = np.concatenate((self._seen_s, np.full(len(new), before_s)))
            self._weight = np.concatenate((self._weight, np.zeros(len(new))))
            self._sum = np.concatenate((self._sum, np.zeros((len(new), len(self._labels)))))
        return np.searchsorted(self._ids, ids)

    def _end(self, ended: Sequence[int]) -> None:
        if ended:
            kept = ~np.isin(self._ids, ended)
            self._ids, self._seen_s = self._ids[kept], self._seen_s[kept]
            self._weight, self._sum = self._weight[kept], self._sum[kept]


def _log_odds(scores: Floats) -> Floats:
    """In double: of one keyframe alone the filter gives back what it was given."""
    bounded = np.asarray(scores, np.float64).clip(SUREST, 1 - SUREST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))
