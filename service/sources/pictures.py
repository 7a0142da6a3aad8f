"""A camera's JPEGs, one message each: placed in time as they come, handed to the decoder one by one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from stmixer.media.timeline import Placed
from stmixer.service.errors import InputError
from stmixer.service.ipc.messages import EndOfPictures, JpegPicture, OpenPictures, Progress
from stmixer.service.sources.clock import PictureClock, TimedPicture
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.mailbox import QUEUE_BYTES, BoundedQueue, Closed, Mailbox
from stmixer.service.sources.source import DecodedSource, FlushMark

PREFIX_BYTES = 8
JPEG = b"\xff\xd8\xff"
DEATHS_COUNTED_S = 60.0


@dataclass(frozen=True, slots=True)
class PlacedPicture:
    """A JPEG with its time since the first one received, and when it arrived (monotonic seconds)."""

    data: bytes
    pts_us: int
    received_at: float


_Together = tuple[PlacedPicture, ...]
"""Pictures placed at once: one, or several where the first had to wait for the times of those after it. Those are one
item, so that they do not displace one another."""


class PictureSource(DecodedSource):
    """A lost socket costs no picture that has come. A decoder that dies costs those on their way in it.

    With policy ``latest`` the newest picture wins; else up to 4 MiB wait. ``stamped``: each begins with its time, 8
    bytes of little-endian microseconds; else it is the moment of its arrival.
    """

    def __init__(self, context: SourceContext, *, stamped: bool) -> None:
        super().__init__(context)
        context.counts.at_socket = True
        self._stamped, self._clock = stamped, PictureClock(stamped=stamped)
        self._newest: Mailbox[_Together | FlushMark] | None = None
        self._queue: BoundedQueue[_Together | FlushMark] = BoundedQueue(QUEUE_BYTES)
        if context.stream.policy == "latest":
            self._newest = Mailbox()
        self._no_more = False

    async def open(self) -> None:
        """Begin. Raises CapacityError where no decoder can be had."""
        await super().open()
        self._feeding = self._guarded(self._feed())

    async def take(self, data: bytes) -> None:
        """One picture, waiting for room where none may be lost. Raises InputError for a malformed one."""
        now, counts = time.monotonic(), self._context.counts
        stamp_us = round(now * 1e6)
        if self._stamped:
            if len(data) < PREFIX_BYTES:
                raise InputError("bad_message", "a picture with prefix begins with 8 bytes of microseconds", 400)
            if data.startswith(JPEG) and not data.startswith(JPEG, PREFIX_BYTES):
                raise InputError(
                    "bad_message", 'a picture came without the prefix that "timestamps": "prefix" announces', 400
                )
            stamp_us, data = int.from_bytes(data[:PREFIX_BYTES], "little"), data[PREFIX_BYTES:]
            if stamp_us >= 2**62:
                raise InputError("bad_message", "the prefix is out of range; it is little-endian microseconds", 400)
        counts.received()
        await self._put(self._clock.place(TimedPicture(data, now), stamp_us))
        for line in self._clock.oddities(stamp_us, now):
            self._context.notice("timestamps", line)
            self._context.warnings.append(line)

    async def _put(self, placed: list[Placed[TimedPicture]]) -> None:
        """Pictures whose time is known, on their way to the decoder."""
        self._context.origin = self._clock.origin
        counts = self._context.counts
        if left_out := sum(one.pts_us is None for one in placed):
            counts.dropped("out_of_order", left_out)
        together = tuple(
            PlacedPicture(one.item.data, one.pts_us, one.item.received_at) for one in placed if one.pts_us is not None
        )
        if not together:
            return
        if self._newest is None:
            await self._queue.put(together, sum(len(picture.data) for picture in together))
        elif isinstance(displaced := self._newest.put(together), tuple):
            counts.dropped("mailbox", len(displaced))

    async def flush(self) -> FlushMark:
        """Have run what is pending, after the pictures that came before; gives what is done then."""
        await self._put(self._clock.release())
        mark: FlushMark = asyncio.get_running_loop().create_future()
        if self._newest is None:
            await self._queue.put(mark, 0)
        else:
            await self._newest.taken()
            self._newest.put(mark)
            await self._newest.taken()
        return mark

    def interrupt(self) -> None:
        """The socket is gone: what has come of it still goes to the decoder."""

    async def resume(self) -> None:
        """Go on with the pictures of another socket; with a new decoder where the last one was given up."""
        if self._running is not None and not self._running.done():
            return
        await self.close()
        if self._newest is not None:
            self._newest = Mailbox()
        await self.open()

    async def ended(self) -> None:
        """No more pictures."""
        await self._put(self._clock.release())
        if self._newest is not None:
            self._newest.close()
        await self._queue.close()

    # -- to the decoder

    def _order(self, progress: Progress | None) -> tuple[OpenPictures, list[int]]:
        return OpenPictures(self._context.sampling(), progress), []

    def _owed(self) -> str | None:
        """A picture, or the end."""
        return None if self._picture_wanted.is_set() and not self._no_more else "an answer"

    async def _died(self, death: DecoderDied) -> bool:
        self._context.counts.lose_pictures()
        replaced = await self._replaced(death, counted_s=DEATHS_COUNTED_S)
        if replaced and self._no_more and self._link is not None:
            await self._link.send(EndOfPictures())
        return replaced

    async def _feed(self) -> None:
        """Hand pictures over, each once the decoder is done with the one before, until the last."""
        box = self._newest or self._queue
        try:
            while True:
                item = await box.get()
                if isinstance(item, asyncio.Future):
                    await self._flush(item)
                    continue
                for picture in item:
                    await self._hand_over(picture)
        except Closed:
            self._no_more = True
            if self._link is not None:
                await self._link.send(EndOfPictures())

    async def _hand_over(self, picture: PlacedPicture) -> None:
        while not self._picture_wanted.is_set():
            await self._picture_wanted.wait()
        self._picture_wanted.clear()
        if self._link is not None:
            self._context.counts.sent()
            await self._link.send(JpegPicture(picture.pts_us, picture.received_at), picture.data)
