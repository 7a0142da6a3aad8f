"""Live streams whose socket was lost: kept for a while, for the client that comes back with the stream's token."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Hashable

from stmixer.service.access import Caller
from stmixer.service.metrics import Metrics
from stmixer.service.sessions.session import Session


class Held:
    """A stream and the socket that has it now, if one has. ``terms``: what a client has to repeat to get it back.

    ``evicted`` tells that socket to let go; ``left`` says that it has.
    """

    def __init__(self, session: Session, terms: Hashable) -> None:
        self.session, self.terms = session, terms
        self.token = secrets.token_urlsafe(16)
        self.evicted, self.left = asyncio.Event(), asyncio.Event()
        self.expiry: asyncio.Task[None] | None = None
        self.taking = asyncio.Lock()


class Resumable:
    """All live streams by their tokens. ``ttl_s``: how long one waits without a socket; with 0 it ends with it."""

    def __init__(self, ttl_s: float, metrics: Metrics) -> None:
        self.ttl_s = ttl_s
        self._metrics = metrics
        self._held: dict[str, Held] = {}
        self._closing = False

    def add(self, session: Session, terms: Hashable) -> Held:
        """Hold a new stream; each needs its ``let_go``."""
        held = Held(session, terms)
        self._held[held.token] = held
        return held

    def find(self, token: str, caller: Caller) -> Held | None:
        """The stream of this token, if it still is and is this caller's own."""
        held = self._held.get(token)
        if self.ttl_s == 0 or held is None or held.session.stream.finished or not held.session.caller.is_same(caller):
            self._metrics.stream_reconnects.labels("expired").inc()
            return None
        return held

    async def take(self, held: Held) -> bool:
        """Have the stream, from another socket if need be. False if it ended while we waited for that."""
        async with held.taking:
            how = "resumed"
            if held.expiry is None:
                how = "evicted"
                held.evicted.set()
                await held.left.wait()
            if held.expiry is not None:
                held.expiry.cancel()
                held.expiry = None
            if self._held.get(held.token) is not held:
                how = "expired"
            held.evicted, held.left = asyncio.Event(), asyncio.Event()
        self._metrics.stream_reconnects.labels(how).inc()
        return how != "expired"

    async def let_go(self, held: Held, *, keep: bool, error: BaseException | None = None) -> None:
        """A socket is done with its stream: keep that for the next one, or end it, for the reason ``error``."""
        try:
            if keep and self.ttl_s > 0 and not self._closing and not held.session.stream.finished:
                held.expiry = asyncio.create_task(self._expire(held, error))
            else:
                await self._end(held, error)
        finally:
            held.left.set()

    async def close(self) -> None:
        """End what waits, and keep nothing from here on."""
        self._closing = True
        waiting = [held for held in self._held.values() if held.expiry is not None]
        for held in waiting:
            assert held.expiry is not None
            held.expiry.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await held.expiry
            await self._end(held, None)

    async def _expire(self, held: Held, error: BaseException | None) -> None:
        await asyncio.sleep(self.ttl_s)
        await self._end(held, error)

    async def _end(self, held: Held, error: BaseException | None) -> None:
        if self._held.pop(held.token, None) is not None:
            await held.session.close(error)
