"""Connections of HTTP and WebSocket, none of which may cost the others much: each has a share of the event loop's time.

A read takes as many bytes as are likely to keep the loop for a millisecond: of pictures tens of kilobytes, of messages
with a byte each some hundred bytes. Who has used up the share is not read for a while, and TCP slows the sender.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Response

from stmixer.service.api.doorway import Doing, Doorway
from stmixer.service.api.security_headers import security_headers

SHARE = 0.3
"""Of the loop's time that a connection may take for long."""
BURST_S = 0.05
"""What it may take at once after a pause."""
PIECE_S = 0.001
"""What a read is to take at most."""
LEAST_READ, FIRST_READ, MOST_READ = 256, 4 * 1024, 32 * 1024
MESSAGE_S = 25e-6
"""What the application takes for a message besides its parsing: measured with pictures of one byte."""
MOST_UNREAD = 2**20
"""Bytes of ours that may wait for a client that sends, and does not read."""
UNREAD_REST_S = 0.25
HEAD_S = 10.0
"""How long the head of a request may take to come."""
UNREAD_S = 30.0
"""How long a client may read next to nothing of an answer that waits for it."""
LEAST_PACE = 1024
"""Bytes a second that it has to read meanwhile."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = logging.getLogger("stmixer.connections")


class Allowance:
    """Loop time of one connection: ``SHARE`` of what passes, at most ``BURST_S`` of it saved up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left_s, self._at = clock, BURST_S, clock()
        self.read_bytes = FIRST_READ

    def spend(self, seconds: float) -> float:
        """Seconds were used; returns for how many to rest now, mostly 0."""
        now = self._clock()
        self._left_s = min(BURST_S, self._left_s + (now - self._at) * SHARE) - seconds
        self._at = now
        return max(0.0, -self._left_s / SHARE)

    def took(self, count: int, seconds: float) -> None:
        """A read of ``count`` bytes took so long: the next one is to take ``PIECE_S`` at most."""
        fitting = round(count * PIECE_S / max(seconds, 1e-6))
        self.read_bytes = max(LEAST_READ, min(MOST_READ, 2 * self.read_bytes, fitting))


class PacedTransport:
    """An asyncio transport that is read only while the connection has allowance left; all else is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self.allowance = Allowance()
        self.upgraded = False
        self.when_lost: Callable[[], None] = lambda: None
        self._unread, self._reading = 0, cast(asyncio.TimerHandle | None, None)
        self._wanted, self._resting = True, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def pause_reading(self) -> None:
        """The protocol wants no more for now."""
        self._wanted = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The protocol wants more."""
        self._wanted = True
        if not self._resting:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close once all is written, or is not read for long."""
        self.expect_reading()
        self._transport.close()

    def expect_reading(self) -> None:
        """What waits has to be read at a least pace from here on, or the connection ends."""
        waits = self._transport.get_write_buffer_size()
        if waits and self._reading is None:
            self._unread = waits
            self._reading = self._loop.call_later(UNREAD_S, self._look_whether_read)

    def reading_goes_on(self) -> None:
        """It was read."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _look_whether_read(self) -> None:
        self._reading = None
        read = self._unread - self._transport.get_write_buffer_size()
        if read >= min(UNREAD_S * LEAST_PACE, self._unread):
            self.expect_reading()
            return
        log.warning("a client read %d bytes of its answer in %g s, and is cut off", read, UNREAD_S)
        self._transport.abort()

    def spend(self, seconds: float) -> None:
        """The connection used some of the loop's time."""
        rest_s = self.allowance.spend(seconds)
        if self._transport.get_write_buffer_size() > MOST_UNREAD:
            rest_s = max(rest_s, UNREAD_REST_S)
        if rest_s > 0 and not self._resting and not self._transport.is_closing():
            self._resting = True
            self._transport.pause_reading()
            self._loop.call_later(rest_s, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._wanted:
            self._transport.resume_reading()


class PacedReading(asyncio.BufferedProtocol):
    """Before one of uvicorn's protocols: gives it what is read, in pieces, and counts the time that this takes."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have it read at its pace; after an upgrade it keeps what it has."""
        paced = transport
        if not isinstance(transport, PacedTransport):
            paced = cast(asyncio.Transport, PacedTransport(cast(asyncio.Transport, transport), self.loop))
        super().connection_made(paced)

    @property
    def _paced(self) -> PacedTransport:
        return cast(PacedTransport, self.transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Room for the next read."""
        self._buffer = bytearray(self._paced.allowance.read_bytes)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read."""
        started = time.perf_counter()
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))
        seconds = time.perf_counter() - started
        self._paced.allowance.took(nbytes, seconds)
        self._paced.spend(seconds)

    def data_received(self, data: bytes) -> None:
        """uvicorn's own."""
        super().data_received(data)  # type: ignore[misc]


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
        if self._paced.upgraded or (self.cycle is not None and not self.cycle.response_complete):
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
        """Run the application; then give its last words a moment."""
        await super().run_asgi()
        closing = self.LAST_WORDS_S if self.close_timer is None else self.close_timeout + self.LAST_WORDS_S
        self.loop.call_later(closing, self.transport.abort)

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
