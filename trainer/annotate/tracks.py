"""Boxes of one video to people: linked from picture to picture by overlap, short gaps filled in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stmixer.model.boxes import pairwise_iou
from stmixer.model.linking import Association, pairs_of_most_gain
from stmixer.trainer.annotate.person_detector import People

MIN_IOU = 0.2
"""Least overlap of a track's expected box with its next one: pictures may be a sixth of a second apart."""


@dataclass(slots=True)
class Track:
    """One person: ``steps`` of the pictures looked at, ascending, with a box (0–1) and a score each.

    ``filled`` are the steps at which nothing was found and the box lies on the line between its neighbours.
    """

    steps: list[int] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    filled: set[int] = field(default_factory=set)

    def add(self, step: int, box: NDArray[np.float64], score: float) -> None:
        """The next box; what lies between it and the last one is filled in."""
        if self.steps:
            last, before, sure = self.steps[-1], self.boxes[-1], self.scores[-1]
            for between in range(last + 1, step):
                share = (between - last) / (step - last)
                self._append(between, before + share * (box - before), sure + share * (score - sure))
                self.filled.add(between)
        self._append(step, box, score)

    def expected(self, step: int) -> NDArray[np.float64]:
        """Where the person should be: the last box, its centre gone on at its last speed."""
        if len(self.steps) < 2:
            return self.boxes[-1]
        before, last = self.boxes[-2], self.boxes[-1]
        moved = (last[:2] + last[2:] - before[:2] - before[2:]) / 2
        speed = moved / (self.steps[-1] - self.steps[-2])
        return np.asarray(last + np.tile(speed * (step - self.steps[-1]), 2))

    def _append(self, step: int, box: NDArray[np.float64], score: float) -> None:
        self.steps.append(step)
        self.boxes.append(box)
        self.scores.append(score)


class Tracker:
    """Links what is found, step by step. ``tracks`` holds all of them, by their first step.

    Args:
        max_gap: steps at which a person may be missed and still be the same.
    """

    def __init__(self, max_gap: int) -> None:
        self.tracks: list[Track] = []
        self._association = Association(MIN_IOU, max_gap)

    def feed(self, step: int, people: People) -> None:
        """Take in the next picture; steps must rise."""
        alive = [track for track in self.tracks if self._association.is_alive(track.steps[-1], step)]
        new = set(range(len(people.scores)))
        expected = np.array([track.expected(step) for track in alive]).reshape(-1, 4)
        gains = self._association.gains(pairwise_iou(expected, people.boxes_xyxy))
        for track, person in pairs_of_most_gain(gains):
            alive[track].add(step, people.boxes_xyxy[person], float(people.scores[person]))
            new.discard(person)
        for person in sorted(new):
            self.tracks.append(Track())
            self.tracks[-1].add(step, people.boxes_xyxy[person], float(people.scores[person]))
