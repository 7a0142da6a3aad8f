"""Videos that are being drawn from results that were given: how many at a time, and how far each has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from stmixer.service.access import Caller
from stmixer.service.errors import CapacityError, InputError

AT_A_TIME = 2
"""Each takes a core, and the model wants some too."""
OF_A_KEY = 1
"""Of these, so that one key's long videos leave room for another's."""


@dataclass(eq=False)
class Drawing:
    """One of them. ``request_id``: of the request that asked for it; ``done_s`` seconds of the video are drawn, of
    ``of_s``, None until that is known."""

    request_id: str
    caller: Caller
    done_s: float = 0.0
    of_s: float | None = None

    def come(self, done_s: float, of_s: float | None) -> None:
        """So far."""
        self.done_s, self.of_s = done_s, of_s


class Drawings:
    """All that run or wait for their turn, which is at most ``wait_s`` away."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._free = asyncio.Semaphore(AT_A_TIME)
        self._free_of: WeakKeyDictionary[Caller, asyncio.Semaphore] = WeakKeyDictionary()
        self._all: set[Drawing] = set()

    @asynccontextmanager
    async def one_more(self, request_id: str, caller: Caller) -> AsyncIterator[Drawing]:
        """Around one, from when its turn has come. Raises CapacityError where it does not."""
        drawing = Drawing(request_id, caller)
        self._all.add(drawing)
        own = self._free_of.setdefault(caller, asyncio.Semaphore(AT_A_TIME if caller.key is None else OF_A_KEY))
        try:
            async with AsyncExitStack() as places:
                try:
                    async with asyncio.timeout(self._wait_s):
                        await places.enter_async_context(own)
                        await places.enter_async_context(self._free)
                except TimeoutError:
                    full = f"{AT_A_TIME} videos, or {OF_A_KEY} of this key, are being drawn already; try again later"
                    raise CapacityError("capacity", full) from None
                yield drawing
        finally:
            self._all.discard(drawing)

    def find(self, request_id: str, caller: Caller) -> Drawing:
        """The caller's own. Raises InputError (404) where there is none, be it somebody else's."""
        for drawing in self._all:
            if drawing.request_id == request_id and drawing.caller.is_same(caller):
                return drawing
        raise InputError("not_found", "nothing is being drawn under this request id", 404)
