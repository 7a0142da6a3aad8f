"""The way of messages between the API process and its children: a message, an optional payload, optional descriptors.

On the wire: length of the message and of the payload (two little-endian uint32), the message as ``ipc.messages`` has
it, the payload, over a Unix stream socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stmixer.service.ipc.messages import Corridor, MessageError, encode

_LENGTHS = struct.Struct("<II")
_MAX_FDS = 4
AT_ONCE = 16
"""Messages that are there already, after which others have a turn: a child may say more than its parent can hear."""


class ChannelError(Exception):
    """The peer is gone, or cannot be understood."""


class GarbledError(ChannelError):
    """The peer is there, and does not keep to the framing or to the messages of its corridor."""


@dataclass(slots=True)
class Received:
    """One message, of the corridor's classes. Whoever receives descriptors closes them."""

    message: Any
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)


class Channel:
    """The child's end: blocking. ``incoming``: the messages that may arrive at it."""

    def __init__(self, sock: socket.socket, incoming: Corridor) -> None:
        sock.setblocking(True)
        self._sock, self._incoming = sock, incoming

    def send(self, message: object, payload: bytes = b"") -> None:
        """Send one message. Raises ChannelError when the parent is gone."""
        raw = encode(message)
        try:
            self._sock.sendall(_LENGTHS.pack(len(raw), len(payload)) + raw)
            if payload:
                self._sock.sendall(payload)
        except OSError as error:
            raise ChannelError(str(error)) from None

    def readable(self, timeout_s: float | None = 0.0) -> bool:
        """Whether a message (or the end) is there within ``timeout_s``."""
        return bool(select.select([self._sock], [], [], timeout_s)[0])

    def receive(self) -> Received | None:
        """The next message; None once the parent has closed."""
        try:
            prefix, fds, _, _ = socket.recv_fds(self._sock, _LENGTHS.size, _MAX_FDS)
            if not prefix:
                return None
            if len(prefix) < _LENGTHS.size:
                prefix += self._exactly(_LENGTHS.size - len(prefix))
            length, payload = _LENGTHS.unpack(prefix)
            if length > self._incoming.max_bytes or payload > self._incoming.max_payload:
                raise GarbledError(f"a message of {length} + {payload} bytes is over the limit")
            data = self._exactly(length + payload)
            message = self._incoming.decode(data[:length])
        except OSError as error:
            raise ChannelError(str(error)) from None
        except MessageError as error:
            raise GarbledError(str(error)) from None
        return Received(message, data[length:], list(fds))

    def close(self) -> None:
        """Close; the parent sees the end of our messages."""
        self._sock.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            got = self._sock.recv_into(view[done:])
            if got == 0:
                raise ChannelError("the parent closed in the middle of a message")
            done += got
        return bytes(data)


class AsyncChannel:
    """The API process's end: never blocks the event loop. ``incoming``: the messages that may arrive at it.

    ``since``: CPU seconds of this thread (``time.thread_time``) when others last had a turn before the message that was
    received last, so that what it took to read counts; None where they had none.
    """

    def __init__(self, sock: socket.socket, incoming: Corridor) -> None:
        sock.setblocking(False)
        self._sock, self._incoming = sock, incoming
        self._sending = asyncio.Lock()
        self.since: float | None = None
        self._at_once = 0
        self._come = bytearray()
        """Of a message that is not whole yet."""

    async def send(self, message: object, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send one message. Raises ChannelError when the child is gone."""
        loop, raw = asyncio.get_running_loop(), encode(message)
        data = _LENGTHS.pack(len(raw), len(payload)) + raw
        try:
            async with self._sending:
                if fds:
                    data = data[await self._send_with(fds, data) :]
                if data:  # nothing, sent to one that has its message and is done, is an error
                    await loop.sock_sendall(self._sock, data)
                if payload:
                    await loop.sock_sendall(self._sock, payload)
        except OSError as error:
            raise ChannelError(str(error)) from None

    async def receive(self) -> Received | None:
        """The next message; None once the child has closed. Whoever is cancelled in the middle of one has lost nothing:
        the next call goes on there."""
        self.since, self._at_once = None, self._at_once + 1
        if self._at_once > AT_ONCE:
            await asyncio.sleep(0)
            self._has_waited()
        try:
            if not await self._fill(_LENGTHS.size):
                return None
            length, payload = _LENGTHS.unpack_from(self._come)
            if length > self._incoming.max_bytes or payload > self._incoming.max_payload:
                raise GarbledError(f"a message of {length} + {payload} bytes is over the limit")
            await self._fill(_LENGTHS.size + length + payload)
            data, self._come = bytes(memoryview(self._come)[_LENGTHS.size :]), bytearray()
            message = self._incoming.decode(data[:length])
        except OSError as error:
            raise ChannelError(str(error)) from None
        except MessageError as error:
            raise GarbledError(str(error)) from None
        return Received(message, data[length:])

    def close(self) -> None:
        """Close; the child sees the end of its messages."""
        self._sock.close()

    async def _send_with(self, fds: Sequence[int], data: bytes) -> int:
        while True:
            with contextlib.suppress(BlockingIOError):
                return socket.send_fds(self._sock, [data], list(fds))
            await self._writable()

    async def _writable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._sock)

    async def _readable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            if self._sock.fileno() >= 0:
                loop.remove_reader(self._sock)

    def _has_waited(self) -> None:
        self.since, self._at_once = time.thread_time(), 1

    async def _fill(self, count: int) -> bool:
        """Have so many bytes of a message; False where the child has closed before the first. Nothing is taken from
        the socket while somebody could be cancelled."""
        while len(self._come) < count:
            try:
                got = self._sock.recv(count - len(self._come))
            except BlockingIOError:
                await self._readable()
                self._has_waited()
                continue
            if not got:
                if self._come:
                    raise ChannelError("the child closed in the middle of a message")
                return False
            self._come += got
        return True
