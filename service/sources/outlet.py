"""What a relay hands to its decoder, which may take its time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import Callable, Hashable


class Outlet:
    """What goes to the decoder: pieces in order, each whole. ``freed`` is called when nothing waits any more."""

    def __init__(self, ours: socket.socket, freed: Callable[[], None]) -> None:
        self._socket, self._freed = ours, freed
        self._waiting, self._over = bytearray(), False
        self._room = asyncio.Event()
        self._room.set()
        self._put = 0

    @property
    def full(self) -> bool:
        """Whether the decoder has not taken what it was given, and the kernel keeps no more for it."""
        return bool(self._waiting)

    def put(self, data: bytes) -> None:
        """Hand on; what there is no room for waits here."""
        self._put += len(data)
        self._waiting += data
        if self._room.is_set():
            self._flush()
            if self._waiting:
                self._room.clear()
                asyncio.get_running_loop().add_writer(self._socket, self._go_on)

    async def room(self) -> None:
        """Until nothing waits."""
        await self._room.wait()

    def end(self) -> None:
        """Nothing comes after this."""
        self._over = True
        self._flush()

    def owed(self) -> Hashable | None:
        """How far the decoder has come with what it was given; None where it has all of it."""
        try:
            kept = int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), "little")
        except (OSError, ValueError):
            return None
        return (self._put, len(self._waiting), kept) if kept or self._waiting else None

    def close(self) -> None:
        """Hand on no more."""
        asyncio.get_running_loop().remove_writer(self._socket)

    def _go_on(self) -> None:
        self._flush()
        if not self._waiting:
            asyncio.get_running_loop().remove_writer(self._socket)
            self._room.set()
            self._freed()

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the decoder has ended, as whoever watches it knows
            self._waiting.clear()
            return
        if self._over:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
