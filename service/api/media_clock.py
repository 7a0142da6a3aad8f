"""Whether a camera's media still comes: what holds a stream open is media that can be used, not messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from stmixer.service.schemas import Summary

USELESS = ("corrupt", "out_of_order")
"""Why frames are dropped that were of no use as they came."""
FIRST_FRAMES = 3
"""Idle times that a container may take from one picture to the next while its bytes come: segments are long."""


class MediaClock:
    """``idle_s``: how long a stream may be without media. ``container``: what a message is worth shows late in one."""

    def __init__(self, idle_s: float, *, container: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s, self._container, self._clock = idle_s, container, clock
        self._useful = self._useless = 0
        self._came_at = self._useful_at = clock()

    def begin(self) -> None:
        """The time runs from here."""
        self._came_at = self._useful_at = self._clock()

    def came(self, count: int) -> None:
        """A media message of so many bytes was taken; an empty one is none."""
        if count:
            self._came_at = self._clock()

    def overdue(self, counts: Summary) -> str | None:
        """Why the stream has been without media for too long, by its counts now; None while it has not."""
        now, dropped = self._clock(), counts.dropped
        useful, useless = counts.received - sum(dropped.values()), sum(dropped.get(reason, 0) for reason in USELESS)
        if useful > self._useful:
            self._useful, self._useless, self._useful_at = useful, useless, now
        if now - self._came_at > self._idle_s:
            return f"no media came for {self._idle_s:g} s"
        if useless > self._useless and now - self._useful_at > self._idle_s:
            return f"no picture that can be used came for {self._idle_s:g} s"
        slowest_s = FIRST_FRAMES * self._idle_s
        if self._container and not counts.pending and now - self._useful_at > slowest_s:
            return f"no picture came out of the media for {slowest_s:g} s"
        return None
