"""Live streams whose socket was lost: kept for a while, for the client that comes back with the stream's token."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Hashable

from stmixer.service.access import Caller
from stmixer.service.metrics import Metrics
from stmixer.service.sessions.session import Session
from stmixer.service.sources.source import LiveSource


class ResumableStream:
    """A stream and the socket that has it now, if one has. ``terms``: what a client has to repeat to get it back;
    ``home``: where it is, which its token says first where there are several.

    ``source``: what its media goes to, once that is open.
    ``evicted`` tells that socket to let go; ``left`` says that it has. ``expiry`` runs while no socket has it,
    since ``left_at`` (monotonic seconds).
    """

    def __init__(self, session: Session, terms: Hashable, home: str = "") -> None:
        self.session, self.terms = session, terms
        self.source: LiveSource | None = None
        self.token = f"{home}.{secrets.token_urlsafe(16)}" if home else secrets.token_urlsafe(16)
        self.evicted, self.left = asyncio.Event(), asyncio.Event()
        self.expiry: asyncio.Task[None] | None = None
        self.left_at = 0.0
        self.taking = asyncio.Lock()


class ResumableStreams:
    """All live streams by their tokens. ``ttl_s``: how long one waits without a socket; with 0 it ends with it.
    ``home``: of all of them."""

    def __init__(self, ttl_s: float, metrics: Metrics, home: str = "") -> None:
        self.ttl_s, self._home = ttl_s, home
        self._metrics = metrics
        self._by_token: dict[str, ResumableStream] = {}
        self._closing = False

    def add(self, session: Session, terms: Hashable) -> ResumableStream:
        """Keep a new stream; each needs its ``let_go``."""
        stream = ResumableStream(session, terms, self._home)
        self._by_token[stream.token] = stream
        return stream

    def find(self, token: str, caller: Caller) -> ResumableStream | None:
        """The stream of this token, if it still is and is this caller's own."""
        found = self._by_token.get(token)
        if (
            self.ttl_s == 0
            or found is None
            or found.session.stream.finished
            or not found.session.caller.is_same(caller)
        ):
            self._metrics.stream_reconnects.labels("expired").inc()
            return None
        return found

    async def take(self, stream: ResumableStream) -> bool:
        """Have the stream, from another socket if need be. False if it ended while we waited for that."""
        async with stream.taking:
            how = "resumed"
            if stream.expiry is None:
                how = "evicted"
                stream.evicted.set()
                await stream.left.wait()
            if stream.expiry is not None:
                stream.expiry.cancel()
                stream.expiry = None
            if self._by_token.get(stream.token) is not stream:
                how = "expired"
            stream.evicted, stream.left = asyncio.Event(), asyncio.Event()
        self._metrics.stream_reconnects.labels(how).inc()
        return how != "expired"

    async def let_go(self, stream: ResumableStream, *, keep: bool, error: BaseException | None = None) -> None:
        """A socket is done with its stream: keep that for the next one, or end it, for the reason ``error``."""
        try:
            if keep and self.ttl_s > 0 and not self._closing and not stream.session.stream.finished:
                stream.left_at = time.monotonic()
                stream.expiry = asyncio.create_task(self._expire(stream, error))
            else:
                await self._end(stream, error)
        finally:
            stream.left.set()

    def unattended(self, caller: Caller | None = None) -> list[ResumableStream]:
        """Those that no socket has, or is about to take, of this caller or of all, the one left first at the front."""
        kept = [s for s in self._by_token.values() if s.expiry is not None and not s.taking.locked()]
        mine = [stream for stream in kept if caller is None or stream.session.caller.is_same(caller)]
        return sorted(mine, key=lambda stream: stream.left_at)

    async def give_way(self, stream: ResumableStream) -> None:
        """End one that no socket has, for somebody who is there."""
        if stream.expiry is not None:
            stream.expiry.cancel()
        await self._end(stream, None)

    async def close(self) -> None:
        """End what waits, and keep nothing from here on."""
        self._closing = True
        for stream in list(self._by_token.values()):
            if stream.expiry is not None:
                stream.expiry.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await stream.expiry
                await self._end(stream, None)

    async def _expire(self, stream: ResumableStream, error: BaseException | None) -> None:
        await asyncio.sleep(self.ttl_s)
        await self._end(stream, error)

    async def _end(self, stream: ResumableStream, error: BaseException | None) -> None:
        if self._by_token.pop(stream.token, None) is not None:
            await stream.session.close(error)
