"""Decoder processes, kept warm and handed out one to a stream, which is the only one whose media it ever meets.

One besides, for ``sources.easel``, draws pictures of all streams and meets no media.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from stmixer.service.errors import CapacityError
from stmixer.service.ipc.channel import ChannelError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import DecoderReady
from stmixer.service.logs import fields
from stmixer.service.settings import Settings
from stmixer.service.sources.nursery import Nursery, NurseryGone

log = logging.getLogger("stmixer.decoder")

DECODER_MODULE = "stmixer.service.decoder.process"

START_S = 60.0
"""How long one may take to shut itself in, which takes milliseconds."""


class DecoderPool:
    """Idle decoders ready to go, none of which has opened anything.

    ``missing_walls``: what this machine lacks to shut them in (``decoder.cell``), as the last of them said.
    """

    def __init__(self, settings: Settings, module: str = DECODER_MODULE) -> None:
        """``module``: what each of them runs."""
        self._nursery = Nursery(module, settings.decoder_memory_mb)
        self._idle_wanted = settings.idle_decoders
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._ending: set[asyncio.Task[int]] = set()
        self._refill: asyncio.Task[None] | None = None
        self._closed = False
        self.missing_walls: tuple[str, ...] = ()

    async def start(self) -> None:
        """Fill the pool."""
        await self._fill()

    async def acquire(self, connection: int | None = None) -> Child:
        """A decoder for one stream. Raises CapacityError if none can be started.

        ``connection``: a socket's or device's descriptor, which stays the caller's; the decoder is one that reads it.
        """
        if connection is not None:
            child = await self._spawn(connection)
            self._busy.add(child)
            return child
        while self._idle:
            child = self._idle.pop(0)
            if child.alive:
                break
            await child.kill()
        else:
            child = await self._spawn()
        self._busy.add(child)
        self._refill_soon()  # the next stream shall not wait for a process to start
        return child

    async def release(self, child: Child, *, clean: bool, stream: int | None = None) -> None:
        """End a decoder, whose source may have taken it over; ``clean`` if it is done and will end by itself.

        ``stream``: the id of what it read, for the log.
        """
        self._busy.discard(child)
        if clean:  # whoever is answered waits for no process
            ending = asyncio.create_task(child.end(timeout_s=1.0))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            ending.add_done_callback(lambda _: _tell_words(child, stream))
        else:
            await child.kill()
            _tell_words(child, stream)
        self._refill_soon()

    def _refill_soon(self) -> None:
        if not self._closed and (self._refill is None or self._refill.done()):
            self._refill = asyncio.create_task(self._fill())

    async def stop(self) -> None:
        """End all of them."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refill
        children = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        await asyncio.gather(*(child.kill() for child in children), *self._ending)
        await self._nursery.stop()

    async def _fill(self) -> None:
        while len(self._idle) < self._idle_wanted and not self._closed:
            try:
                child = await self._spawn()
            except CapacityError as error:
                log.error("%s", error)
                return
            self._idle.append(child)

    async def _spawn(self, connection: int | None = None) -> Child:
        try:
            child = await self._nursery.bear(connection)
        except (OSError, NurseryGone) as error:
            why = f": {error.strerror}" if isinstance(error, OSError) else ""
            raise CapacityError("decoder", f"no decoder could be started{why}; try again later") from None
        try:
            async with asyncio.timeout(START_S):
                ready = await child.channel.receive()
        except (ChannelError, TimeoutError):
            ready = None
        except BaseException:
            await child.kill()
            raise
        if ready is None or not isinstance(ready.message, DecoderReady):
            await child.kill()
            raise CapacityError("decoder", "a decoder ended at its start; try again later")
        self.missing_walls = ready.message.missing
        if connection is not None and any(line.startswith("seccomp:") for line in self.missing_walls):
            await child.kill()  # FFmpeg would make a connection of its own, to wherever the camera says
            raise CapacityError(
                "decoder", "cameras over RTSP, and devices, need seccomp, which this machine lacks (docs/security.md)"
            )
        return child


def _tell_words(child: Child, stream: int | None) -> None:
    """FFmpeg's own lines, which media choose: for whoever looks for them, in one that nobody takes for ours."""
    if said := child.last_words():
        log.debug("decoder %d said something", child.pid, extra=fields(stream=stream, said=said))
