"""Who is who from keyframe to keyframe of one stream: numbers that stay with people. Imports neither torch nor scipy.

Not in the paper. Each person's centre and size follow a Kalman filter of constant velocity whose uncertainty grows with
the time since they were seen, so that one keyframe a second and eight are the same problem. A keyframe's people are
given to the tracks all at once, by the assignment of the greatest likelihood (global nearest neighbour: Blackman and
Popoli, Design and Analysis of Modern Tracking Systems, 1999, §6.4).

Besides, people are told apart by what the decoder knows of them: two boxes of one person have similar queries, also
where somebody else stands in their place.

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
KNOWN, KNOWN_TIMES = 4.0, 8
"""What it is worth, in the same measure, that a track has been seen before: so much for each e-fold of how often, up to
so many times. A second box around somebody, as detectors give now and then, then takes nobody's place."""
SIMILAR, MIDDLE = 10.0, 0.5
"""What it is worth, in the same measure, that a person's queries are similar to the track's: so much for each 1 of the
cosine over the middle between one person's and two people's."""
KEPT_S = 3.0
"""A track's are a mean of so many seconds."""
AXES = 3
_NOISES = np.array([[CENTRE_NOISE], [CENTRE_NOISE], [SIZE_NOISE]])
_SPEEDS = np.array([[WALK], [WALK], [GROWTH]])
_TURNS = np.array([[TURN], [TURN], [GROWTH_TURN]])
"""(AXES, 1): of each axis, in sizes."""


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
        self.last_id = last_id
        """The highest number that is given already."""
        self._at_s = 0.0
        self._ids = np.zeros(0, np.int64)
        self._seen_s = np.zeros(0)
        self._times = np.zeros(0)
        """How often each was seen."""
        self._looks = np.zeros((0, 0))
        """(tracks, 2D) unit vectors, zero of whom nothing is known."""
        self._state = np.zeros((5, AXES, 0))
        """Place, velocity, the variance of the place, both's covariance, the variance of the velocity; a column a
        track: a stream's keyframe is too small for anything but the number of steps to matter."""

    def update(
        self, at_s: float, boxes_xyxy: Floats, height: float, longest_s: float, looks: Floats | None = None
    ) -> TrackChanges:
        """Take up a keyframe.

        Args:
            at_s: its moment in the stream, seconds; not before the last one's.
            boxes_xyxy: (N, 4) corners of its people, in the unit of ``height``, of any area.
            height: the picture's.
            longest_s: a track last seen longer ago has ended; more than from one keyframe to the next.
            looks: (N, 2D) unit vectors of their queries (``model.postprocess.looks_of``), zero of whom nothing is
                known; None of nobody.
        """
        people = _centres_and_sizes(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) / height)
        count = people.shape[1]
        ended = self._end_before(at_s - longest_s)
        if not count and not len(self._ids):
            self._at_s = at_s
            return TrackChanges(np.zeros(0, np.int64), (), ended)
        self._forecast(max(0.0, at_s - self._at_s))
        self._at_s = at_s

        ids = np.zeros(count, np.int64)
        gains, looks = self._gains(people), self._comparable(count, looks)
        if looks.shape[1]:
            gains = self._by_looks(gains, looks)
        if min(gains.shape) <= MOST_TOGETHER:
            pairs = pairs_of_most_gain(gains)
        else:
            pairs = pairs_by_turns(gains, np.argsort(-gains.max(1), kind="stable").tolist())
        if pairs:
            rows, found = (np.array(side) for side in zip(*pairs, strict=True))
            self._see(rows, looks[found], at_s)
            self._correct(rows, people[:, found], at_s)
            ids[found] = self._ids[rows]
        if len(pairs) == count:
            return TrackChanges(ids, (), ended)
        new = np.flatnonzero(ids == 0)
        ids[new] = self._begin(people[:, new], looks[new], at_s)
        return TrackChanges(ids, tuple(ids[new].tolist()), ended + self._end_surplus())

    def end(self) -> tuple[int, ...]:
        """The stream is over: the tracks that this ends."""
        return self._keep(np.zeros(len(self._ids), np.bool_))

    def forget_looks(self) -> None:
        """Another model's come from now on."""
        self._looks = np.zeros((len(self._ids), 0))

    # -- what is known of people

    def _comparable(self, count: int, looks: Floats | None) -> Floats:
        """(people, 2D) of this keyframe; the tracks' get as many numbers."""
        found = np.zeros((count, self._looks.shape[1])) if looks is None else np.asarray(looks, np.float64)
        if found.shape[1] != self._looks.shape[1]:
            self._looks = np.zeros((len(self._ids), found.shape[1]))
        return found

    def _by_looks(self, gains: Floats, looks: Floats) -> Floats:
        """(tracks, people) gains, more for whom is alike; where it cannot be by place it stays so."""
        alike = self._looks @ looks.T
        known = np.logical_and.outer(self._looks.any(1), looks.any(1))
        return np.where((gains > 0) & known, np.maximum(gains + SIMILAR * (alike - MIDDLE), 0.0), gains)

    def _see(self, rows: NDArray[np.int64], looks: Floats, at_s: float) -> None:
        before = self._looks[rows]
        fades = np.exp((self._seen_s[rows] - at_s) / KEPT_S)[:, None]
        # what is not known changes nothing
        mean = np.where(looks.any(1, keepdims=True), fades * before + (1 - fades) * looks, before)
        self._looks[rows] = mean / np.maximum(np.sqrt((mean * mean).sum(1, keepdims=True)), _LEAST)

    # -- the filter

    def _forecast(self, seconds: float) -> None:
        place, velocity, variance, both, speed = self._state
        size = place[2].copy()
        turn = (size * _TURNS) ** 2
        place += velocity * seconds
        np.maximum(place[2], size / 2, out=place[2])  # nobody shrinks away
        variance += seconds * (2 * both + seconds * speed) + turn * (seconds**3 / 3)
        both += seconds * speed + turn * (seconds**2 / 2)
        speed += turn * seconds

    def _gains(self, people: Floats) -> Floats:
        """(tracks, people) twice the log likelihoods above strangers', more for who is known; 0 where it cannot be."""
        spread = self._state[2, :, :, None] + _noise(people)[:, None]
        error = people[:, None] - self._state[0, :, :, None]
        distance = (error * error / spread).sum(0)
        # in sizes of the person: a likelihood of px would favour whoever is small
        volume = np.log((spread / np.maximum(people[2], _LEAST) ** 2).prod(0))
        known = KNOWN * np.log(np.minimum(self._times, KNOWN_TIMES))[:, None]
        gains = np.maximum(STRANGERS + known - distance - volume, _LEAST)
        return np.asarray(gains * (distance < FARTHEST**2))

    def _correct(self, rows: NDArray[np.int64], people: Floats, at_s: float) -> None:
        state = self._state[:, :, rows]
        place, velocity, variance, both, speed = state
        total = variance + _noise(people)
        to_place, to_velocity = variance / total, both / total
        error = people - place
        place += to_place * error
        velocity += to_velocity * error
        speed -= to_velocity * both
        both *= 1 - to_place
        variance *= 1 - to_place
        self._state[:, :, rows] = state
        self._seen_s[rows] = at_s
        self._times[rows] += 1

    def _begin(self, people: Floats, looks: Floats, at_s: float) -> NDArray[np.int64]:
        nothing, count = np.zeros_like(people), people.shape[1]
        ids = np.arange(self.last_id + 1, self.last_id + 1 + count)
        self.last_id += count
        state = np.stack((people, nothing, _noise(people), nothing, (people[2] * _SPEEDS) ** 2))
        self._ids = np.concatenate((self._ids, ids))
        self._seen_s = np.concatenate((self._seen_s, np.full(count, at_s)))
        self._times = np.concatenate((self._times, np.ones(count)))
        self._state = np.concatenate((self._state, state), 2)
        self._looks = np.concatenate((self._looks, looks))
        return ids

    # -- ends

    def _end_before(self, moment_s: float) -> tuple[int, ...]:
        return self._keep(self._seen_s >= moment_s)

    def _end_surplus(self) -> tuple[int, ...]:
        if len(self._ids) <= MAX_TRACKS:
            return ()
        kept = np.ones(len(self._ids), np.bool_)
        kept[np.argsort(-self._seen_s, kind="stable")[MAX_TRACKS:]] = False
        return self._keep(kept)

    def _keep(self, kept: NDArray[np.bool_]) -> tuple[int, ...]:
        if kept.all():
            return ()
        ended = tuple(self._ids[~kept].tolist())
        self._ids, self._seen_s, self._times = self._ids[kept], self._seen_s[kept], self._times[kept]
        self._state, self._looks = self._state[:, :, kept], self._looks[kept]
        return ended


_LEAST = 1e-6


def _centres_and_sizes(boxes_xyxy: Floats) -> Floats:
    """(N, 4) corners -> (3, N): x, y, root of the area; a box of no area has a very small one."""
    x1, y1, x2, y2 = boxes_xyxy.T
    area = np.maximum(x2 - x1, _LEAST) * np.maximum(y2 - y1, _LEAST)
    return np.stack(((x1 + x2) / 2, (y1 + y2) / 2, np.sqrt(area)))


def _noise(people: Floats) -> Floats:
    """(3, N) people -> variances of how they are measured."""
    return np.asarray((people[2] * _NOISES) ** 2)
