"""What names stand for, asked of the system, which may take its time: each name in a thread of its own.

Nobody's slow names hold up those of others: a key has at most so many lookups on the way, and what it asks besides
waits for those. Only the system ends a lookup, after ten seconds to half a minute, whether or not somebody still waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakValueDictionary

MOST = 256
"""Lookups on the way in all: threads that do nothing but wait."""
OF_ONE = 16
"""Of these, of one key: twice the streams that it may have by default, for those that are gone already."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name, for a port. Raises OSError, UnicodeError."""


class Names:
    """All lookups of a service, of its event loop alone. Who asks for one name shares one lookup."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[list[str]]] = {}
        self._free = asyncio.Semaphore(MOST)
        self._free_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, whose: str | None) -> Resolve:
        """How one asks; ``whose`` are those that count together, None counts with nobody."""
        return functools.partial(self._ask, whose)

    async def _ask(self, whose: str | None, host: str, port: int) -> Sequence[str]:
        if host not in self._running:
            with contextlib.ExitStack() as places:
                for free in (self._places(whose), self._free):
                    await free.acquire()
                    places.callback(free.release)
                if host not in self._running:  # nobody else has begun meanwhile
                    self._begin(host, port, places.pop_all())
        return await asyncio.shield(self._running[host])  # whoever waits no longer ends it for nobody else

    def _places(self, whose: str | None) -> asyncio.Semaphore:
        """Those that this one has; they are forgotten once nobody has or wants one."""
        if whose is None:
            return asyncio.Semaphore(1)
        places = self._free_of.get(whose)
        if places is None:
            places = self._free_of[whose] = asyncio.Semaphore(OF_ONE)
        return places

    def _begin(self, host: str, port: int, places: contextlib.ExitStack) -> None:
        """Have a thread ask. ``places`` are given back once it is answered. Raises OSError."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def answered(addresses: list[str], error: Exception | None) -> None:
            places.close()
            del self._running[host]
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)
                found.exception()  # told to those who wait; there may be none any more

        def ask() -> None:
            addresses: list[str] = []
            error: Exception | None = None
            try:
                addresses = _look_up(host, port)
            except (OSError, UnicodeError, ValueError) as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(answered, addresses, error)

        try:
            threading.Thread(target=ask, name="name", daemon=True).start()
        except RuntimeError:
            places.close()
            raise OSError(errno.EAGAIN, "no thread can be started") from None
        self._running[host] = found


def _look_up(host: str, port: int) -> list[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
