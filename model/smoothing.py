"""What somebody does over a stretch of time: action scores of each track, smoothed. Imports neither torch nor scipy.

Not in the paper. Of each track and label two means of the log odds of all keyframes so far, each keyframe weighing by
the time that it stands for and less the longer ago it was: exponential filters, right at any rate and of irregular
keyframes, since their time constants are in seconds. The slow one is told, but it is never farther from the fast one
than ``FARTHEST``, and goes on from there: what wavers is averaged for seconds, and what is plain comes through at once.
In log odds rather than in probabilities; that, the constants and the weight of ``warming`` keyframes by frame mAP and
flicker on validation (docs/evaluation.md, Smoothed actions).

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

SLOW_S, FAST_S = 2.0, 0.5
"""Time constants: after so long a change has come through by two thirds."""
FARTHEST = 0.6
"""In log odds: where the fast mean says 0.65, at least 0.5 is told."""
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
        if not len(changes.ids):
            self._end(changes.ended)
            return np.zeros((0, len(scores.labels)))
        rows = self._rows_of(changes.ids, at_s - period_s)
        weight = 1 - np.exp((self._seen_s[rows, None] - at_s) / (SLOW_S, FAST_S))
        fades = 1 - weight
        weight *= WARMING if warming else 1.0
        weights = self._weight[rows] * fades + weight
        means = self._mean[rows]
        means += (weight / weights)[:, :, None] * (_log_odds(scores.values)[:, None] - means)
        slow, fast = means[:, 0], means[:, 1]
        told = means[:, 0] = slow.clip(fast - FARTHEST, fast + FARTHEST)
        self._weight[rows], self._mean[rows], self._seen_s[rows] = weights, means, at_s
        self._end(changes.ended)
        return np.asarray(1 / (1 + np.exp(-told)))

    def __len__(self) -> int:
        """Tracks that it remembers."""
        return len(self._ids)

    def _begin_anew(self, labels: Sequence[int]) -> None:
        self._labels = tuple(labels)
        self._ids = np.zeros(0, np.int64)
        """Rising: numbers are given in order, and never again."""
        self._seen_s = np.zeros(0)
        self._weight = np.zeros((0, 2))
        self._mean = np.zeros((0, 2, len(labels)))
        """(tracks, slow and fast, labels)."""

    def _rows_of(self, ids: NDArray[np.int64], before_s: float) -> NDArray[np.intp]:
        """Each track's row; those that are new get one, last seen ``before_s``."""
        new = np.sort(ids[~np.isin(ids, self._ids)])
        if len(new):
            self._ids = np.concatenate((self._ids, new))
            self._seen_s = np.concatenate((self._seen_s, np.full(len(new), before_s)))
            self._weight = np.concatenate((self._weight, np.zeros((len(new), 2))))
            self._mean = np.concatenate((self._mean, np.zeros((len(new), 2, len(self._labels)))))
        return np.searchsorted(self._ids, ids)

    def _end(self, ended: Sequence[int]) -> None:
        if ended:
            kept = ~np.isin(self._ids, ended)
            self._ids, self._seen_s = self._ids[kept], self._seen_s[kept]
            self._weight, self._mean = self._weight[kept], self._mean[kept]


def _log_odds(scores: Floats) -> Floats:
    """In double: of one keyframe alone the filter gives back what it was given."""
    bounded = np.asarray(scores, np.float64).clip(SUREST, 1 - SUREST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))
