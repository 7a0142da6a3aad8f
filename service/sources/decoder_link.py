"""One decoder process at work on one stream: orders out, its messages checked and passed on, ring space granted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable, Sequence

from stmixer.service.ipc.channel import ChannelError, GarbledError, Received
from stmixer.service.ipc.child import Child, describe_exit
from stmixer.service.ipc.messages import (
    CaptureOrigin,
    Flushed,
    FlushSource,
    Frames,
    FramesDropped,
    MessageError,
    OpenCamera,
    OpenContainer,
    Opened,
    OpenPictures,
    OpenUpload,
    PictureWanted,
    RaiseLimit,
    RingFull,
    SampleWritten,
    SourceEnded,
    SourceFailed,
    SourceWarns,
    UseRing,
)
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.patience import STUCK_S, State, until_given_up

LAST_WORDS_S = 1.0
"""How long a process whose channel has ended may take to end as well."""
FLUSH_S = 2.0


class DecoderDied(Exception):
    """The process ended in the middle of its source; says how.

    ``reason``: ``cpu`` where its computing time was used up, ``stuck`` where it did not get on, else ``exit``.
    ``said``: what it wrote to its stderr.
    """

    def __init__(self, how: str, reason: str = "exit", said: str = "") -> None:
        super().__init__(how)
        self.said = said
        self.reason = "cpu" if "SIGXCPU" in how else reason


OpeningOrder = OpenUpload | OpenContainer | OpenCamera | OpenPictures

GIVEN_UP = {
    "stuck": f"made no progress for {STUCK_S:g} s and was ended",
    "cpu": "computed more than the time that went by allows and was ended",
}


class DecoderLink:
    """``picture_wanted`` is set where another picture may be sent; ``owed``: how far the source's media has come."""

    def __init__(self, decoder: Child, context: SourceContext, picture_wanted: asyncio.Event, owed: State) -> None:
        self._decoder, self._context, self._owed = decoder, context, owed
        self._picture_wanted, self._flushed = picture_wanted, asyncio.Event()
        self._granted = 0
        self._full_at: int | None = None
        self._ended = self._sending = self._listening = False
        self._heard = 0
        self._given_up: str | None = None

    @classmethod
    async def start(
        cls,
        context: SourceContext,
        order: OpeningOrder,
        fds: Sequence[int],
        picture_wanted: asyncio.Event,
        owed: State,
        connection: int | None = None,
    ) -> DecoderLink:
        """Have a decoder carry out an order. Raises CapacityError, ChannelError where none can be had.

        ``connection``: the descriptor of a socket that it reads from.
        """
        decoder = await context.pool.acquire(connection)
        link = cls(decoder, context, picture_wanted, owed)
        try:
            await decoder.channel.send(order, fds=fds)
            if context.stream.ring is not None:
                await link._give_ring()
        except BaseException:
            await link.release()
            raise
        picture_wanted.set()
        return link

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._decoder.pid

    async def send(self, message: object, payload: bytes = b"") -> None:
        """Send an order; where the decoder has died ``work`` says so."""
        self._sending = True  # until it is sent in full: in the middle of one the process is of no use to others
        with contextlib.suppress(ChannelError):
            await self._decoder.channel.send(message, payload)
        self._sending = False

    async def flush(self) -> None:
        """Have everything written that has come so far."""
        self._flushed.clear()
        await self.send(FlushSource())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._flushed.wait()

    async def release(self) -> None:
        """Give the process back to the pool, or end it where it is not done."""
        await self._context.pool.release(
            self._decoder, clean=self._ended and not self._sending, stream=self._context.stream.id
        )

    async def work(self) -> SourceEnded | SourceFailed:
        """Pass on what the decoder says, counts to the stream's and events to the engine, until its last word.

        Raises DecoderDied; MessageError and GarbledError for what no decoder may say here.
        """
        context = self._context
        engine, stream, counts = context.engine, context.stream, context.counts
        granting, looking = asyncio.create_task(self._grant()), asyncio.create_task(self._look_after())
        try:
            while (received := await self._next()) is not None:
                match received.message:
                    case SampleWritten() as message:
                        engine.sample(stream, message)
                        context.room.set()
                    case Frames() as message:
                        engine.frames(stream, message, time.monotonic())
                        counts.told(message)
                    case PictureWanted():
                        self._picture_wanted.set()
                    case Opened() as message:
                        await engine.opened(stream, message)
                        context.codec = message.codec
                        await self._give_ring()
                    case CaptureOrigin(at_us):
                        context.capture_origin_us = at_us
                    case RingFull(number):
                        engine.ring_full(stream, number)
                        self._full_at = number
                        context.room.set()
                    case FramesDropped() as message:
                        counts.dropped_by_decoder(message)
                    case SourceWarns(code, text):
                        context.notice(code, text)
                    case Flushed():
                        self._flushed.set()
                    case SourceEnded() | SourceFailed() as message:
                        self._ended = True
                        return message
                    case message:
                        raise MessageError(f"{type(message).__name__} from a decoder that reads a source")
        except GarbledError:
            raise
        except ChannelError:
            pass
        finally:
            granting.cancel()
            looking.cancel()
        self._picture_wanted.clear()
        try:
            how = describe_exit(await self._decoder.end(LAST_WORDS_S))
        finally:  # cancelled here too the pool forgets it
            await self.release()
        if self._given_up is not None:
            raise DecoderDied(GIVEN_UP[self._given_up], self._given_up)
        raise DecoderDied(how, said=self._decoder.last_words())

    async def _next(self) -> Received | None:
        self._listening = True
        received = await self._decoder.channel.receive()
        self._listening, self._heard = False, self._heard + 1
        return received

    async def _look_after(self) -> None:
        """Until it has to be given up; then ``work`` ends."""
        live = self._context.stream.source != "upload"
        self._given_up = await until_given_up(self.pid, self._state, live=live)
        self._decoder.end_now()

    def _state(self) -> Hashable | None:
        """How far it has come with what it owes; None while it waits for room, or we have not heard it out."""
        if self._full_at is not None or not self._listening or (owed := self._owed()) is None:
            return None
        return self._heard, owed

    async def _give_ring(self) -> None:
        ring = self._context.stream.ring
        assert ring is not None
        self._granted, self._full_at = self._context.stream.write_limit(), None
        shape = ring.shape
        order = UseRing(shape.width, shape.height, shape.capacity, self._granted)
        await self._decoder.channel.send(order, fds=[ring.fd])

    async def _grant(self) -> None:
        """Tell the decoder how far it may write, when it waits for that or has little left."""
        stream, room = self._context.stream, self._context.room
        while True:
            await room.wait()
            room.clear()
            if stream.ring is None:
                continue
            limit = stream.write_limit()
            waits = self._full_at is not None and limit > self._full_at
            if waits or limit >= self._granted + stream.ring.shape.capacity // 4:
                self._granted, self._full_at = limit, None if waits else self._full_at
                with contextlib.suppress(ChannelError):  # its end is noticed by the listener
                    await self._decoder.channel.send(RaiseLimit(limit))
