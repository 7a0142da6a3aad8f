"""Who is who from keyframe to keyframe of one stream: numbers that stay with people. Imports neither torch nor scipy.

Not in the paper. Each person's centre and size follow a Kalman filter of constant velocity whose uncertainty grows with
the time since they were seen, so that one keyframe a second and eight are the same problem. A keyframe's people are
given to the tracks all at once, by the assignment of the greatest likelihood (global nearest neighbour: Blackman and
Popoli, Design and Analysis of Modern Tracking Systems, 1999, §6.4).

Lengths are in heights of the picture, so nothing depends on its resolution; noise is in sizes of the person, the root
of the area of the box, which changes less than its height when somebody lies down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmixer.model.linking import pairs_by_turns, pairs_of_most_gain

Floats = NDArray[np.floating[Any]]

MOST_TOGETHER = 48
"""So many people are given to tracks all at once; more than that one after the other, the surest first, which takes a
tenth of the time."""
MAX_TRACKS = 256
"""Of a stream at a time; beyond that whoever was seen longest ago is given up."""

CENTRE_NOISE = 0.08
"""Standard deviation of a box's centre about the person's, in sizes."""
SIZE_NOISE = 0.15
"""And of its size, as a share of it."""
WALK = 0.6
"""Speed at which a person who has just come may go, sizes a second: standard deviation along each axis."""
TURN = 0.8
"""How much that changes, sizes a second in the root of a second."""
GROWTH, GROWTH_TURN = 0.15, 0.25
"""The same for the size: shares of it a second."""
FARTHEST = 3.5
"""Root of the Mahalanobis distance (three axes) from which a box is not this track's: 0.7 % of a true one's are."""
STRANGERS = 10.0
"""What it is worth that a person is no stranger, against twice the log likelihood of place and size, in sizes: rather
one likely pair and a stranger than two unlikely ones."""
AXES = 3


@dataclass(frozen=True, slots=True)
class TrackChanges:
    """What a keyframe has made of the tracks.

    ``ids`` (N,) int64: of the keyframe's people in their order, from 1, each at most once. ``started`` and ``ended``:
    tracks that began with it, and those that have been away for too long.
    """

    ids: NDArray[np.int64]
    started: tuple[int, ...]
    ended: tuple[int, ...]


class Tracks:
    """The people of one stream, ``MAX_TRACKS`` at most."""

    def __init__(self, last_id: int = 0) -> None:
        """``last_id``: the highest number that is given already."""
        self._last_id = last_id
        self._at_s = 0.0
        self._ids = np.zeros(0, np.int64)
        self._seen_s = np.zeros(0)
        self._place = np.zeros((0, AXES))
        self._velocity = np.zeros((0, AXES))
        # of each axis the covariance of place and velocity: three numbers
        self._variance = np.zeros((0, AXES, 3))

    def update(self, at_s: float, boxes_xyxy: Floats, height: float, longest_s: float) -> TrackChanges:
        """Take up a keyframe.

        Args:
            at_s: its moment in the stream, seconds; not before the last one's.
            boxes_xyxy: (N, 4) corners of its people, in the unit of ``height``, of any area.
            height: the picture's.
            longest_s: a track last seen longer ago has ended; more than from one keyframe to the next.
        """
        people = _centres_and_sizes(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) / height)
        ended = self._end_before(at_s - longest_s)
        if not len(people) and not len(self._ids):
            self._at_s = at_s
            return TrackChanges(np.zeros(0, np.int64), (), ended)
        self._forecast(max(0.0, at_s - self._at_s))
        self._at_s = at_s

        ids = np.zeros(len(people), np.int64)
        gains = self._gains(people)
        if min(gains.shape) <= MOST_TOGETHER:
            pairs = pairs_of_most_gain(gains)
        else:
            pairs = pairs_by_turns(gains, np.argsort(-gains.max(1), kind="stable").tolist())
        if pairs:
            rows, found = (np.array(side) for side in zip(*pairs, strict=True))
            self._correct(rows, people[found], at_s)
            ids[found] = self._ids[rows]
        new = np.flatnonzero(ids == 0)
        ids[new] = self._begin(people[new], at_s)
        return TrackChanges(ids, tuple(ids[new].tolist()), ended + self._end_surplus())

    def end(self) -> tuple[int, ...]:
        """The stream is over: the tracks that this ends."""
        return self._keep(np.zeros(len(self._ids), np.bool_))

    # -- the filter

    def _forecast(self, seconds: float) -> None:
        size = self._place[:, 2:]
        turn = np.concatenate((size * TURN, size * TURN, size * GROWTH_TURN), 1) ** 2
        place, both, speed = np.moveaxis(self._variance, 2, 0)
        self._place = self._place + self._velocity * seconds
        self._place[:, 2] = np.maximum(self._place[:, 2], size[:, 0] / 2)  # nobody shrinks away
        self._variance = np.stack(
            (
                place + 2 * seconds * both + seconds**2 * speed + turn * seconds**3 / 3,
                both + seconds * speed + turn * seconds**2 / 2,
                speed + turn * seconds,
            ),
            2,
        )

    def _gains(self, people: Floats) -> Floats:
        """(tracks, people) twice the log likelihoods above strangers'; 0 where the two cannot be one."""
        spread = self._variance[:, None, :, 0] + _noise(people)
        distance = ((people - self._place[:, None]) ** 2 / spread).sum(-1)
        # in sizes of the person: a likelihood of px would favour whoever is small
        volume = np.log(spread / np.maximum(people[:, 2:], _LEAST) ** 2).sum(-1)
        return np.where(distance < FARTHEST**2, (STRANGERS - distance - volume).clip(min=_LEAST), 0.0)

    def _correct(self, rows: NDArray[np.int64], people: Floats, at_s: float) -> None:
        place, both, speed = np.moveaxis(self._variance[rows], 2, 0)
        total = place + _noise(people)
        to_place, to_velocity = place / total, both / total
        error = people - self._place[rows]
        self._place[rows] += to_place * error
        self._velocity[rows] += to_velocity * error
        self._variance[rows] = np.stack((place * (1 - to_place), both * (1 - to_place), speed - to_velocity * both), 2)
        self._seen_s[rows] = at_s

    def _begin(self, people: Floats, at_s: float) -> NDArray[np.int64]:
        ids = np.arange(self._last_id + 1, self._last_id + 1 + len(people))
        self._last_id += len(people)
        size = people[:, 2:]
        speed = np.concatenate((size * WALK, size * WALK, size * GROWTH), 1) ** 2
        variance = np.stack((_noise(people), np.zeros_like(people), speed), 2)
        self._ids = np.concatenate((self._ids, ids))
        self._seen_s = np.concatenate((self._seen_s, np.full(len(people), at_s)))
        self._place = np.concatenate((self._place, people))
        self._velocity = np.concatenate((self._velocity, np.zeros_like(people)))
        self._variance = np.concatenate((self._variance, variance))
        return ids

    # -- ends

    def _end_before(self, moment_s: float) -> tuple[int, ...]:
        return self._keep(self._seen_s >= moment_s)

    def _end_surplus(self) -> tuple[int, ...]:
        kept = np.ones(len(self._ids), np.bool_)
        kept[np.argsort(-self._seen_s, kind="stable")[MAX_TRACKS:]] = False
        return self._keep(kept)

    def _keep(self, kept: NDArray[np.bool_]) -> tuple[int, ...]:
        ended = tuple(self._ids[~kept].tolist())
        if ended:
            self._ids, self._seen_s = self._ids[kept], self._seen_s[kept]
            self._place, self._velocity, self._variance = (
                self._place[kept], self._velocity[kept], self._variance[kept]
            )  # fmt: skip
        return ended


_LEAST = 1e-6
_MOST = 10.0
"""Above every log likelihood of a pair that counts, so that of two assignments the one with more pairs wins."""


def _centres_and_sizes(boxes_xyxy: Floats) -> Floats:
    """(N, 4) corners -> (N, 3): x, y, root of the area; a box of no area has a very small one."""
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=_LEAST)
    return np.concatenate(((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, np.sqrt(sides.prod(1, keepdims=True))), 1)


def _noise(people: Floats) -> Floats:
    """(N, 3) people -> variances of how they are measured."""
    size = people[:, 2:]
    return np.concatenate((size * CENTRE_NOISE, size * CENTRE_NOISE, size * SIZE_NOISE), 1) ** 2
