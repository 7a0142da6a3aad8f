"""One decoder process at work on one stream: orders out, its messages checked and passed on, ring space granted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
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
    NothingCut,
    OpenCamera,
    OpenContainer,
    OpenDevice,
    Opened,
    OpenPictures,
    OpenUpload,
    PacketsCut,
    PictureWanted,
    RaiseLimit,
    RingFull,
    SampleWritten,
    SourceEnded,
    SourceFailed,
    SourceWarns,
    UseRing,
)
from stmixer.service.sources.clip_desk import ClipDesk, WantedClip
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.hearing import Hearing
from stmixer.service.sources.patience import STUCK_S, State, until_given_up

log = logging.getLogger("stmixer.clips")

LAST_WORDS_S = 1.0
"""How long a process whose channel has ended may take to end as well."""
FLUSH_S = 2.0
LAST_CLIPS_S = 1.0
"""How long a decoder that is given back may take for the clips that are wanted of it yet."""


class DecoderDied(Exception):
    """The process ended in the middle of its source; says how.

    ``reason``: ``cpu`` where its computing time was used up, ``stuck`` where it did not get on, else ``exit``.
    ``said``: what it wrote to its stderr.
    """

    def __init__(self, how: str, reason: str = "exit", said: str = "") -> None:
        super().__init__(how)
        self.said = said
        self.reason = "cpu" if "SIGXCPU" in how else reason


OpeningOrder = OpenUpload | OpenContainer | OpenCamera | OpenDevice | OpenPictures

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
        self._ended = self._listening = False
        self._sending = 0
        self._heard = 0
        self._hearing = Hearing(decoder.channel)
        self._given_up: str | None = None
        self._kept_s = 0.0
        self._asked: deque[WantedClip] = deque()

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

        ``connection``: the descriptor of a socket or device that it reads by itself.
        """
        decoder = await context.pool.acquire(connection)
        link = cls(decoder, context, picture_wanted, owed)
        try:
            if context.clips is not None:  # first, so that it holds from the first packet on
                await link._keep_packets()
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

    async def send(self, message: object, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send an order; where the decoder has died ``work`` says so."""
        self._sending += 1  # until it is sent in full: in the middle of one the process is of no use to others
        with contextlib.suppress(ChannelError):
            await self._decoder.channel.send(message, payload, fds)
        self._sending -= 1

    async def flush(self) -> None:
        """Have everything written that has come so far."""
        self._flushed.clear()
        await self.send(FlushSource())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._flushed.wait()

    async def release(self) -> None:
        """Give the process back to the pool, or end it where it is not done."""
        try:
            await self._last_clips()
        finally:
            await self._context.pool.release(
                self._decoder, clean=self._ended and not self._sending, stream=self._context.stream.id
            )

    async def work(self) -> SourceEnded | SourceFailed:
        """Pass on what the decoder says, counts to the stream's and events to the engine, until its last word.

        Raises DecoderDied; MessageError and GarbledError for what no decoder may say here.
        """
        context = self._context
        engine, stream, counts = context.engine, context.stream, context.counts
        tasks = [asyncio.create_task(task) for task in (self._grant(), self._look_after(), self._ask_for_clips())]
        try:
            while (received := await self._next()) is not None:
                match received.message:
                    case SampleWritten() as message:
                        engine.sample(stream, message)
                        context.room.set()
                    case Frames() as message:
                        engine.frames(stream, message, time.monotonic())
                        counts.told(message)
                        if context.clips is not None:
                            context.clips.look()
                    case PacketsCut() | NothingCut() as message:
                        self._cut(message)
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
            for task in tasks:
                task.cancel()
        self._picture_wanted.clear()
        try:
            how = describe_exit(await self._decoder.end(LAST_WORDS_S))
        finally:  # cancelled here too the pool forgets it
            await self.release()
        if self._given_up is not None:
            raise DecoderDied(GIVEN_UP[self._given_up], self._given_up)
        raise DecoderDied(how, said=self._decoder.last_words())

    async def _next(self) -> Received | None:
        await self._hearing.rest()
        self._listening = True
        received = await self._hearing.next()
        self._listening, self._heard = False, self._heard + 1
        return received

    # -- clips of its packets

    async def _keep_packets(self) -> None:
        """Say how much is to be kept of them, where that is something else than before."""
        desk = self._context.clips
        if desk is not None and desk.seconds != self._kept_s:
            self._kept_s = desk.seconds
            await self.send(desk.kept())

    async def _ask_for_clips(self) -> None:
        """Each once its last picture has come."""
        if (desk := self._context.clips) is None:
            return
        while True:
            await desk.moved.wait()
            desk.moved.clear()
            await self._keep_packets()
            for wanted in desk.take_due():
                await self._ask(wanted)

    async def _ask(self, wanted: WantedClip) -> None:
        try:
            order = wanted.order()
        except OSError as error:
            log.warning("a clip cannot be asked for: %s", error.strerror)
            wanted.lose("no_memory")
            return
        self._asked.append(wanted)
        await self.send(order, fds=[wanted.paper])

    def _cut(self, message: PacketsCut | NothingCut) -> None:
        """Raises MessageError for an answer to nothing."""
        if not self._asked:
            raise MessageError(f"{type(message).__name__} from a decoder that was asked for no clip")
        self._asked.popleft().answer(message)

    async def _last_clips(self) -> None:
        """What is wanted of its packets yet, as far as they go; they go with it. Nobody listens to it any more."""
        desk = self._context.clips
        if desk is None or not (self._asked or desk.waiting):
            return
        lost_as = "decoder"
        try:
            if self._decoder.alive and not self._sending and self._given_up is None:
                async with asyncio.timeout(LAST_CLIPS_S):
                    await self._cut_the_last(desk)
                lost_as = "busy"  # for what waits still there is no room
        except (ChannelError, TimeoutError):
            pass
        finally:
            for wanted in self._asked:
                wanted.lose("decoder")
            self._asked.clear()
            desk.lose(lost_as)

    async def _cut_the_last(self, desk: ClipDesk) -> None:
        """All that there is room for. Raises ChannelError where the decoder is gone."""
        while (due := desk.take_due(all_of_them=True)) or self._asked:
            for wanted in due:
                await self._ask(wanted)
            if not self._asked:  # no descriptor for any of these: there may be one for the next
                continue
            if (received := await self._decoder.channel.receive()) is None:
                raise ChannelError("the decoder ended")
            if isinstance(received.message, PacketsCut | NothingCut):
                self._cut(received.message)

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
        with ring.lent() as fd:
            await self._decoder.channel.send(order, fds=[fd])

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
