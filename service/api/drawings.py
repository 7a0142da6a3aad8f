"""Videos that are being drawn from results that were given: how many at a time, and how far each has come."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from stmixer.service.access import Caller
from stmixer.service.api.doorway import place_of
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.schemas import DrawProgress

AT_A_TIME = 2
"""Each takes a core, and the model wants some too."""
OF_ONE = 1
"""Of these, of a key, or of an address where no keys are asked for: one's long videos leave room for another's. This
machine's own address, where no keys are asked for, is nobody else's."""

DRAWN = "drawn"


@dataclass(eq=False)
class Drawing:
    """One of them. ``request_id``: of the request that asked for it; ``whose``: the key or the address among whose it
    counts; ``done_s`` seconds of the video are drawn, of ``of_s``, None until that is known."""

    request_id: str
    caller: Caller
    whose: str
    done_s: float = 0.0
    of_s: float | None = None

    def come(self, done_s: float, of_s: float | None) -> None:
        """So far."""
        self.done_s, self.of_s = done_s, of_s

    def progress(self) -> DrawProgress:
        """As whoever asks is told."""
        return DrawProgress(done_s=self.done_s, duration_s=self.of_s)


class Drawings:
    """All that run or wait for their turn, which is at most ``wait_s`` away."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._free = asyncio.Semaphore(AT_A_TIME)
        self._free_of: dict[str, asyncio.Semaphore] = {}
        self._all: set[Drawing] = set()

    @asynccontextmanager
    async def one_more(
        self, request_id: str, caller: Caller, address: str = "", *, done: str = DRAWN
    ) -> AsyncIterator[Drawing]:
        """Around one, from when its turn has come; ``address``: whence it is asked for; ``done``: what is done with
        such videos, in words. Raises CapacityError."""
        drawing = Drawing(request_id, caller, place_of(address) if caller.key is None else caller.key.sha256)
        self._all.add(drawing)
        alone = caller.key is None and _is_this_machine(address)
        own = self._free_of.setdefault(drawing.whose, asyncio.Semaphore(AT_A_TIME if alone else OF_ONE))
        try:
            async with AsyncExitStack() as places:
                try:
                    async with asyncio.timeout(self._wait_s):
                        await places.enter_async_context(own)
                        await places.enter_async_context(self._free)
                except TimeoutError:
                    one = "address" if caller.key is None else "key"
                    full = f"{AT_A_TIME} videos, or {OF_ONE} of this {one}, are being {done} already; try again later"
                    raise CapacityError("capacity", full) from None
                yield drawing
        finally:
            self._all.discard(drawing)
            if all(other.whose != drawing.whose for other in self._all):
                del self._free_of[drawing.whose]

    def find(self, request_id: str, caller: Caller) -> Drawing:
        """The caller's own. Raises InputError (404) where there is none, be it somebody else's."""
        for drawing in self._all:
            if drawing.request_id == request_id and drawing.caller.is_same(caller):
                return drawing
        raise InputError("not_found", "nothing is being drawn under this request id", 404)


def _is_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
