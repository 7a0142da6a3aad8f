"""A live container (WebM, MPEG-TS, fragmented MP4): its bytes, in whatever pieces, through a pipe to the decoder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios

from stmixer.service.errors import CapacityError, InputError
from stmixer.service.ipc.messages import OpenContainer, Progress, SourceEnded, SourceFailed
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.mailbox import QUEUE_BYTES, BoundedQueue, Closed
from stmixer.service.sources.pictures import JPEG
from stmixer.service.sources.source import WHAT_IT_DID, DecodedSource, FlushMark, cancelled

OVERLOAD_S = 5.0
"""How long a live stream that may skip waits for room before it gives up."""
PIPE_CHUNK = 64 * 1024
INTERRUPTED_S = 2.0
"""How long a decoder gets to finish a container whose socket is gone, before the next one begins."""


class ContainerSource(DecodedSource):
    """A decoder that dies ends it: nobody can pick up a container in its middle.

    A lost socket ends the container but not the stream; another one may begin on the next socket. ``codec``: what a
    client calls it; pictures are none, though FFmpeg would read them, at a rate of its own.
    """

    def __init__(self, context: SourceContext, *, codec: str | None = None) -> None:
        super().__init__(context)
        self._codec = codec
        self._queue: BoundedQueue[bytes | FlushMark] = BoundedQueue(QUEUE_BYTES)
        self._pipe: asyncio.StreamWriter | None = None
        self._reading_end = -1
        self._interrupted = False
        self._given = 0

    async def open(self) -> None:
        """Begin with a container. Raises CapacityError where no decoder can be had."""
        self._queue, self._interrupted = BoundedQueue(QUEUE_BYTES), False
        self._reading_end, writing = os.pipe2(os.O_CLOEXEC)
        try:
            await super().open()
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(self._reading_end)
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(writing, "wb", buffering=0)
        transport, flow = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
        self._pipe = asyncio.StreamWriter(transport, flow, None, loop)
        self._feeding = self._guarded(self._feed(self._queue, self._pipe))

    def interrupt(self) -> None:
        """The socket is gone: what ends now is the container."""
        self._interrupted = True
        self._stop_feeding()

    async def resume(self) -> None:
        """Go on with the container that begins on another socket."""
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=INTERRUPTED_S)
            await cancelled(self._running)
        await self._release()
        await self.open()

    async def take(self, data: bytes) -> None:
        """Some bytes, waiting for room. Raises CapacityError ``overloaded`` where a live stream waits too long,
        InputError for pictures instead of the container that was announced."""
        if self._codec is not None and not self._given and data.startswith(JPEG):
            wanted = 'begin the stream with "codec": "jpeg", and send each picture as a message of its own'
            raise InputError("bad_message", f'this is a JPEG, and "codec" was "{self._codec}"; {wanted}', 400)
        await self._enqueue(data, len(data))

    async def flush(self) -> FlushMark:
        """Have run what is pending, after the bytes that came before; gives what is done then."""
        mark: FlushMark = asyncio.get_running_loop().create_future()
        await self._enqueue(mark, 0)
        return mark

    async def ended(self) -> None:
        """No more bytes."""
        await self._queue.close()

    def stop(self) -> None:
        """Take no more frames."""
        super().stop()
        self._stop_feeding()

    def _stop_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        pipe, self._pipe = self._pipe, None
        # asyncio has no answer to the abort of a pipe that is closed already
        if pipe is not None and (not pipe.transport.is_closing() or pipe.transport.get_write_buffer_size()):
            pipe.transport.abort()

    async def _enqueue(self, item: bytes | FlushMark, size: int) -> None:
        try:
            async with asyncio.timeout(OVERLOAD_S if self._context.stream.policy == "latest" else None):
                await self._queue.put(item, size)
        except TimeoutError:
            raise CapacityError(
                "overloaded", f"media comes faster than it can be decoded for {OVERLOAD_S:g} s; lower its rate or size"
            ) from None

    # -- to the decoder

    def _order(self, progress: Progress | None) -> tuple[OpenContainer, list[int]]:
        order = OpenContainer(self._context.sampling(), progress, fragmented_mp4=self._codec == "mp4")
        return order, [self._reading_end]

    def _finished(self, last: SourceEnded | SourceFailed) -> None:
        if not self._interrupted:
            super()._finished(last)
        elif isinstance(last, SourceEnded):
            self._context.warnings += last.warnings

    def _owed(self) -> int | None:
        """The bytes that it has taken, where there are more for it."""
        pipe = self._pipe
        if pipe is None or pipe.transport.is_closing():
            return -1
        waiting = struct.unpack("i", fcntl.ioctl(pipe.get_extra_info("pipe"), termios.FIONREAD, bytes(4)))[0]
        return None if waiting == 0 else self._given - pipe.transport.get_write_buffer_size() - waiting

    async def _died(self, death: DecoderDied) -> bool:
        if not self._interrupted and not self._context.stream.ended:
            self._fail(WHAT_IT_DID[death.reason])
        return False

    async def _feed(self, queue: BoundedQueue[bytes | FlushMark], pipe: asyncio.StreamWriter) -> None:
        """Write what comes, a piece at a time, until the last."""
        try:
            while True:
                item = await queue.get()
                if isinstance(item, asyncio.Future):
                    await self._flush(item)
                    continue
                view = memoryview(item)
                for at in range(0, len(view), PIPE_CHUNK):
                    piece = view[at : at + PIPE_CHUNK]
                    self._given += len(piece)
                    pipe.write(piece)
                    await pipe.drain()
        except Closed:
            pipe.close()
        except (BrokenPipeError, ConnectionResetError):
            await _discard(queue)  # the decoder has ended; the session knows why


async def _discard(queue: BoundedQueue[bytes | FlushMark]) -> None:
    """What still comes goes nowhere, but must not fill up the queue."""
    try:
        while True:
            await queue.get()
    except Closed:
        pass
