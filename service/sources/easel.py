"""Where pictures of pulled streams are drawn: one decoder process for all of them, there while somebody looks."""

from __future__ import annotations

import asyncio
import os

from stmixer.service.errors import CapacityError
from stmixer.service.ipc.channel import ChannelError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import MAX_PICTURE, DrawPicture, PictureDrawn, PictureGone
from stmixer.service.ipc.ring import RingMemory, seal_size
from stmixer.service.sources.decoder_pool import DecoderPool
from stmixer.service.sources.source import cancelled

DRAW_S = 10.0
"""How long one picture may take, which takes milliseconds."""
IDLE_S = 20.0
"""After so long without a picture its process ends."""


class Easel:
    """It has no process until a picture is wanted."""

    def __init__(self, pool: DecoderPool) -> None:
        self._pool, self._turn = pool, asyncio.Lock()
        self._child: Child | None = None
        self._paper = -1
        self._leaving: asyncio.Task[None] | None = None

    async def draw(self, ring: RingMemory, order: DrawPicture) -> bytes | None:
        """A JPEG; None where the frame is gone. Raises CapacityError."""
        async with self._turn:
            await cancelled(self._leaving)
            try:
                child = await self._begun()
                async with asyncio.timeout(DRAW_S):
                    picture = await self._asked(child, ring, order)
            except (ChannelError, TimeoutError):
                await self._end(clean=False)
                raise CapacityError("decoder", "a picture could not be drawn; try again", retry_after_s=1) from None
            except BaseException:  # in the middle of one the process is of no use any more
                await self._end(clean=False)
                raise
            self._leaving = asyncio.create_task(self._leave())
            return picture

    async def _begun(self) -> Child:
        """Its process. Raises CapacityError."""
        if self._child is None:
            self._child = await self._pool.acquire()
            self._paper = os.memfd_create("stmixer-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._paper, MAX_PICTURE)
            seal_size(self._paper)
        return self._child

    async def _asked(self, child: Child, ring: RingMemory, order: DrawPicture) -> bytes | None:
        if ring.fd < 0:  # its stream has ended meanwhile
            return None
        await child.channel.send(order, fds=[ring.fd, self._paper])
        received = await child.channel.receive()
        match None if received is None else received.message:
            case PictureDrawn(size):
                return os.pread(self._paper, size, 0)
            case PictureGone():
                return None
        raise ChannelError("no answer to DrawPicture")

    async def close(self) -> None:
        """End its process."""
        async with self._turn:
            await cancelled(self._leaving)
            await self._end(clean=True)

    async def _leave(self) -> None:
        await asyncio.sleep(IDLE_S)
        await self._end(clean=True)

    async def _end(self, *, clean: bool) -> None:
        child, self._child, paper, self._paper = self._child, None, self._paper, -1
        if paper >= 0:
            os.close(paper)
        if child is not None:
            await self._pool.release(child, clean=clean)
