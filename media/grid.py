"""The time grid: which frame stands for which moment (docs/protocol.md, Time). Pure arithmetic on microseconds.

Samples lie on an absolute grid from t = 0, the first frame's pts. The frame at grid time s is the last one with
pts <= s + 1/60 s. So a frame with timestamp p serves from the first grid index i with s_i + 1/60 >= p until the next
frame that serves a later index; of two frames with the same first index the later one wins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")

HALF_RAW_US = 16_667
"""1/60 s, half a raw frame, rounded up so that whole-microsecond timestamps of 60 fps video fall on the right side."""

GAP_FLOOR_US = 250_000
"""No interval up to this is a discontinuity, however fast the stream."""


class TimeGrid:
    """Grid index <-> microseconds. ``step_s`` is the spacing, seconds."""

    def __init__(self, step_s: Fraction) -> None:
        self.step_us = step_s * 1_000_000

    def time_us(self, index: int) -> int:
        """The moment of a grid index."""
        return round(index * self.step_us)

    def first_served(self, pts_us: int) -> int:
        """The first grid index that a frame with this timestamp can stand for."""
        index = max(0, (pts_us - HALF_RAW_US) // self.step_us)
        while self.time_us(index) + HALF_RAW_US < pts_us:
            index += 1
        return index

    def nearest(self, t_us: int) -> int:
        """The grid index closest to a moment, the later one of two."""
        return int(Fraction(t_us) / self.step_us + Fraction(1, 2))


@dataclass(frozen=True, slots=True)
class Sample(Generic[T]):
    """A frame on the grid: the first index it serves, its timestamp, and the frame itself."""

    index: int
    pts_us: int
    frame: T


class FrameSampler(Generic[T]):
    """Chooses, frame by frame, those that the grid keeps."""

    def __init__(self, grid: TimeGrid) -> None:
        self._grid = grid
        self._pending: Sample[T] | None = None

    def feed(self, pts_us: int, frame: T) -> Sample[T] | None:
        """Take the next frame; return the one before it if that is now final (no later frame can displace it)."""
        settled = self._pending
        self._pending = Sample(self._grid.first_served(pts_us), pts_us, frame)
        return settled if settled is not None and settled.index < self._pending.index else None

    @property
    def newest(self) -> Sample[T] | None:
        """The newest frame; a later one may still displace it."""
        return self._pending


class SampleHistory(Generic[T]):
    """The kept samples of a stream, oldest first, and its discontinuities."""

    def __init__(self, grid: TimeGrid, typical_interval_us: float | None = None) -> None:
        self._grid = grid
        self._samples: deque[Sample[T]] = deque()
        self._intervals: deque[float] = deque(maxlen=31)
        if typical_interval_us is not None:
            self._intervals.append(typical_interval_us)
        self._gaps: deque[tuple[int, int, int]] = deque()
        self.newest_pts_us: int | None = None

    def observe(self, pts_us: int) -> bool:
        """Note the timestamp of every frame, kept or not. True if it follows a discontinuity."""
        previous, self.newest_pts_us = self.newest_pts_us, pts_us
        if previous is None:
            return False
        interval = pts_us - previous
        threshold = max(GAP_FLOOR_US, round(3 * median(self._intervals))) if self._intervals else None
        gap = threshold is not None and interval > threshold
        if gap and threshold is not None:
            self._gaps.append((previous, pts_us, threshold))
        else:
            self._intervals.append(interval)
        return gap

    def keep(self, sample: Sample[T]) -> None:
        """Add a sample, or replace the last one if it serves from the same index."""
        if self._samples and self._samples[-1].index == sample.index:
            self._samples.pop()
        self._samples.append(sample)

    @property
    def newest(self) -> Sample[T] | None:
        """The sample that was kept last."""
        return self._samples[-1] if self._samples else None

    def forget_before(self, index: int) -> list[Sample[T]]:
        """Drop and return the samples that no index from ``index`` on can ask for."""
        dropped = []
        while len(self._samples) > 1 and self._samples[1].index <= index:
            dropped.append(self._samples.popleft())
        start = self._grid.time_us(index)
        while self._gaps and self._gaps[0][1] < start:
            self._gaps.popleft()
        return dropped

    def at(self, indices: Sequence[int]) -> list[Sample[T]]:
        """The samples that stand for these grid indices; outside the stream its edge frame repeats."""
        keys = [s.index for s in self._samples]
        return [self._samples[max(0, bisect_right(keys, i) - 1)] for i in indices]

    def __len__(self) -> int:
        return len(self._samples)

    def is_whole(self, first: int, last: int) -> bool:
        """Whether a window from one grid index to another lies in one unbroken piece of the stream.

        Not so if it starts before t = 0 or touches a gap: reaches from before its end to after its beginning, or so far
        into it that the frame before the gap is too old to stand for the moment.
        """
        if first < 0:
            return False
        start, end = self._grid.time_us(first) + HALF_RAW_US, self._grid.time_us(last) + HALF_RAW_US
        return not any(start < after and end >= min(after, before + limit) for before, after, limit in self._gaps)
