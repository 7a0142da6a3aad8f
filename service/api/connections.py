"""Connections of HTTP and WebSocket, none of which may cost the others much (``service.api.paced``)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Response

from stmixer.service.api.doorway import Doing, Doorway
from stmixer.service.api.paced import MESSAGE_S, PacedReading
from stmixer.service.api.protocol import HAS_BEGUN
from stmixer.service.api.security_headers import security_headers

HEAD_S = 10.0
"""How long the head of a request may take to come."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = logging.getLogger("stmixer.connections")


class HttpSocket(PacedReading, H11Protocol):  # type: ignore[misc]  # of two kinds of eof_received
    """uvicorn's HTTP, but one whose requests count in the connection's time, whose heads have to come, whose answers
    have to be read, and that comes through a ``doorway`` where there is one."""

    def __init__(self, *arguments: Any, doorway: Doorway | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doorway, self._has_asked = doorway, False
        application = self.app
        self.app = lambda scope, receive, send: _Timed(application(scope, receive, send), self._paced.spend)
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client that asks nothing is not kept for ever."""
        super().connection_made(transport)
        if self._doorway is not None:
            if not self._doorway.enter(self):
                self.transport.write(FULL)
                self.transport.close()
                return
            self._paced.when_lost = self._left
        self._expect_head()

    @property
    def address(self) -> str:
        """Who has connected."""
        return self.client[0] if self.client else ""

    @property
    def doing(self) -> Doing:
        """What it is busy with."""
        if self._paced.upgraded:  # a WebSocket that has not said what it wants has asked nothing yet
            return Doing.ASKING if self._paced.streaming else Doing.NOTHING_YET
        if self.cycle is not None and not self.cycle.response_complete:
            return Doing.ASKING
        return Doing.BETWEEN if self._has_asked else Doing.NOTHING_YET

    def leave(self) -> None:
        """Close it now."""
        self.transport.abort()

    def _left(self) -> None:
        if self._doorway is not None:
            self._doorway.left(self)

    def pause_writing(self) -> None:
        """As much waits to be read as we let wait."""
        super().pause_writing()
        self._paced.expect_reading()

    def resume_writing(self) -> None:
        """It is read."""
        super().resume_writing()
        self._paced.reading_goes_on()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; while the head of a request is not whole its time runs."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._has_asked = True
            self._stop_expecting()
        elif self.conn.trailing_data[0] and self._head is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered with the headers of every answer."""
        headers = [*security_headers(tls=self.scheme == "https").items(), (b"content-type", b"text/plain"),
                   (b"connection", b"close")]  # fmt: skip
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._stop_expecting()
        self._paced.reading_goes_on()
        self._left()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Another protocol has the connection from here on, and says when it is lost."""
        self._paced.upgraded = True
        super().handle_websocket_upgrade(event)

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_expecting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class StreamSocket(PacedReading, WebSocketsSansIOProtocol):  # type: ignore[misc]
    """uvicorn's WebSocket, but one whose client takes nothing more is cut off in the end.

    uvicorn closes a transport once everything is written, which for a client that has stopped reading is never.
    """

    LAST_WORDS_S = 2.0
    _joined: bytearray | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Whatever a handshake is answered has the headers of every answer."""
        super().connection_made(transport)
        table, send = security_headers(tls=self.scheme == "wss"), self.conn.send_response

        def send_with_headers(response: Response) -> None:
            for name, value in table.items():
                response.headers.setdefault(name.decode(), value.decode())
            send(response)

        self.conn.send_response = send_with_headers  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        self._paced.when_lost()
        super().connection_lost(exc)

    async def run_asgi(self) -> None:
        """Run the application, which says when it has been asked for something; then give its last words a moment."""
        self.scope["state"][HAS_BEGUN] = self._begin
        await super().run_asgi()
        closing = self.LAST_WORDS_S if self.close_timer is None else self.close_timeout + self.LAST_WORDS_S
        self.loop.call_later(closing, self.transport.abort)

    def _begin(self) -> None:
        self._paced.streaming = True

    def handle_cont(self, event: Frame) -> None:
        """A further piece of a message. In one place: of small pieces a list takes many times their bytes."""
        if self._joined is None:
            self._joined = bytearray(self.frames[0])
        self._joined += event.data
        if event.fin:
            self.frames, self._joined = [bytes(self._joined)], None
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Hand a message over; what the application does with it counts as well."""
        super().send_receive_event_to_app()
        self._paced.spend(MESSAGE_S)


class _Timed(Generator[Any, Any, None]):
    """A coroutine whose steps are timed; to be awaited in its place."""

    def __init__(self, work: Coroutine[Any, Any, None], spend: Callable[[float], None]) -> None:
        self._steps, self._spend = work.__await__(), spend

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def send(self, value: Any) -> Any:
        """Its next step."""
        started = time.perf_counter()
        try:
            return self._steps.send(value)
        finally:
            self._spend(time.perf_counter() - started)

    def throw(self, *error: Any) -> Any:
        """Its next step, with an error."""
        started = time.perf_counter()
        try:
            return self._steps.throw(*error)
        finally:
            self._spend(time.perf_counter() - started)
