"""Connections of HTTP and WebSocket, none of which may cost the others much (``service.api.paced``)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Response

from stmixer.service.api.doorway import Doing, Doorway
from stmixer.service.api.paced import PacedReading, Timed
from stmixer.service.api.protocol import HAS_BEGUN
from stmixer.service.api.security_headers import security_headers
from stmixer.service.api.senders import CONNECTION_S, SENDER, Bill, Senders, SentStream

HEAD_S = 10.0
"""How long the head of a request may take to come."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = logging.getLogger("stmixer.connections")


class HttpSocket(PacedReading, H11Protocol):  # type: ignore[misc]  # of two kinds of eof_received
    """uvicorn's HTTP, but one whose requests count in the connection's time, and in that of its address where there
    are ``senders``, whose heads have to come, whose answers have to be read, and that comes through a ``doorway`` where
    there is one."""

    def __init__(
        self, *arguments: Any, doorway: Doorway | None = None, senders: Senders | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._doorway, self._senders, self._has_asked = doorway, senders, False
        self._application = self.app
        self.app = self._answer
        self._head: asyncio.TimerHandle | None = None
        self._held, self._head_left_s = False, HEAD_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client that asks nothing is not kept for ever."""
        super().connection_made(transport)
        self._paced.more_comes = lambda: self.conn.their_state is h11.SEND_BODY and not self._paced.upgraded
        if self._doorway is not None:
            if not self._doorway.enter(self):
                self.transport.write(FULL)
                self.transport.close()
                return
            self._paced.when_lost = self._left
        if self._senders is not None and (sender := self._senders.of(self.address)) is not None:
            sender.spend(CONNECTION_S)
            self._paced.sender = sender
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
        """As uvicorn's; while the head of a request is not whole its time runs. After an answer the rest of what was
        asked is dropped."""
        if self._paced.drops():
            return
        super().data_received(data)
        self._look_at_head()

    def handle_events(self) -> None:
        """uvicorn's own; the next request is not looked at before its address may have one."""
        sender = self._paced.sender
        if self._held:
            return
        if sender is None or sender.is_due or self.conn.their_state is not h11.IDLE or not self.conn.trailing_data[0]:
            super().handle_events()
            return
        self._held = True
        self.flow.pause_reading()
        if self._head is not None:  # the client is not to blame for our delay
            self._head_left_s = self._head.when() - self.loop.time()
            self._stop_expecting()
        sender.when_due(self._go_on)

    def _go_on(self) -> None:
        self._held = False
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        started = time.perf_counter()
        super().handle_events()
        self._paced.spend_reading(time.perf_counter() - started)
        self._look_at_head()

    def _look_at_head(self) -> None:
        if self._held or self._paced.upgraded:
            return
        if self.conn.their_state is not h11.IDLE:
            self._has_asked, self._head_left_s = True, HEAD_S
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
        self._paced.lingers_no_more()
        self._paced.reading_goes_on()
        self._left()
        super().connection_lost(exc)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """The application, whose steps count."""
        sender = self._paced.sender
        bill = None if sender is None else Bill(sender)
        if sender is not None:
            scope["state"][SENDER] = sender

        def spend(seconds: float) -> None:
            self._paced.spend(seconds)
            if bill is not None:
                bill.add(seconds)

        await Timed(self._application(scope, receive, send), spend)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Another protocol has the connection from here on, and says when it is lost."""
        self._paced.upgraded = True
        self._stop_expecting()
        super().handle_websocket_upgrade(event)

    def _expect_head(self) -> None:
        self._head, self._head_left_s = self.loop.call_later(self._head_left_s, self.transport.close), HEAD_S

    def _stop_expecting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class StreamSocket(PacedReading, WebSocketsSansIOProtocol):  # type: ignore[misc]
    """uvicorn's WebSocket, but one whose client takes nothing more is cut off in the end, and one that breaks the
    protocol learns why.

    uvicorn closes a transport once everything is written, which for a client that has stopped reading is never; and one
    that broke the protocol at once, before the rest of what it is sending: TCP answers that with a reset, which may
    overtake our close frame.
    """

    LAST_WORDS_S = 2.0
    _joined: bytearray | None = None
    _live: SentStream | None = None
    _hung_up = False

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
        if self._live is not None:
            self._live.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """uvicorn's own, but nothing is heard any more of a client that broke the protocol."""
        if not self._hung_up:
            super().data_received(data)

    def handle_parser_exception(self) -> None:
        """Tell the client by a close frame, and give it a moment to read that while what it still sends is dropped."""
        told = self.conn.close_sent
        if told is None:  # before the handshake is answered there are no frames
            self.transport.abort()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": told.code, "reason": told.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():  # TLS has no half of a connection
            self.transport.write_eof()
        self.close_sent = self.disconnected = self._hung_up = True  # the application has nobody to send to
        self.writable.set()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(self.LAST_WORDS_S, self.transport.close)

    async def run_asgi(self) -> None:
        """Run the application, which says when it has been asked for something; then give its last words a moment."""
        self.scope["state"][HAS_BEGUN] = self._begin
        if self._paced.sender is not None:
            application, bill = self.app, Bill(self._paced.sender)
            self.app = lambda scope, receive, send: Timed(application(scope, receive, send), bill.add)
        await super().run_asgi()
        closing = self.LAST_WORDS_S if self.close_timer is None else self.close_timeout + self.LAST_WORDS_S
        self.loop.call_later(closing, self.transport.abort)

    def _begin(self, *, live: bool = False) -> None:
        """It has been asked for something; ``live``: for a stream of its own."""
        self._paced.streaming = True
        if live and self._live is None and self._paced.sender is not None:
            self._live = SentStream(self._paced.sender)

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
        if self._hung_up:
            return
        try:
            super().send_receive_event_to_app()
        except InvalidState:  # it is no text, and its sender has said goodbye in the same read
            return
        self._paced.hand_on()

    def handle_ping(self) -> None:
        """uvicorn's own, but nothing more is said to one that broke the protocol in the same read."""
        if not self._hung_up:
            super().handle_ping()
