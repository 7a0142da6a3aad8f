"""Which clips come in which order: a pure function of seed, epoch and position, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.errors import TrainError


@dataclass(frozen=True, slots=True)
class Draw:
    """A clip to make: keyframe ``keyframe`` of set ``source``, with augmentation drawn from ``seed``.

    What all clips of a batch have in common is drawn from ``batch_seed``.
    """

    source: int
    keyframe: int
    seed: tuple[int, ...]
    batch_seed: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of training clips on one process.

    Attributes:
        sizes: keyframes per set.
        weights: of the sets in the mixture; None where each has as many clips as keyframes.
        clips: per epoch, over all processes.
        batch: clips per step, over all processes; ``world`` divides it.
        rank, world: this process and how many there are.
        seed: of everything drawn.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None
    clips: int
    batch: int
    rank: int = 0
    world: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise TrainError(f"batch_size {self.batch} cannot be dealt to {self.world} processes evenly")

    def __len__(self) -> int:
        """Steps per epoch: the last batch is filled up from the epoch's beginning."""
        return (self.clips + self.batch - 1) // self.batch

    def batches(self, epoch: int) -> list[list[Draw]]:
        """This process's part of every batch of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        order = self._order(rng)
        order = [order[i % len(order)] for i in range(len(self) * self.batch)]
        part = self.batch // self.world
        batches = []
        for step in range(len(self)):
            first = step * self.batch + self.rank * part
            batches.append(
                [Draw(*order[i], (self.seed, epoch, i), (self.seed, epoch, step)) for i in range(first, first + part)],
            )
        return batches

    def _order(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        drawn = [
            (source, int(keyframe))
            for source, count in enumerate(_shares(self.clips, self.weights or self.sizes))
            for keyframe in _cycled(self.sizes[source], count, rng)
        ]
        return [drawn[i] for i in rng.permutation(len(drawn))]


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """A whole number of clips for each set, in proportion, together ``total``."""
    bounds = np.rint(np.cumsum(weights) / np.sum(weights) * total).astype(int)
    return [int(n) for n in np.diff(bounds, prepend=0)]


def _cycled(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of ``size`` keyframes, each once before any comes again."""
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(rounds)[:count] if rounds else np.zeros(0, dtype=np.int64)


def in_order(keyframe_videos: Sequence[np.ndarray], batch: int, rank: int = 0, world: int = 1) -> list[list[Draw]]:
    """Evaluation: every keyframe once, batches of one video each, this process's share of them, at least one.

    Args:
        keyframe_videos: per set, the video of each keyframe, ascending.
    """
    batches = []
    for source, videos in enumerate(keyframe_videos):
        for video in np.unique(videos):
            keyframes = np.flatnonzero(videos == video)
            for first in range(0, len(keyframes), batch):
                batches.append([Draw(source, int(k), (0,)) for k in keyframes[first : first + batch]])
    # a process without one does the first again: its loader may not be empty, and a keyframe counts once
    return batches[rank::world] or batches[:1]
