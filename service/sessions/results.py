"""Settled keyframes on their way to a stream's subscriber."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.metrics import Metrics
from stmixer.service.sources.clock import PictureClock


class Results:
    """All results in order with policy ``all``; with ``latest`` the newest one, and a count of what it displaced."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[tuple[Pending, int]] = deque()  # each with what was skipped before it
        self._skipped = 0
        self._changed = asyncio.Event()

    def add(self, stream: Stream, pending: Pending) -> None:
        """A settled keyframe: a result, or one more that was skipped."""
        assert pending.outcome is not None
        self._metrics.keyframes.labels(stream.source, pending.outcome).inc()
        if pending.outcome != "ok":
            self._skipped += 1
        else:
            if stream.policy == "latest" and not stream.ended and self._waiting:
                self._skipped += 1 + self._waiting.pop()[1]
                self._metrics.results_dropped.labels(stream.source).inc()
            self._waiting.append((pending, self._skipped))
            self._skipped = 0
            stream.undelivered = len(self._waiting)
        self.wake()

    def take(self, stream: Stream, clock: PictureClock) -> dict[str, Any] | None:
        """The next result as it goes out now; None while there is none."""
        if not self._waiting:
            return None
        pending, skipped = self._waiting.popleft()
        stream.undelivered = len(self._waiting)
        assert pending.result is not None
        now, source = time.monotonic(), stream.source
        captured_at = pending.seen_at if clock.origin is None else clock.origin + pending.keyframe.pts_us / 1e6
        self._metrics.e2e_latency.labels(source).observe(now - pending.frame_at)
        self._metrics.keyframe_age.labels(source).observe(now - captured_at)
        self._metrics.stage.labels("send").observe(now - pending.done_at)
        self._metrics.actors.inc(len(pending.result["actors"]))
        return {**pending.result, "dropped_since_last": skipped, "sent_at_us": time.time_ns() // 1000}

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._changed.set()

    async def wait(self) -> None:
        """Until something may have changed."""
        await self._changed.wait()
        self._changed.clear()
