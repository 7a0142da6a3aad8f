"""Where a stream's frames come from: one set of verbs, a small class for each kind, and what those share.

    open → take… → interrupt → resume → take… → ended → close

The kinds are ``upload``, ``pictures``, ``container``, ``camera``, ``played_file`` and ``device``; ``pulled`` makes one
of the last three, or of ``web_stream``, attempt after attempt, and ``rendering`` borrows a decoder without a stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Hashable
from typing import Any, Protocol

from stmixer.service.errors import CapacityError, InputError, StmixerError, media_status
from stmixer.service.ipc.channel import ChannelError, GarbledError
from stmixer.service.ipc.messages import (
    MessageError,
    Progress,
    SourceEnded,
    SourceFailed,
)
from stmixer.service.logs import fields
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied, DecoderLink, OpeningOrder

log = logging.getLogger("stmixer.source")

FlushMark = asyncio.Future[None]
"""Stands among the media where a flush was asked for; done once that is carried out."""

MAX_REPLACED = 2
"""Decoders that may die of one source, within the time that it counts, and be replaced."""

WHAT_IT_DID = {"cpu": "took too much computing time", "stuck": "held the decoder up", "exit": "crashed the decoder"}
"""Media, by the reason for which its decoder is gone."""


class FrameSource(Protocol):
    """A stream's source. A kind is a class, in a file of its own, that says what these verbs mean for it.

    Over ``DecodedSource`` a new one (a camera that is pulled from its address, say) has to add what its decoder is told
    to open, and what the end of that decoder means; nobody else has to learn of it.
    """

    async def open(self) -> None:
        """Begin. Raises CapacityError where no decoder can be had."""
        ...

    def interrupt(self) -> None:
        """Its socket is gone. The stream goes on with what has come, until ``resume`` or ``close``."""
        ...

    async def resume(self) -> None:
        """Go on from another socket."""
        ...

    async def ended(self) -> None:
        """Its sender has said that no more will come: what has is decoded to its end."""
        ...

    def stop(self) -> None:
        """Take no more frames."""
        ...

    async def close(self) -> None:
        """Free everything."""
        ...


class LiveSource(FrameSource, Protocol):
    """One whose media comes message by message."""

    async def take(self, data: bytes) -> None:
        """One message, waiting for room. Raises InputError for a malformed one, CapacityError if none is to be had."""
        ...

    async def flush(self) -> FlushMark:
        """Have run what is pending, after the media that came before; gives what is done then."""
        ...


class DecodedSource(ABC):
    """A source in a decoder process, and in the next one where it wants that when the first dies."""

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._link: DecoderLink | None = None
        self._running: asyncio.Task[None] | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._deaths: list[float] = []
        self._picture_wanted = asyncio.Event()

    # -- what a kind decides

    @abstractmethod
    def _order(self, progress: Progress | None) -> tuple[OpeningOrder, list[int]]:
        """What a decoder is told to open, with descriptors, which stay the source's."""

    @abstractmethod
    def _owed(self) -> Hashable | None:
        """How far its decoder has come with the media that it was given; None where it waits for more."""

    @abstractmethod
    async def _died(self, death: DecoderDied) -> bool:
        """Its decoder is gone: whether another one has taken over."""

    def _finished(self, last: SourceEnded | SourceFailed) -> None:
        """Its decoder is done with it."""
        context = self._context
        if isinstance(last, SourceFailed):
            context.fail(InputError(last.code, last.message, media_status(last.code)))
            return
        context.finish(last.warnings)

    @abstractmethod
    def interrupt(self) -> None:
        """Its socket is gone."""

    @abstractmethod
    async def resume(self) -> None:
        """Go on from another socket."""

    @abstractmethod
    async def ended(self) -> None:
        """No more will come."""

    # -- life

    async def open(self) -> None:
        """Begin. Raises CapacityError where no decoder can be had."""
        await self._begin()
        self._running = self._guarded(self._run())

    def stop(self) -> None:
        """Take no more frames."""
        for task in (self._running, self._feeding):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Free everything."""
        self.stop()
        try:
            await cancelled(self._running, self._feeding)
        finally:  # cancelled here, at a shutdown for one, it still frees all
            await self._release()

    async def _release(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.release()

    # -- one decoder after another

    async def _begin(self) -> None:
        """Have a decoder open the source, or go on with it where there is a ring already."""
        context = self._context
        progress = None if context.stream.ring is None else context.counts.progress()
        order, fds = self._order(progress)
        self._link = await DecoderLink.start(context, order, fds, self._picture_wanted, self._owed, self._connection())

    def _connection(self) -> int | None:
        """The descriptor of the socket that its decoder reads from by itself, where there is one."""
        return None

    async def _run(self) -> None:
        """Until the source has ended, over as many decoders as that takes."""
        context, goes_on = self._context, True
        while goes_on and (link := self._link) is not None:
            try:
                self._finished(await link.work())
                goes_on = False
            except DecoderDied as death:
                self._lost(death.reason)
                said = {"said": death.said} if death.said else {}
                told = fields(stream=context.stream.id, reason=death.reason, **said)
                log.error("decoder %d %s", link.pid, death, extra=told)
                self._link = None
                goes_on = await self._died(death)
            except (MessageError, GarbledError) as error:
                self._lost("protocol")
                told = fields(stream=context.stream.id, reason="protocol")
                log.error("decoder %d breaks the protocol: %s", link.pid, error, extra=told)
                self._fail("broke its decoder")
                goes_on = False
            except CapacityError as error:
                log.error("stream %d does not open: %s", context.stream.id, error)
                context.counts.cut("decoder")
                context.fail(error)
                goes_on = False
        self._picture_wanted.set()  # whoever waits to hand one over waits no longer
        self._context.changed()
        self._context.engine.wake()

    def _lost(self, reason: str) -> None:
        self._context.engine.metrics.decoders_lost.labels(reason).inc()

    def _guarded(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work as a task: whatever goes wrong in it ends this stream, and nothing else."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._look_back)
        return task

    def _look_back(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the source of stream %d", self._context.stream.id, exc_info=error)
            self._context.fail(StmixerError("internal", "an error in the service itself; its log says which", 500))
            self._context.changed()

    async def _flush(self, mark: FlushMark) -> None:
        """Carry out a flush: what the decoder has is written, and keyframes run with what is there."""
        context = self._context
        if self._link is not None and self._running is not None and not self._running.done():
            await self._link.flush()
        context.engine.flush(context.stream, time.monotonic())
        if not mark.done():
            mark.set_result(None)

    def _fail(self, what: str) -> None:
        """No decoder goes on; frames on their way are lost with it."""
        self._context.counts.cut("decoder")
        self._context.fail(InputError("unreadable", f"this media {what}; re-encode it, for instance with ffmpeg", 422))

    async def _replaced(self, death: DecoderDied, *, counted_s: float) -> bool:
        """Take another decoder in the place of a dead one; False where too many died in ``counted_s`` seconds."""
        context = self._context
        if context.stream.ended:
            return False
        now = time.monotonic()
        self._deaths = [*(at for at in self._deaths if now - at < counted_s), now]
        if death.reason == "cpu" or len(self._deaths) > MAX_REPLACED:
            self._fail(WHAT_IT_DID[death.reason])
            return False
        try:
            await self._begin()
        except (CapacityError, ChannelError) as error:
            context.counts.cut("decoder")
            context.fail(CapacityError("decoder", f"its decoder {death}, and no other: {error}; try again later"))
            return False
        notice = f"the decoder {death} and was replaced"
        context.warnings.append(notice)
        context.notice("decoder_lost", notice)
        return True


async def cancelled(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait for their ends."""
    there = [task for task in tasks if task is not None]
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)
