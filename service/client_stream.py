"""A stream of ``service.client``, sync and async: media in, results out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from websockets.asyncio.client import ClientConnection as AsyncSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection as Socket

from stmixer.service.schemas import Result, Summary


class ServiceError(Exception):
    """The service said no. ``code`` is stable; ``status`` an HTTP status or a WebSocket close code.

    ``retry_after_s`` is given where the same may succeed later.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class Ready(BaseModel):
    """What a stream is told at its start; see docs/protocol.md."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    resume_token: str
    resume_ttl_s: float
    max_frame_bytes: int
    lookahead_ms: float
    keyframe_hz: float
    model: str
    trained: bool


class _Answers:
    """What the two kinds of stream make of the service's messages."""

    def __init__(self) -> None:
        self.ready: Ready
        self.summary: Summary | None = None
        self.warnings: list[str] = []
        self.going_away_in_ms: float | None = None
        self._error: tuple[str, str, bool] | None = None

    def _take(self, text: str | bytes) -> Result | None:
        """A result; everything else is remembered."""
        message: dict[str, Any] = json.loads(text)
        match message.pop("type"):
            case "result":
                return Result.model_validate(message)
            case "ready":
                self.ready = Ready.model_validate(message)
            case "summary":
                self.warnings += message.pop("warnings", [])
                self.summary = Summary.model_validate(message)
            case "warning":
                self.warnings.append(message["message"])
            case "goaway":
                self.going_away_in_ms = message["time_left_ms"]
            case "error":
                self._error = message["code"], message["message"], message["retryable"]
        return None

    def _closed(self, closed: ConnectionClosed) -> None:
        """Nothing for an end in order. Raises ServiceError."""
        status, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "the connection was lost")
        if self._error is not None:
            code, message, retryable = self._error
            raise ServiceError(status, code, message, 1.0 if retryable else None) from None
        if status not in (1000, 1001):
            raise ServiceError(status, "closed", reason, 1.0) from None


class Stream(_Answers):
    """An open stream. Iterate for results as they come; that ends after ``stop``, or raises ServiceError."""

    def __init__(self, socket: Socket, start: dict[str, Any]) -> None:
        super().__init__()
        self._socket = socket
        socket.send(json.dumps(start))
        while not hasattr(self, "ready"):
            self._receive()

    def send(self, media: bytes, pts_us: int | None = None) -> None:
        """A JPEG, with its time where ``timestamps`` is prefix, or bytes of a container."""
        self._say(media if pts_us is None else pts_us.to_bytes(8, "little") + media)

    def stop(self) -> None:
        """No more media: what is pending still comes, then ``summary`` is there."""
        self._say('{"type":"stop"}')

    def flush(self) -> None:
        """Run what is pending with what is there."""
        self._say('{"type":"flush"}')

    def __iter__(self) -> Iterator[Result]:
        try:
            while True:
                if (result := self._take(self._socket.recv())) is not None:
                    yield result
        except ConnectionClosed as closed:
            self._closed(closed)

    def _receive(self) -> None:
        try:
            self._take(self._socket.recv())
        except ConnectionClosed as closed:
            self._closed(closed)
            raise ServiceError(1006, "closed", "the service closed before it was ready", 1.0) from None

    def _say(self, message: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):  # whoever reads results is told why
            self._socket.send(message)


class AsyncStream(_Answers):
    """``Stream`` for asyncio; made by ``AsyncClient.stream``."""

    def __init__(self, socket: AsyncSocket) -> None:
        super().__init__()
        self._socket = socket

    async def begin(self, start: dict[str, Any]) -> None:
        """Say ``start`` and wait for ``ready``. Raises ServiceError."""
        await self._say(json.dumps(start))
        try:
            while not hasattr(self, "ready"):
                self._take(await self._socket.recv())
        except ConnectionClosed as closed:
            self._closed(closed)
            raise ServiceError(1006, "closed", "the service closed before it was ready", 1.0) from None

    async def send(self, media: bytes, pts_us: int | None = None) -> None:
        """As ``Stream.send``."""
        await self._say(media if pts_us is None else pts_us.to_bytes(8, "little") + media)

    async def stop(self) -> None:
        """As ``Stream.stop``."""
        await self._say('{"type":"stop"}')

    async def flush(self) -> None:
        """As ``Stream.flush``."""
        await self._say('{"type":"flush"}')

    async def __aiter__(self) -> AsyncIterator[Result]:
        try:
            while True:
                if (result := self._take(await self._socket.recv())) is not None:
                    yield result
        except ConnectionClosed as closed:
            self._closed(closed)

    async def _say(self, message: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):  # whoever reads results is told why
            await self._socket.send(message)
