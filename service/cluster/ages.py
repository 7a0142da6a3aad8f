"""How old keyframes were when they were told, of late: what a histogram has counted since it was looked at last."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Histogram

OF_ALL = 0.95
OVER_S = 5.0
"""Over so long at least it is said whether keyframes are late: a second has one of a stream, or none."""


class RecentAge:
    """``OF_ALL`` of the keyframes since the last look were no older than this, in seconds, by the histogram's buckets;
    0 where there were none, its last bound where they were older."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram, self._before = histogram, dict[float, float]()

    def look(self) -> float:
        """Since the last one."""
        counted: dict[float, float] = {}
        for family in self._histogram.collect():
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    at_most = float(sample.labels["le"])
                    counted[at_most] = counted.get(at_most, 0.0) + sample.value
        since = {at_most: count - self._before.get(at_most, 0.0) for at_most, count in counted.items()}
        self._before = counted
        whole = since.get(float("inf"), 0.0)
        if not whole:
            return 0.0
        *bounds, _ = sorted(since)
        return next((at_most for at_most in bounds if since[at_most] >= OF_ALL * whole), bounds[-1])


class Lateness:
    """Whether keyframes were older than ``limit_s`` when they were told, over the last ``OVER_S``."""

    def __init__(self, age: RecentAge, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._age, self._limit_s, self._clock = age, limit_s, clock
        self._looked_at, self._late = clock(), False

    def look(self) -> bool:
        """Asked however often, by whomever."""
        now = self._clock()
        if now - self._looked_at >= OVER_S:
            self._looked_at, self._late = now, self._age.look() > self._limit_s
        return self._late
