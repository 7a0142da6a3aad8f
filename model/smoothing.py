"""What somebody does over a stretch of time: action scores of each track, smoothed. Imports neither torch nor scipy.

Not in the paper. Of each track and label the mean of the log odds of all keyframes so far, each weighing by the time
that it stands for and less the longer ago it was: an exponential filter, right at any rate and of irregular keyframes,
since its time constant is in seconds. Then it is drawn towards the keyframe's own scores, the more the farther those
are, and all of the way from ``PLAINLY`` on, and goes on from there (Tukey's biweight of Fisher's distance between two
probabilities): what wavers is averaged, what is plain is told as it is. How far is by whichever label says most, and
all labels of a person are drawn by the same share: who plainly does something else now has stopped what they did. What
is told crosses 0.5 only once it is over it by ``BAND``, or by less and less of that for ``CLOSES_S``; until then it is
told as at the edge. The constants and the weight of ``warming`` keyframes by frame mAP, flicker and how soon a change
is told (docs/evaluation.md, Smoothed actions).

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

MEAN_S = 1.0
"""Time constant: after so long a small change has come through by two thirds."""
PLAINLY, WITHIN_S = 1.0, 0.25
"""Twice the angle whose squared sine a probability is, 0 to π: from 0.05 to 0.45 it is 1.0, from 0.5 to 0.75 0.5. Of
keyframes that are closer together than ``WITHIN_S`` each draws by its share of that."""
BAND, CLOSES_S = 1.0, 1.5
"""In log odds: 0.73 says it at once of whom it was not said of, 0.58 after a second, 0.5 after one and a half."""
EDGE = 1e-3
"""In log odds, of what is told as 0.5 and nearly so, on the side where it was: so much at most, half of it at least."""
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
        passed_s = at_s - self._seen_s[rows, None]
        fades = np.exp(-passed_s / MEAN_S)
        weight = (1 - fades) * (WARMING if warming else 1.0)
        weights = self._weight[rows] * fades + weight
        before, own = self._mean[rows], _log_odds(scores.values)
        share = passed_s * 0 if warming else np.minimum(passed_s / WITHIN_S, 1)  # half a clip shows nothing plainly
        mean = _drawn(before + weight / weights * (own - before), own, share)
        told = self._held(rows, at_s, mean)
        self._weight[rows], self._mean[rows], self._seen_s[rows] = weights, mean, at_s
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
        self._weight = np.zeros((0, 1))
        self._mean = np.zeros((0, len(labels)))
        """(tracks, labels), log odds."""
        self._said = np.zeros((0, len(labels)), np.bool_)
        """Whether 0.5 or more was told last."""
        self._over_s = np.zeros((0, len(labels)))
        """For how long the mean has been on the other side of 0.5 than what is told, -1 where it is not."""

    def _held(self, rows: NDArray[np.intp], at_s: float, mean: Floats) -> Floats:
        """(people, labels) means -> what is told, which changes sides as ``BAND`` has it; what waits has its order."""
        said, over_s = self._said[rows], self._over_s[rows]
        other = (mean >= 0) != said
        over_s = np.where(other, np.where(over_s < 0, 0.0, over_s + (at_s - self._seen_s[rows])[:, None]), -1.0)
        over = np.abs(mean)
        changed = other & (over >= BAND * (1 - over_s / CLOSES_S))
        over_s[changed] = -1.0
        said ^= changed
        self._said[rows], self._over_s[rows] = said, over_s
        edge = EDGE * (1 - over / (2 * BAND))
        return np.where(other & ~changed, np.where(said, edge, -edge), mean)

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


def _drawn(mean: Floats, own: Floats, share: Floats) -> Floats:
    """(people, labels) log odds; of each person all labels by as much of the way to ``own``; ``share`` (people, 1)."""
    away = 2 * np.abs(_angle(mean) - _angle(own)).max(1, initial=0, keepdims=True)
    return np.asarray(own + (mean - own) * np.maximum(1 - (away / PLAINLY) ** 2, 0) ** (2 * share))


def _angle(log_odds: Floats) -> Floats:
    """arcsin of the root of the probability: 0 to half of π."""
    return np.asarray(np.arctan(np.exp(log_odds / 2)))


def _log_odds(scores: Floats) -> Floats:
    """In double: of one keyframe alone the filter gives back what it was given."""
    bounded = np.asarray(scores, np.float64).clip(SUREST, 1 - SUREST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))
