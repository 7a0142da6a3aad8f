"""``stmixer serve`` that tells what its event loop runs for long, in lines of its log (``stalls``).

What takes CPU on the loop is the service's own fault. What only takes time there waits for a core, or for a thread
that holds Python's lock.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from asyncio import events
from collections.abc import Iterable

from stmixer.service.bench import faulty_service

LONG_S = 0.02
_LINE = re.compile(r"loop: (\d+) ms of CPU, (\d+) ms, (.*)")


def stalls(log: Iterable[str]) -> list[tuple[int, int, str]]:
    """ms of CPU, ms, and what it was, of all that took at least ``LONG_S``; the longest by CPU first."""
    found = [match.groups() for line in log if (match := _LINE.search(line))]
    return sorted(((int(cpu), int(wall), what) for cpu, wall, what in found), reverse=True)


def watch() -> None:
    """From now on, in this process."""
    run = events.Handle._run

    def timed(self: events.Handle) -> None:
        task, used, began = getattr(self._callback, "__self__", None), time.thread_time(), time.monotonic()
        run(self)
        cpu, wall = time.thread_time() - used, time.monotonic() - began
        if wall >= LONG_S:
            coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
            what = getattr(coroutine or self._callback, "__qualname__", type(self._callback).__name__)
            print(f"loop: {cpu * 1e3:.0f} ms of CPU, {wall * 1e3:.0f} ms, {what}", file=sys.stderr, flush=True)

    events.Handle._run = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    watch()
    faulty_service.main([])
