"""From a socket's media messages to the decoder: one-slot mailbox or bounded queue, pictures or a container's bytes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from stmixer.service.api import protocol
from stmixer.service.api.protocol import Flush, ProtocolError, Start
from stmixer.service.errors import CapacityError
from stmixer.service.sessions.session import Session
from stmixer.service.sources.mailbox import BoundedQueue, Closed, Mailbox

QUEUE_BYTES = 4 * 2**20
OVERLOAD_S = 5.0
PIPE_CHUNK = 64 * 1024

Tell = Callable[[Session], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG with its time since the first one received, and when it arrived (monotonic seconds)."""

    data: bytes
    pts_us: int
    received_at: float


class MediaIn:
    """JPEG with policy ``latest``: newest wins. All other media: 4 MiB, and no reading while that is full."""

    def __init__(self, session: Session, start: Start, max_bytes: int) -> None:
        self._session, self._start, self._max_bytes = session, start, max_bytes
        self._pictures: Mailbox[Picture | Flush] = Mailbox()
        self._queue: BoundedQueue[Picture | bytes | Flush] = BoundedQueue(QUEUE_BYTES)
        self._newest_wins = start.codec == "jpeg" and start.policy == "latest"

    # -- from the socket

    async def take(self, data: bytes) -> None:
        """One media message. Raises ProtocolError for one that is too large, malformed, or too much for too long."""
        if len(data) > self._max_bytes:
            limit = self._max_bytes
            raise ProtocolError("too_large", f"a message may have {limit} bytes", protocol.CLOSE_TOO_LARGE)
        try:
            self._session.caller.spend_bytes(len(data))
        except CapacityError as error:
            raise ProtocolError(error.code, str(error), protocol.CLOSE_OVERLOADED, retryable=True) from None
        if self._start.codec != "jpeg":
            await self._enqueue(data, len(data))
            return
        picture = self._picture(data)
        self._session.counts.received()
        if picture is None:
            self._session.counts.dropped("out_of_order")
        elif not self._newest_wins:
            await self._enqueue(picture, len(data))
        elif self._pictures.put(picture) is not None:
            self._session.counts.dropped("mailbox")

    async def flush(self, flush: Flush) -> None:
        """Run what is pending, after the media that came before."""
        if self._newest_wins:
            await self._pictures.taken()
            self._pictures.put(flush)
            await self._pictures.taken()
        else:
            await self._enqueue(flush, 0)

    async def close(self) -> None:
        """No more media."""
        self._pictures.close()
        await self._queue.close()

    def _picture(self, data: bytes) -> Picture | None:
        now = time.monotonic()
        clock_us, body = round(now * 1e6), data
        if self._start.timestamps == "prefix":
            if len(data) < 8:
                raise ProtocolError("bad_message", "a picture with prefix begins with 8 bytes of microseconds")
            clock_us, body = int.from_bytes(data[:8], "little"), data[8:]
            if clock_us >= 2**62:
                raise ProtocolError("bad_message", "the prefix is out of range; it is little-endian microseconds")
        pts_us = self._session.clock.place(clock_us, now)
        return None if pts_us is None else Picture(body, pts_us, now)

    async def _enqueue(self, item: Picture | bytes | Flush, size: int) -> None:
        """Wait for room, and so stop reading; a live stream does not wait for ever."""
        try:
            async with asyncio.timeout(OVERLOAD_S if self._start.policy == "latest" else None):
                await self._queue.put(item, size)
        except TimeoutError:
            raise ProtocolError(
                "overloaded", f"media comes faster than it can be decoded for {OVERLOAD_S:g} s; lower its rate or size",
                protocol.CLOSE_OVERLOADED, retryable=True,
            ) from None  # fmt: skip
        except Closed:
            pass

    # -- to the decoder

    @asynccontextmanager
    async def source(self, tell_flushed: Tell, *, resumed: bool) -> AsyncIterator[Coroutine[Any, Any, None]]:
        """Open the decoder, or go on with it; gives what feeds it. ``tell_flushed`` answers a flush."""
        decoding = self._session.decoding
        if self._start.codec == "jpeg":
            await (decoding.resume() if resumed else decoding.open("jpeg"))
            yield self._feed_pictures(tell_flushed)
            return
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            await (decoding.resume(reading) if resumed else decoding.open("live", reading))
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(writing, "wb", buffering=0)
        transport, flow = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
        writer = asyncio.StreamWriter(transport, flow, None, loop)
        try:
            yield self._feed_chunks(writer, tell_flushed)
        finally:
            # asyncio has no answer to the abort of a pipe that is closed already
            if not transport.is_closing() or transport.get_write_buffer_size():
                transport.abort()

    async def _feed_pictures(self, tell_flushed: Tell) -> None:
        try:
            while True:
                item = await (self._pictures.get() if self._newest_wins else self._queue.get())
                if isinstance(item, Picture):
                    await self._session.decoding.send_jpeg(item.data, item.pts_us, item.received_at)
                else:
                    await self._session.flush()
                    await tell_flushed(self._session)
        except Closed:
            await self._session.decoding.end_jpegs()

    async def _feed_chunks(self, writer: asyncio.StreamWriter, tell_flushed: Tell) -> None:
        try:
            while True:
                chunk = await self._queue.get()
                if not isinstance(chunk, bytes):
                    await self._session.flush()
                    await tell_flushed(self._session)
                    continue
                view = memoryview(chunk)
                for at in range(0, len(view), PIPE_CHUNK):
                    writer.write(view[at : at + PIPE_CHUNK])
                    await writer.drain()
        except Closed:
            writer.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the decoder has ended; the session knows why
        # what still comes goes nowhere, but must not fill up the queue
        try:
            while True:
                await self._queue.get()
        except Closed:
            pass
