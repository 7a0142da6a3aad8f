"""When a decoder is given up, as a worker is: what it owes does not come on, or it computes more than it may.

It owes something where it has been given media and has not asked for room to write: a live stream whose client sends
nothing owes nothing. Whatever changes of what can be seen from outside is progress: a message, bytes that it took.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Hashable
from pathlib import Path

STUCK_S = 20.0
"""How long what a decoder owes may not come on: many times what its largest picture takes on a busy machine."""
LOOK_S = 1.0
CPU_PER_LIVE_SECOND = 1.5
"""Of a live stream's decoder, which decodes on one thread: what it may compute a second, for long."""
CPU_BURST_S = 30.0
"""What it may besides, at once."""
_UTIME_AT = 11
"""Of /proc/PID/stat behind the name, from 0: user time in ticks, and after it system time."""
_TICKS = os.sysconf("SC_CLK_TCK")

State = Callable[[], Hashable | None]
"""How far what is owed has come; None where nothing is."""


class Patience:
    """For how long a debt has not come on. Time passes in looks, so that a machine that slept holds nobody up."""

    def __init__(self, most_s: float) -> None:
        self._most_s, self._waited_s = most_s, 0.0
        self._state: Hashable | None = None

    def over(self, passed_s: float, state: Hashable | None) -> bool:
        """Whether, now that ``passed_s`` more have gone by, the debt stands as it stood ``most_s`` ago."""
        if state is None or state != self._state:
            self._state, self._waited_s = state, 0.0
            return False
        self._waited_s += passed_s
        return self._waited_s >= self._most_s


class Computing:
    """CPU seconds that a live decoder may use: ``per_second`` of what passes, at most ``burst_s`` of it saved up."""

    def __init__(self, per_second: float, burst_s: float) -> None:
        self._per_second, self._burst_s, self._left_s = per_second, burst_s, burst_s
        self._used_s: float | None = None

    def exceeded(self, passed_s: float, used_s: float) -> bool:
        """Whether ``used_s`` CPU seconds in all, ``passed_s`` after the look before, are more than it may."""
        if self._used_s is not None:
            spent = used_s - self._used_s
            self._left_s = min(self._burst_s, self._left_s + self._per_second * passed_s - spent)
        self._used_s = used_s
        return self._left_s < 0


async def until_given_up(pid: int, state: State, *, live: bool) -> str:
    """Look at a decoder until it has to be ended; why: ``stuck``, or ``cpu`` where a ``live`` one computes too much."""
    patience, computing = Patience(STUCK_S), Computing(CPU_PER_LIVE_SECOND, CPU_BURST_S)
    before = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        now = time.monotonic()
        if patience.over(min(now - before, 2 * LOOK_S), state()):
            return "stuck"
        if live and (used_s := cpu_seconds(pid)) is not None and computing.exceeded(now - before, used_s):
            return "cpu"
        before = now


def cpu_seconds(pid: int) -> float | None:
    """What a process has computed so far, s; None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return (int(fields[_UTIME_AT]) + int(fields[_UTIME_AT + 1])) / _TICKS
