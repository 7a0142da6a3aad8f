"""People who walk about, made up by a seed: they cross, hide each other, are missed, come and go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.tracked_sets import Keyframe, TrackedVideo

WIDTH, HEIGHT = 640, 360
SECONDS, BASE_HZ = 24, 8
HIDDEN_FROM = 0.6
"""Of a person's box so much behind somebody nearer, and they are not found."""
MISSED, MISSED_ON = 0.06, 0.5
"""How often somebody is missed who was found an eighth of a second before, and who was missed then too."""
MADE_UP = 0.02
"""How often somebody is found where nobody is, a keyframe."""
NOISE = 0.03
"""Of each edge, in heights of the person."""


@dataclass
class _Walker:
    """Feet on the floor in px; ``height`` grows towards the camera. They go somewhere, and then somewhere else."""

    x: float
    feet: float
    towards: tuple[float, float]
    speed: float
    missed: bool = False

    @property
    def height(self) -> float:
        """Px."""
        return 40 + 110 * (self.feet / HEIGHT) ** 2

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Corners, px."""
        return (self.x - 0.2 * self.height, self.feet - self.height, self.x + 0.2 * self.height, self.feet)

    def step(self, rng: np.random.Generator, seconds: float) -> None:
        """Go on; whoever has arrived stands for a while (speed 0) or goes elsewhere."""
        way = np.array(self.towards) - (self.x, self.feet)
        length = float(np.hypot(*way))
        far = self.speed * self.height * seconds
        if length <= max(far, 1.0):
            self.towards = (rng.uniform(-60, WIDTH + 60), rng.uniform(150, HEIGHT))
            self.speed = 0.0 if rng.random() < 0.25 else rng.uniform(0.3, 1.1)
        elif self.speed == 0.0:
            if rng.random() < seconds / 3:
                self.speed = rng.uniform(0.3, 1.1)
        else:
            self.x, self.feet = (self.x + way[0] / length * far, self.feet + way[1] / length * far / 2)

    def is_in(self) -> bool:
        """Whether half of them is in the picture."""
        return 0 <= self.x <= WIDTH


def scene(seed: int, hz: int) -> TrackedVideo:
    """A scene of 2 to 10 people, the same at every rate. ``hz`` divides ``BASE_HZ``."""
    rng = np.random.default_rng(seed)
    walkers = [
        _Walker(
            rng.uniform(0, WIDTH), rng.uniform(150, HEIGHT), (rng.uniform(0, WIDTH), rng.uniform(150, HEIGHT)),
            rng.uniform(0.3, 1.1),
        )
        for _ in range(rng.integers(2, 11))
    ]  # fmt: skip
    keyframes = []
    for k in range(SECONDS * BASE_HZ):
        found = _found(rng, walkers)
        here = {n: walker.box for n, walker in enumerate(walkers, start=1) if walker.is_in()}
        if k % (BASE_HZ // hz) == 0:
            boxes = np.array([box for box, _ in found], np.float64).reshape(-1, 4)
            keyframes.append(
                Keyframe(
                    k / BASE_HZ, k, HEIGHT, True, False, tuple(here), np.array(list(here.values())).reshape(-1, 4),
                    boxes, np.array([score for _, score in found]), np.zeros((len(found), 0)),
                )
            )  # fmt: skip
        for walker in walkers:
            walker.step(rng, 1 / BASE_HZ)
    return TrackedVideo(f"made up {seed}", (WIDTH, HEIGHT), tuple(keyframes))


def _found(rng: np.random.Generator, walkers: list[_Walker]) -> list[tuple[NDArray[np.float64], float]]:
    """Whom a detector finds, in any order, and how sure it is."""
    found = []
    for walker in walkers:
        walker.missed = rng.random() < (MISSED_ON if walker.missed else MISSED)
        noise, score = rng.normal(0, NOISE * walker.height, 4), rng.uniform(0.6, 1.0)
        nearer = [other.box for other in walkers if other is not walker and other.feet > walker.feet]
        if walker.is_in() and not walker.missed and _share_behind(walker.box, nearer) < HIDDEN_FROM:
            found.append((np.array(walker.box) + noise, score))
    if rng.random() < MADE_UP:
        x, y, height = rng.uniform(0, WIDTH), rng.uniform(150, HEIGHT), rng.uniform(40, 150)
        found.append((np.array((x - 0.2 * height, y - height, x + 0.2 * height, y)), rng.uniform(0.6, 0.8)))
    return [found[i] for i in rng.permutation(len(found))]


def _share_behind(box: tuple[float, float, float, float], nearer: list[tuple[float, float, float, float]]) -> float:
    """The largest share of a box that one of the others covers."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(
        (
            max(0.0, min(box[2], o[2]) - max(box[0], o[0])) * max(0.0, min(box[3], o[3]) - max(box[1], o[1])) / area
            for o in nearer
        ),
        default=0.0,
    )
