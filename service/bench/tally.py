"""What came of a load: times as clients saw them, counts as the service told them, and whether those add up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stmixer.service.schemas import OUTCOMES, Result, Summary


@dataclass(frozen=True, slots=True)
class Seen:
    """A result at its client: when it came, seconds since its last needed frame was sent, and since its moment."""

    at: float
    latency_s: float
    freshness_s: float


class Sent:
    """When a camera's frames were taken and sent, by their timestamps."""

    def __init__(self) -> None:
        self._pts_us: list[int] = []
        self._taken: list[float] = []
        self._sent: list[float] = []

    def frame(self, pts_us: int, taken: float, sent: float) -> None:
        """One more; a timestamp that goes back is one that the service drops."""
        if not self._pts_us or pts_us > self._pts_us[-1]:
            self._pts_us.append(pts_us)
            self._taken.append(taken)
            self._sent.append(sent)

    def seen(self, result: Result, lookahead_us: int, at: float) -> Seen:
        """What a result says."""
        last = len(self._pts_us) - 1
        needed = min(bisect_left(self._pts_us, result.pts_us + lookahead_us), last)
        shown = min(bisect_left(self._pts_us, result.pts_us), last)
        moment = self._taken[shown] - max(0.0, (self._pts_us[shown] - result.pts_us) / 1e6)
        return Seen(at, at - self._sent[needed], at - moment)


@dataclass
class Tally:
    """Of all clients. ``faults`` by kind, as injected; ``process_faults``: seconds from the start, kind;
    ``ends`` of sockets by why; ``broken``: sums that fail."""

    results: list[Seen] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    received: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    process_faults: list[tuple[float, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def summary(self, summary: Summary) -> None:
        """A stream's or an upload's counts, which have to add up."""
        kept = summary.sampled + summary.not_sampled + sum(summary.dropped.values())
        settled = {name: getattr(summary, name) for name in OUTCOMES}
        if summary.received != kept or summary.keyframes_due != sum(settled.values()) + summary.pending:
            self.broken.append(summary.model_dump_json())
        self.received += summary.received
        self.drops.update(summary.dropped)
        self.outcomes.update(settled)

    def report(self) -> dict[str, Any]:
        """Everything, in figures."""
        due = sum(self.outcomes.values())
        return {
            "results": len(self.results),
            "latency_ms": percentiles_ms([r.latency_s for r in self.results]),
            "freshness_ms": percentiles_ms([r.freshness_s for r in self.results]),
            "uploads": len(self.clips),
            "upload_ms": percentiles_ms(self.clips),
            "frames_received": self.received,
            "frames_dropped": dict(self.drops),
            "keyframes": dict(self.outcomes),
            "keyframes_ok_share": round(self.outcomes["ok"] / due, 4) if due else None,
            "stream_ends": dict(self.ends),
            "refused": dict(self.refused),
            "warnings": dict(self.warnings),
            "faults": dict(self.faults),
            "process_faults": self.process_faults,
            "sums_that_fail": self.broken,
        }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99, milliseconds; None of nothing."""
    if not seconds:
        return None
    values = np.percentile(np.asarray(seconds) * 1e3, (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), (round(float(v), 1) for v in values), strict=True))
