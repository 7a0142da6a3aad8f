"""Messages between the API process and its children: a JSON header, an optional payload, optional descriptors.

On the wire: header length and payload length (two little-endian uint32), header, payload, over a Unix stream socket.
JSON, not pickle: a decoder has met untrusted media, and nothing it says may run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_LENGTHS = struct.Struct("<II")
MAX_HEADER = 64 * 1024 * 1024
MAX_PAYLOAD = 64 * 1024 * 1024
_MAX_FDS = 4

Header = dict[str, Any]


class ChannelError(Exception):
    """The peer is gone or does not keep to the framing."""


@dataclass(slots=True)
class Message:
    """One message. Whoever receives descriptors closes them."""

    header: Header
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)


def _lengths(prefix: bytes) -> tuple[int, int]:
    header, payload = _LENGTHS.unpack(prefix)
    if header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise ChannelError(f"message of {header} + {payload} bytes is over the limit")
    return header, payload


def _parse(raw: bytes) -> Header:
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise ChannelError(f"not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ChannelError("not a JSON object")
    return header


def _frame(header: Header, payload: bytes) -> bytes:
    raw = json.dumps(header, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(raw), len(payload)) + raw


class Channel:
    """The child's end: blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock

    def send(self, header: Header, payload: bytes = b"") -> None:
        """Send one message. Raises ChannelError when the parent is gone."""
        try:
            self._sock.sendall(_frame(header, payload))
            if payload:
                self._sock.sendall(payload)
        except OSError as error:
            raise ChannelError(str(error)) from None

    def readable(self, timeout_s: float | None = 0.0) -> bool:
        """Whether a message (or the end) is there within ``timeout_s``."""
        return bool(select.select([self._sock], [], [], timeout_s)[0])

    def receive(self) -> Message | None:
        """The next message; None once the parent has closed."""
        try:
            prefix, fds, _, _ = socket.recv_fds(self._sock, _LENGTHS.size, _MAX_FDS)
            if not prefix:
                return None
            prefix += self._exactly(_LENGTHS.size - len(prefix))
            header, payload = _lengths(prefix)
            return Message(_parse(self._exactly(header)), self._exactly(payload), list(fds))
        except OSError as error:
            raise ChannelError(str(error)) from None

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
    """The API process's end: never blocks the event loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._sending = asyncio.Lock()

    async def send(self, header: Header, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send one message. Raises ChannelError when the child is gone."""
        loop = asyncio.get_running_loop()
        try:
            async with self._sending:
                data = _frame(header, payload)
                if fds:
                    data = data[await self._send_with(fds, data) :]
                await loop.sock_sendall(self._sock, data)
                if payload:
                    await loop.sock_sendall(self._sock, payload)
        except OSError as error:
            raise ChannelError(str(error)) from None

    async def receive(self) -> Message | None:
        """The next message; None once the child has closed."""
        try:
            prefix = await self._exactly(_LENGTHS.size, may_end=True)
            if not prefix:
                return None
            header, payload = _lengths(prefix)
            return Message(_parse(await self._exactly(header)), await self._exactly(payload))
        except OSError as error:
            raise ChannelError(str(error)) from None

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

    async def _exactly(self, count: int, *, may_end: bool = False) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            got = await loop.sock_recv_into(self._sock, view[done:])
            if got == 0:
                if may_end and done == 0:
                    return b""
                raise ChannelError("the child closed in the middle of a message")
            done += got
        return bytes(data)
