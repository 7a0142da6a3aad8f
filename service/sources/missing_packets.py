"""Packets of a camera that are missing, told once for each time that some are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET_S = 10.0
"""Without a loss: then the next one is told again. Before the first is told they are counted for as long."""


class MissingPackets:
    """Of one connection. ``tell`` gets how many are missing so far."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._count, self._told = tell, 0, False
        self._looking: asyncio.TimerHandle | None = None

    def add(self, count: int) -> None:
        """So many more, or none."""
        self._count += count
        if self._count and self._looking is None:
            self._told = False
            self._look_later()

    def close(self) -> None:
        """None will come; what nobody has been told of is told."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
            self._say()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(QUIET_S, self._look)

    def _look(self) -> None:
        self._looking = None
        if self._count:
            self._say()
            self._look_later()

    def _say(self) -> None:
        count, self._count = self._count, 0
        if count and not self._told:
            self._told = True
            self._tell(count)
