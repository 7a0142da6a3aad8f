"""The streams of ``--streams``: begun with the service, and kept to what the file says each time it is read anew.

What is unchanged in the file is not touched. One that finds no room is tried again until there is some; one that
somebody has ended stays away until the file is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from stmixer.service.errors import InputError, StartError, StmixerError
from stmixer.service.schemas import PullOrder
from stmixer.service.sessions.pulled_stream import PulledStream, PulledStreams
from stmixer.service.sources.source import cancelled
from stmixer.service.streams_file import read_streams

log = logging.getLogger("stmixer.pulled")

AGAIN_S = 10.0
"""Until what found no room is tried again."""


class FiledStreams:
    """``check`` raises InputError for an order that can never be carried out, ``begin`` carries one out, ``change``
    gives a stream the rules of its order.
    """

    def __init__(
        self,
        path: Path,
        pulled: PulledStreams,
        check: Callable[[PullOrder], object],
        begin: Callable[[PullOrder], Awaitable[PulledStream]],
        change: Callable[[PulledStream, PullOrder], Awaitable[None]],
    ) -> None:
        self._path, self._pulled, self._check, self._begin, self._change = path, pulled, check, begin, change
        self._running: dict[str, tuple[PullOrder, PulledStream]] = {}
        self._waiting: dict[str, PullOrder] = {}
        self._asked = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def read(self) -> dict[str, PullOrder]:
        """What the file says now. Raises StartError for one that cannot be used, which changes nothing."""
        orders = read_streams(self._path)
        self.check(orders)
        return orders

    def check(self, orders: dict[str, PullOrder]) -> None:
        """Raises StartError for some that can never be carried out."""
        for name, order in orders.items():
            try:
                self._check(order)
            except InputError as error:
                raise StartError("bad_streams", f"--streams {self._path}: {name}: {error}") from None

    def start(self, orders: dict[str, PullOrder]) -> None:
        """Begin with what was read, and see to it from now on."""
        self._keeping = asyncio.create_task(self._keep(orders))

    def read_again(self) -> None:
        """Have it be as the file says now."""
        self._asked.set()

    async def close(self) -> None:
        """See to nothing more; the streams are ended with all others."""
        await cancelled(self._keeping)

    async def _keep(self, orders: dict[str, PullOrder]) -> None:
        read: dict[str, PullOrder] | None = orders
        while True:
            try:
                if read is None:
                    await self._begin_all(self._waiting)
                else:
                    await self._follow(read)
            except Exception:  # whatever it was, the file is read again when that is asked for
                log.exception("the streams of --streams may not be what their file says")
            read = await self._next()

    async def _next(self) -> dict[str, PullOrder] | None:
        """What the file says once it is to be read anew; None where it is time for what found no room."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S if self._waiting else None):
                    await self._asked.wait()
            if not self._asked.is_set():
                return None
            self._asked.clear()
            try:
                return await asyncio.to_thread(self.read)
            except StartError as error:
                log.error("%s; the streams of before stay", error)
            except Exception:  # nested too deeply, for one
                log.exception("%s cannot be read; the streams of before stay", self._path)

    async def _follow(self, orders: dict[str, PullOrder]) -> None:
        """End what the file has no more, or otherwise, and begin what it has besides; other rules end nothing."""
        there = set(self._pulled.all())
        kept = {
            name: (orders[name], stream)
            for name, (order, stream) in self._running.items()
            if stream in there and name in orders and _but_for_rules(orders[name]) == _but_for_rules(order)
        }
        changed = [(name, stream, order) for name, (order, stream) in kept.items() if self._running[name][0] != order]
        over = [stream for name, (_, stream) in self._running.items() if name not in kept and stream in there]
        former = {name: order for name, (order, _) in self._running.items()}
        self._running, self._waiting = dict(kept), {}
        ends = await asyncio.gather(*(self._pulled.remove(stream) for stream in over), return_exceptions=True)
        for error in ends:
            if isinstance(error, Exception):
                log.error("a stream that %s has no more did not end as it should", self._path, exc_info=error)
        for name, stream, order in changed:
            try:
                await self._change(stream, order)
            except StmixerError as error:  # of another model than the one that its rules are for, say
                log.error("stream %r keeps its rules: %s", name, error)
                self._running[name] = former[name], stream  # for the next time
        new = {name: order for name, order in orders.items() if name not in kept}
        await self._begin_all(new)
        begun = len(new) - len(self._waiting)
        log.info("%s: %d streams begun, %d ended, %d as before", self._path, begun, len(over), len(kept))

    async def _begin_all(self, orders: dict[str, PullOrder]) -> None:
        for name, order in list(orders.items()):
            try:
                self._running[name] = order, await self._begin(order)
                self._waiting.pop(name, None)
            except StmixerError as error:
                if name not in self._waiting:
                    log.error("stream %r of %s cannot begin yet: %s", name, self._path, error)
                self._waiting[name] = order


def _but_for_rules(order: PullOrder) -> PullOrder:
    return order.model_copy(update={"rules": ()})
