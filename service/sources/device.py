"""A camera of this machine, of those that ``--allow-devices`` names: opened here, and read by a decoder that gets it.

The decoder opens nothing: where FFmpeg means to open the device by name, it gets the descriptor (``decoder.seccomp``).
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Sequence

from stmixer.service.errors import InputError
from stmixer.service.ipc.messages import OpenDevice, Progress
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_link import DecoderDied
from stmixer.service.sources.local import LocalSource
from stmixer.service.sources.source import WHAT_IT_DID
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


class DeviceSource(LocalSource):
    """One decoder after another."""

    def __init__(self, context: SourceContext, named: Sequence[str], path: str) -> None:
        super().__init__(context)
        self._named, self._path, self._device = named, path, -1

    async def fetch(self, begun: Callable[[], None]) -> None:
        """Open it, and have a decoder read. Raises Trouble, InputError, CapacityError, ChannelError."""
        check_device(self._path, self._named)
        self._device = await _opened(self._path)
        try:
            await self.open()
            begun()
        finally:
            os.close(self._device)  # the decoder has its own

    # -- to the decoder

    def _order(self, progress: Progress | None) -> tuple[OpenDevice, list[int]]:
        return OpenDevice(self._context.sampling(), self._path, progress), []

    def _connection(self) -> int:
        return self._device

    async def _died(self, death: DecoderDied) -> bool:
        self._fail(WHAT_IT_DID[death.reason])
        return False


_opening: set[str] = set()
"""Paths that a thread is at."""


async def _opened(path: str) -> int:
    """``open_device`` in a thread of its own: its driver may take its time, and holds up nobody. Raises Trouble, also
    where it still has somebody's who has gone."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[int] = loop.create_future()

    def settle(descriptor: int, error: Exception | None) -> None:
        if error is None and found.done():  # nobody wants it any more
            os.close(descriptor)
        elif error is None:
            found.set_result(descriptor)
        elif not found.done():
            found.set_exception(error)

    def work() -> None:
        descriptor = -1
        error: Exception | None = None
        try:
            descriptor = open_device(path)
        except (Trouble, OSError, ValueError) as raised:
            error = raised
        _opening.discard(path)
        try:
            loop.call_soon_threadsafe(settle, descriptor, error)
        except RuntimeError:  # the service has ended meanwhile
            if error is None:
                os.close(descriptor)

    if path in _opening:
        raise Trouble("unreachable", f"{path} is being opened already, and its driver has not done so yet")
    _opening.add(path)
    try:
        threading.Thread(target=work, name="device", daemon=True).start()
    except RuntimeError:
        _opening.discard(path)
        raise Trouble("unreachable", f"{path} cannot be opened (no thread can be started)") from None
    try:
        return await found
    except asyncio.CancelledError:
        if not found.cancelled() and found.exception() is None:  # it came in the same turn
            os.close(found.result())
        raise
