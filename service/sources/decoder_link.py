"""A stream's source in a decoder process, and in the next one where that dies: orders out, frames and ring slots in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

from stmixer.media.errors import MediaError
from stmixer.model.clip import MAX_ASPECT
from stmixer.service.engine.engine import Engine
from stmixer.service.engine.frame_counts import FrameCounts
from stmixer.service.engine.stream import Stream
from stmixer.service.engine.worker import LAST_WORDS_S
from stmixer.service.errors import CapacityError, InputError, StmixerError
from stmixer.service.ipc.channel import ChannelError, Header
from stmixer.service.ipc.child import Child, describe_exit
from stmixer.service.ipc.ring import create_ring, ring_shape
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DecoderPool
from stmixer.service.sources.orders import opening, ring_order

log = logging.getLogger("stmixer.decoder")

MAX_REPLACED = 2
"""Decoders that may die of one upload, or of one live stream in a minute, and be replaced."""
LOSSES_S = 60.0
INTERRUPTED_S = 2.0
"""How long a decoder gets to finish a container whose socket is gone, before the next one begins."""


class Decoding:
    """``on_failed`` is told what ends the source badly, ``on_change`` that there is something new.

    A decoder that dies costs pictures on their way, with the reason ``decoder``, and an upload nothing: the next one
    reads the file again and goes on behind what was told. A live container cannot be picked up in its middle; it fails.
    """

    def __init__(
        self,
        engine: Engine,
        pool: DecoderPool,
        settings: Settings,
        stream: Stream,
        counts: FrameCounts,
        *,
        on_failed: Callable[[StmixerError], None],
        on_change: Callable[[], None],
    ) -> None:
        self._engine, self._pool, self._settings = engine, pool, settings
        self._stream, self._counts = stream, counts
        self._on_failed, self._on_change = on_failed, on_change
        self.warnings: list[str] = []
        self.notices: list[str] = []
        self.room_changed = asyncio.Event()
        self.jpeg_wanted, self._flushed = asyncio.Event(), asyncio.Event()
        self._kind = ""
        self._file: int | None = None
        self._decoder: Child | None = None
        self._clean = self._ordering = self._interrupted = self._no_more = False
        self._granted = 0
        self._full_at: int | None = None
        self._losses: list[float] = []
        self._running: asyncio.Task[None] | None = None
        self._granting: asyncio.Task[None] | None = None

    # -- life

    async def open(self, kind: str, fd: int | None = None) -> None:
        """Start decoding: ``upload`` or ``live`` from a descriptor (which stays the caller's), or ``jpeg`` messages."""
        self._kind = kind
        self._counts.at_socket = kind == "jpeg"
        if kind == "upload" and fd is not None:  # the same open file, for another decoder if need be
            self._file = os.dup(fd)
        await self._begin(fd)
        self._running = asyncio.create_task(self._run())
        self._granting = asyncio.create_task(self._grant())

    def interrupt(self) -> None:
        """The socket is gone: what ends now is a container, not its stream, until ``resume`` or ``close``."""
        self._interrupted = self._kind == "live"

    async def resume(self, fd: int | None = None) -> None:
        """Go on from another socket: with its pictures, or with the container that begins on it."""
        if self._kind == "jpeg":
            if self._ordering and self._decoder is not None:  # it waits for the rest of a message: never to come
                self._decoder.end_now()
            return
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=INTERRUPTED_S)
            await _ended(self._running)
        await self._release()
        self._interrupted = False
        await self._begin(fd)
        self._running = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Take no more frames; whoever waits to hand over a picture waits no longer."""
        for task in (self._running, self._granting):
            if task is not None:
                task.cancel()
        self.jpeg_wanted.set()

    async def close(self) -> None:
        """Free everything."""
        self.stop()
        try:
            await _ended(*(task for task in (self._running, self._granting) if task is not None))
        finally:  # cancelled here, at a shutdown for one, it still frees all
            file, self._file = self._file, None
            if file is not None:
                os.close(file)
            await self._release()

    async def _release(self) -> None:
        """Give the decoder back. One that was left in the middle of a message would take the next stream's for it."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            await self._pool.release(decoder, clean=self._clean and not self._ordering)

    # -- orders

    async def send_jpeg(self, data: bytes, pts_us: int, received_at: float) -> None:
        """Hand one picture to the decoder, once it is done with the one before."""
        while not self.jpeg_wanted.is_set():
            await self.jpeg_wanted.wait()
        self.jpeg_wanted.clear()
        self._counts.sent()
        await self._order({"t": "jpeg", "pts_us": pts_us, "at": received_at}, data)

    async def flush(self) -> None:
        """Have everything written that has come so far."""
        self._flushed.clear()
        await self._order({"t": "flush"})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._flushed.wait()

    async def end_jpegs(self) -> None:
        """No more pictures."""
        self._no_more = True
        await self._order({"t": "end"})

    async def _order(self, header: Header, payload: bytes = b"") -> None:
        if self._decoder is None:
            return
        self._ordering = True  # until it is sent in full
        with contextlib.suppress(ChannelError):  # its end is noticed by the listener, which knows more
            await self._decoder.channel.send(header, payload)
        self._ordering = False

    async def _begin(self, fd: int | None) -> None:
        """Have a decoder open the source, or go on with it where there is a ring already."""
        decoder = await self._pool.acquire()
        self._clean = self._ordering = False
        order = opening(self._kind, self._engine.model, self._settings, self._stream)
        if self._stream.ring is not None:
            order["done"] = self._counts.done()
        try:
            await decoder.channel.send(order, fds=[] if fd is None else [fd])
            if self._stream.ring is not None:
                await self._send_ring(decoder, self._engine.workers.ring_of(self._stream.id))
        except BaseException:
            await self._pool.release(decoder, clean=False)
            raise
        self._decoder = decoder
        self.jpeg_wanted.set()

    async def _send_ring(self, decoder: Child, fd: int) -> None:
        ring = self._stream.ring
        assert ring is not None
        self._granted, self._full_at = self._stream.write_limit(), None
        await decoder.channel.send(ring_order(ring, self._granted), fds=[fd])

    # -- what decoders say

    async def _run(self) -> None:
        """Until the source has ended, over as many decoders as that takes."""
        while (decoder := self._decoder) is not None and not await self._ends(decoder):
            if self._interrupted or not await self._replaced(decoder):
                break
        self.jpeg_wanted.set()
        self._on_change()
        self._engine.wake()

    async def _ends(self, decoder: Child) -> bool:
        """Listen: True once it has ended this source, False once it has ended itself."""
        try:
            while (message := await decoder.channel.receive()) is not None:
                if await self._on_message(decoder, message.header):
                    self._clean = True
                    return True
        except ChannelError as error:
            log.error("decoder %d: %s", decoder.pid, error)
        except (KeyError, TypeError, ValueError) as error:
            log.error("decoder %d breaks the protocol: %r", decoder.pid, error)
        return False

    async def _on_message(self, decoder: Child, header: Header) -> bool:
        """Act on one message; True when it was the source's last."""
        stream, now = self._stream, time.monotonic()
        match header["t"]:
            case "opened":
                await self._opened(decoder, header)
            case "frames":
                for pts_us, at in zip(header["pts_us"], header["at"], strict=True):
                    self._counts.told(pts_us, at)
                    stream.note_frame(pts_us, at, now)
                stream.summary.not_sampled += header["not_sampled"]
                self._engine.wake()
            case "sample":
                stream.note_sample(header["number"], header["generation"], header["index"], header["pts_us"])
                self.room_changed.set()
            case "full":
                self._full_at = header["number"]
                stream.make_room(self._full_at)
                self.room_changed.set()
            case "dropped":
                self._counts.dropped_by_decoder(header["reason"], header["count"], told=header["told"])
            case "next":
                self.jpeg_wanted.set()
            case "flushed":
                self._flushed.set()
            case "ended":
                self.warnings += header["warnings"]
                if not self._interrupted:
                    stream.end(now)
                return True
            case "failed":
                if not self._interrupted:
                    self._on_failed(InputError.from_media(MediaError(header["code"], header["message"])))
                return True
        return False

    async def _opened(self, decoder: Child, header: Header) -> None:
        """The first frame: make the ring, give it to decoder and worker."""
        width, height = header["input"]
        longest = MAX_ASPECT * self._engine.model.config.preprocess.short_side
        if not (0 < width <= longest and 0 < height <= longest):  # its word is not to be trusted
            raise ValueError(f"an input size of {width} x {height}")
        ring = ring_shape(self._engine.model.window, width, height)
        fd = create_ring(ring)
        try:
            self._stream.open(header["width"], header["height"], ring, header["rate"])
            await self._send_ring(decoder, fd)
        finally:  # kept even if this decoder died meanwhile: the next one goes on with it
            await self._engine.workers.attach(self._stream.id, fd, ring)

    async def _grant(self) -> None:
        """Tell the decoder how far it may write, when it waits for that or has little left."""
        while True:
            await self.room_changed.wait()
            self.room_changed.clear()
            ring, decoder = self._stream.ring, self._decoder
            if ring is None or decoder is None:
                continue
            limit = self._stream.write_limit()
            waiting = self._full_at is not None and limit > self._full_at
            if waiting or limit >= self._granted + ring.capacity // 4:
                self._granted, self._full_at = limit, None if waiting else self._full_at
                with contextlib.suppress(ChannelError):  # its end is noticed by the listener
                    await decoder.channel.send({"t": "limit", "number": limit})

    # -- decoders that die

    async def _replaced(self, decoder: Child) -> bool:
        """Take another decoder in the place of a dead one; False where that ends the source."""
        self.jpeg_wanted.clear()
        self._decoder = None
        try:
            end = describe_exit(await decoder.end(LAST_WORDS_S))
        finally:  # cancelled here too the pool forgets it
            await self._pool.release(decoder, clean=False)
        log.error("decoder %d %s", decoder.pid, end)
        if self._kind == "jpeg":
            self._counts.lose_pictures()
        if self._stream.ended:
            return False
        now, costly = time.monotonic(), "SIGXCPU" in end
        self._losses = [t for t in self._losses if self._file is not None or now - t < LOSSES_S] + [now]
        if self._kind == "live" or costly or len(self._losses) > MAX_REPLACED:
            self._counts.balance("decoder")
            why = "took too much computing time" if costly else "crashed the decoder"
            self._on_failed(InputError("unreadable", f"this media {why}; re-encode it, for instance with ffmpeg", 422))
            return False
        try:
            if self._file is not None:
                os.lseek(self._file, 0, os.SEEK_SET)
            await self._begin(self._file)
            if self._no_more:
                await self._order({"t": "end"})
        except (CapacityError, ChannelError) as error:
            self._counts.balance("decoder")
            self._on_failed(CapacityError("decoder", f"its decoder {end}, and no other: {error}; try again later"))
            return False
        notice = f"the decoder {end} and was replaced"
        self.warnings.append(notice)
        self.notices.append(notice)
        return True


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
