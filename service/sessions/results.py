"""Settled keyframes on their way to a stream's subscriber."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import Result, TrackChange

MAX_TRACK_CHANGES = 1024
"""That wait for a live stream's subscriber, the oldest give way: as many as a crowd makes while a socket is lost."""


class Results:
    """All results in order with policy ``all``; with ``latest`` the newest one, and a count of what it displaced."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[tuple[Pending, int]] = deque()  # each with what was skipped before it
        self._skipped = 0
        self._tracks: deque[TrackChange] = deque(maxlen=MAX_TRACK_CHANGES)
        self._changed = asyncio.Event()

    def add(self, stream: Stream, pending: Pending) -> None:
        """A settled keyframe: a result, or one more that was skipped; before it those that a gap jumped over."""
        assert pending.outcome is not None
        self._metrics.keyframes.labels(stream.source, pending.outcome).inc()
        self._skipped += pending.skipped_before
        if pending.outcome != "ok":
            self._skipped += 1
        else:
            if stream.policy == "latest" and not stream.ended and self._waiting:
                displaced, skipped = self._waiting.pop()
                self._skipped += 1 + skipped
                pending.tracks = [*displaced.tracks, *pending.tracks][-MAX_TRACK_CHANGES:]
                self._metrics.results_dropped.labels(stream.source).inc()
            self._waiting.append((pending, self._skipped))
            self._skipped = 0
            stream.undelivered = len(self._waiting)
        self._changed.set()

    def take(self, stream: Stream, origin: float | None, capture_origin_us: int | None = None) -> Result | None:
        """The next result as it goes out now; None while there is none.

        ``origin``: monotonic seconds of t = 0 by the source's own clock, where it has one; ``capture_origin_us``: epoch
        µs of it by the camera's.
        """
        if not self._waiting:
            return None
        pending, skipped = self._waiting.popleft()
        stream.undelivered = len(self._waiting)
        if stream.source != "upload":
            self._tracks += pending.tracks
        result = pending.result
        assert result is not None
        now, source = time.monotonic(), stream.source
        captured_at = pending.seen_at if origin is None else origin + result.pts_us / 1e6
        self._metrics.e2e_latency.labels(source).observe(now - pending.frame_at)
        self._metrics.keyframe_age.labels(source).observe(now - captured_at)
        self._metrics.stage.labels("send").observe(now - pending.done_at)
        self._metrics.actors.inc(len(result.actors))
        result.dropped_since_last = skipped
        if capture_origin_us is not None:
            result.capture_at_us = result.pts_us + capture_origin_us
        # by the clock of all our durations: the wall clock may have been set since
        result.sent_at_us = result.received_at_us + round((now - pending.seen_at) * 1e6)
        return result

    def take_tracks(self) -> list[TrackChange]:
        """Who has come and gone up to the last result that was taken, those of displaced ones included."""
        changes = list(self._tracks)
        self._tracks.clear()
        return changes

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._changed.set()

    async def wait(self) -> None:
        """Until something may have changed."""
        await self._changed.wait()
        self._changed.clear()
