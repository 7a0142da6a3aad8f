"""What a stream looks like: its newest result drawn upon the frame in which that was found.

A picture is made when somebody asks for one, once however many do, and five times a second at most. The frame of a
result is there for some seconds; after that, as before the first result, it is the newest frame without people.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from stmixer.media.limits import DRAWN_ACTIONS
from stmixer.service.engine.stream import Slot, Stream
from stmixer.service.errors import CapacityError
from stmixer.service.ipc.messages import DrawPicture
from stmixer.service.schemas import Result
from stmixer.service.sources.easel import Easel
from stmixer.service.sources.source import cancelled

PERIOD_S = 0.2
"""Between two pictures, at least."""
LOOK_S = 1.0
"""Between two looks for one while no result comes."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a picture would show: a frame, and the people of its result where there is one."""

    slot: Slot
    result: Result | None

    def is_same(self, other: _Sight) -> bool:
        """Whether that would be the same picture."""
        return self.slot == other.slot and self.result is other.result


class Preview:
    """Of one stream. ``trained``: whether its model is."""

    def __init__(self, stream: Stream | None, easel: Easel, *, trained: bool) -> None:
        self._stream, self._easel, self._trained = stream, easel, trained
        self._making: asyncio.Task[bytes] | None = None
        self._shown: _Sight | None = None
        self._picture, self._made_at = b"", 0.0
        self._changed, self._closed = asyncio.Event(), False

    def wake(self) -> None:
        """There is another result."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def turn_to(self, stream: Stream | None, *, trained: bool = False) -> None:
        """Show another stream from here on; with None none for now, and the last picture stays."""
        self._stream = None
        await cancelled(self._making)
        self._stream, self._trained, self._shown = stream, trained, None

    async def close(self) -> None:
        """Show nothing more."""
        self._closed = True
        self.wake()
        await cancelled(self._making)

    async def newest(self) -> bytes:
        """A JPEG. Raises CapacityError where no picture has come, or none can be drawn."""
        if self._closed:
            raise _nothing()
        making = self._making
        if making is None or making.done():
            making = self._making = asyncio.create_task(self._newest())
            making.add_done_callback(lambda done: done.cancelled() or done.exception())  # all may have looked away
        await asyncio.wait({making})  # whoever looks away ends it for nobody else
        if making.cancelled():  # the stream has ended
            raise _nothing()
        return making.result()

    async def pictures(self) -> AsyncGenerator[bytes]:
        """JPEGs, each when there is another one; ends with the stream."""
        shown = b""
        while not self._closed:
            changed, began = self._changed, time.monotonic()
            with suppress(CapacityError):
                picture = await self.newest()
                if picture is not shown:
                    shown = picture
                    yield picture
            await asyncio.sleep(max(0.0, max(began, self._made_at) + PERIOD_S - time.monotonic()))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await changed.wait()

    async def _newest(self) -> bytes:
        if self._picture and time.monotonic() - self._made_at < PERIOD_S:
            return self._picture
        for sight in self._sights():
            if self._shown is not None and sight.is_same(self._shown):
                return self._picture
            if (picture := await self._drawn(sight)) is not None:
                self._shown, self._picture, self._made_at = sight, picture, time.monotonic()
                return picture
        if not self._picture:
            raise _nothing()
        return self._picture

    def _sights(self) -> list[_Sight]:
        """What there is to be seen, the best first."""
        stream = self._stream
        if self._closed or stream is None or stream.ring is None or stream.newest is None:
            return []
        newest, found = _Sight(stream.newest.frame, None), stream.found
        if found is None or stream.newest.frame.number - found.slot.number >= stream.ring.shape.capacity - 1:
            return [newest]
        return [_Sight(found.slot, found.result), newest]

    async def _drawn(self, sight: _Sight) -> bytes | None:
        ring, size = None if self._stream is None else self._stream.ring, sight.slot.size
        if ring is None:  # the stream has ended meanwhile
            return None
        shape = ring.shape
        actors = () if sight.result is None else sight.result.actors
        order = DrawPicture(
            shape.width, shape.height, shape.capacity, sight.slot.number % shape.capacity, sight.slot.generation,
            None if size is None else (size.input_width, size.input_height), self._trained,
            tuple([actor.with_best(DRAWN_ACTIONS) for actor in actors]),
        )  # fmt: skip
        return await self._easel.draw(ring, order)


def _nothing() -> CapacityError:
    return CapacityError("no_picture", "no picture has come yet; look at the stream's state", retry_after_s=1)
