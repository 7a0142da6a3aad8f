"""A camera of this machine, of those that ``--allow-devices`` names: opened here, and read by a decoder that gets it.

The decoder opens nothing: where FFmpeg means to open the device by name, it gets the descriptor (``decoder.seccomp``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Sequence

from stmixer.service.errors import InputError
from stmixer.service.ipc.messages import OpenDevice, Progress
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.source import WHAT_IT_DID, DecodedSource
from stmixer.service.sources.trouble import Trouble

VIDEO4LINUX = 81
"""Their major number (Linux, admin-guide/devices.txt)."""


def check_device(path: str, named: Sequence[str]) -> None:
    """Raises InputError for a device that is not among those that were named, whether or not there is such a one."""
    if path not in named:
        what = "this device is not among those" if named else "devices are read"
        ending = " of --allow-devices" if named else " where the service was started with --allow-devices"
        raise InputError("device_not_allowed", what + ending, 422)


def open_device(path: str) -> int:
    """A descriptor of a video device, for whoever reads it. Raises Trouble for what is none, or cannot be had now."""
    try:
        found = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Trouble("unreachable", f"{path} cannot be opened ({os.strerror(error.errno or 0)})") from None
    about = os.fstat(found)
    if not stat.S_ISCHR(about.st_mode) or os.major(about.st_rdev) != VIDEO4LINUX:
        os.close(found)
        raise Trouble("no_video", f"{path} is no video device")
    os.set_blocking(found, True)  # as FFmpeg would open it
    return found


class DeviceSource(DecodedSource):
    """One decoder after another."""

    def __init__(self, context: SourceContext, named: Sequence[str], path: str) -> None:
        super().__init__(context)
        self._named, self._path, self._device = named, path, -1

    async def fetch(self, begun: Callable[[], None]) -> None:
        """Open it, and have a decoder read. Raises Trouble, InputError, CapacityError, ChannelError."""
        check_device(self._path, self._named)
        # its driver may take its time, and nobody waits for a thread that still opens it
        opening = asyncio.ensure_future(asyncio.to_thread(open_device, self._path))
        try:
            self._device = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_let_go)
            raise
        try:
            await self.open()
            begun()
        finally:
            os.close(self._device)  # the decoder has its own

    @property
    def owes(self) -> bool:
        """What waits in the driver nobody sees."""
        return False

    async def leave(self) -> None:
        """End what reads it."""
        try:
            await self.close()
        finally:
            self._context.counts.cut("decoder")

    # -- to the decoder

    def _order(self, progress: Progress | None) -> tuple[OpenDevice, list[int]]:
        return OpenDevice(self._context.sampling(), self._path, progress), []

    def _connection(self) -> int:
        return self._device

    def _owed(self) -> None:
        """What waits in the driver nobody sees."""

    async def _died(self, death: DecoderDied) -> bool:
        self._fail(WHAT_IT_DID[death.reason])
        return False

    # -- it has no socket that a client could lose

    def interrupt(self) -> None:
        """It has no client."""

    async def resume(self) -> None:
        """It was never interrupted."""

    async def ended(self) -> None:
        """It ends when it is unplugged."""


def _let_go(opening: asyncio.Future[int]) -> None:
    """Nobody wants it any more."""
    with contextlib.suppress(Trouble, asyncio.CancelledError):
        os.close(opening.result())
