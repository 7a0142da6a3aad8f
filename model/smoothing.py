"""What somebody does over a stretch of time: action scores of each track, smoothed. Imports neither torch nor scipy.

Not in the paper. Of each track and label two means of the log odds of all keyframes so far, each keyframe weighing by
the time that it stands for and less the longer ago it was: exponential filters, right at any rate and of irregular
keyframes, since their time constants are in seconds. The slow one is told, but it is drawn towards the fast one, and
then towards the keyframe's own scores, until no label is farther from them than ``FARTHEST`` and ``FARTHEST_AT_ONCE``,
and goes on from there. All labels of a person are drawn by the same share: who plainly does something else now has
stopped what they did. What is told crosses 0.5 only once it is over it by ``BAND``, or by less and less of that for
``CLOSES_S``; until then it is told as at the edge. In log odds rather than in probabilities; that, the constants and
the weight of ``warming`` keyframes by frame mAP and flicker on validation (docs/evaluation.md, Smoothed actions).

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

SLOW_S, FAST_S = 1.0, 0.25
"""Time constants: after so long a change has come through by two thirds."""
FARTHEST, FARTHEST_AT_ONCE = 0.8, 1.6
"""From the fast mean, and from the keyframe's own; in log odds: 0.9 alone is told as 0.65 at least."""
BAND, CLOSES_S = 0.8, 2.0
"""In log odds: 0.69 says it at once of whom it was not said of, 0.6 after a second, 0.5 after two."""
EDGE = 1e-3
"""In log odds, of what is told as 0.5 and nearly so: on the side where it was."""
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
        means, own = self._mean[rows], _log_odds(scores.values)
        means += (weight / weights)[:, :, None] * (own[:, None] - means)
        means[:, 0] = _drawn(means[:, 0], means[:, 1], FARTHEST)
        means[:, 0] = _drawn(means[:, 0], own, FARTHEST_AT_ONCE)
        told = self._held(rows, at_s, means[:, 0])
        self._weight[rows], self._mean[rows], self._seen_s[rows] = weights, means, at_s
        self._end(changes.ended)
        return np.asarray(1 / (1 + np.exp(-told)))

    def __len__(self) -> int:
        """Tracks that it remembers."""
        return len(self._ids)

    def _begin_anew(self, labels: Sequence[int]) -> None:
        self._labels = tuple(labels)
        self._ids = np.zeros(0, np.int64)
        """Rising."""
        self._seen_s = np.zeros(0)
        self._weight = np.zeros((0, 2))
        self._mean = np.zeros((0, 2, len(labels)))
        """(tracks, slow and fast, labels)."""
        self._said = np.zeros((0, len(labels)), np.bool_)
        """Whether 0.5 or more was told last."""
        self._over_s = np.zeros((0, len(labels)))
        """For how long the slow mean has been on the other side of 0.5 than what is told, -1 where it is not."""

    def _held(self, rows: NDArray[np.intp], at_s: float, slow: Floats) -> Floats:
        """(people, labels) slow means -> what is told, which changes sides as ``BAND`` has it."""
        said, over_s = self._said[rows], self._over_s[rows]
        other = (slow >= 0) != said
        over_s = np.where(other, np.where(over_s < 0, 0.0, over_s + (at_s - self._seen_s[rows])[:, None]), -1.0)
        changed = other & (np.abs(slow) >= BAND * (1 - over_s / CLOSES_S))
        over_s[changed] = -1.0
        said ^= changed
        self._said[rows], self._over_s[rows] = said, over_s
        return np.where(other & ~changed, np.where(said, EDGE, -EDGE), slow)

    def _rows_of(self, ids: NDArray[np.int64], before_s: float) -> NDArray[np.intp]:
        """Each track's row; those that are new get one, last seen ``before_s``."""
        rows = np.searchsorted(self._ids, ids)
        known = rows < len(self._ids)
        known[known] = self._ids[rows[known]] == ids[known]
        if not known.all():
            new = np.sort(ids[~known])
            at = np.searchsorted(self._ids, new)  # mostly the end, but for who was away when all began anew
            self._ids = np.insert(self._ids, at, new)
            self._seen_s = np.insert(self._seen_s, at, before_s)
            self._weight = np.insert(self._weight, at, 0, 0)
            self._mean = np.insert(self._mean, at, 0, 0)
            self._said = np.insert(self._said, at, False, 0)
            self._over_s = np.insert(self._over_s, at, CLOSES_S, 0)  # the first keyframe is told as it is
            rows = np.searchsorted(self._ids, ids)
        return rows

    def _end(self, ended: Sequence[int]) -> None:
        if ended:
            kept = ~np.isin(self._ids, ended)
            self._ids, self._seen_s = self._ids[kept], self._seen_s[kept]
            self._weight, self._mean = self._weight[kept], self._mean[kept]
            self._said, self._over_s = self._said[kept], self._over_s[kept]


def _drawn(told: Floats, towards: Floats, farthest: float) -> Floats:
    """(people, labels) both; of each person all labels by the same share of their way."""
    away = told - towards
    most = np.abs(away).max(1, initial=farthest, keepdims=True)
    return np.asarray(towards + away * (farthest / most))


def _log_odds(scores: Floats) -> Floats:
    """In double: of one keyframe alone the filter gives back what it was given."""
    bounded = np.asarray(scores, np.float64).clip(SUREST, 1 - SUREST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))
