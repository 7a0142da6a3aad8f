"""How old keyframes were when they were told, of late: what a histogram has counted since it was looked at last."""

from __future__ import annotations

from prometheus_client import Histogram

OF_ALL = 0.95


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
