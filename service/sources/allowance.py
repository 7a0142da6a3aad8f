"""How much of the event loop's time one sender may take, be it a client's connection or a source that is fetched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SHARE = 0.3
"""Of the loop's time that one may take for long."""
BURST_S = 0.05
"""What it may take at once after a pause."""
PIECE_S = 0.001
"""What a read is to take at most."""
LEAST_READ, FIRST_READ, MOST_READ = 256, 4 * 1024, 32 * 1024
AT_ONCE_S = 0.005
"""For how long what is fetched may keep the loop before others have a turn."""
CHUNK_S = 100e-6
"""What the HTTP client takes for a chunk that it hands on: servers may send them of a byte each."""


class Allowance:
    """Loop time of one sender: ``share()`` of what passes, at most ``BURST_S`` of it saved up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, share: Callable[[], float] = lambda: SHARE) -> None:
        self._clock, self._share, self._left_s, self._at = clock, share, BURST_S, clock()
        self.read_bytes = FIRST_READ

    def spend(self, seconds: float) -> float:
        """Seconds were used; returns for how many to rest now, mostly 0."""
        now, share = self._clock(), self._share()
        self._left_s = min(BURST_S, self._left_s + (now - self._at) * share) - seconds
        self._at = now
        return max(0.0, -self._left_s / share)

    def took(self, count: int, seconds: float) -> None:
        """A read of ``count`` bytes took so long: the next one is to take ``PIECE_S`` at most."""
        fitting = round(count * PIECE_S / max(seconds, 1e-6))
        self.read_bytes = max(LEAST_READ, min(MOST_READ, 2 * self.read_bytes, fitting))


class LoopShare:
    """A fetched source's ``Allowance``: after each piece of its work others have a turn, once that is due."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, allowance: Allowance | None = None) -> None:
        """``allowance``: where several share one; ``clock`` may be of CPU time then."""
        self._clock, self._allowance = clock, Allowance(clock) if allowance is None else allowance
        self._at, self._spent_s = clock(), 0.0

    def begin(self, chunk_s: float = CHUNK_S) -> None:
        """A chunk has come: until here was waiting. ``chunk_s``: what it took before it was handed on."""
        self._at = self._clock()
        self._spent_s += chunk_s

    async def let_others(self) -> None:
        """A piece is done; rests where the share is used up."""
        self._spent_s += self._clock() - self._at
        if self._spent_s >= AT_ONCE_S:
            spent_s, self._spent_s = self._spent_s, 0.0
            await asyncio.sleep(self._allowance.spend(spent_s))
        self._at = self._clock()
