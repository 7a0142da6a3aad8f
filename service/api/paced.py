"""A connection's share of the event loop's time, and of our patience with a client that does not read.

A read takes as many bytes as are likely to keep the loop for a millisecond, with what the application does about them:
of pictures tens of kilobytes, of messages with a byte each some hundred bytes. Who has used up the share is not read
for a while, and TCP slows the sender. What is read before a stream has begun counts for the address as well
(``service.api.senders``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

from stmixer.service.api.senders import Sender
from stmixer.service.sources.allowance import SHARE, Allowance

SHARE_OF_A_STREAM = 0.1
"""Of the loop's time that a WebSocket may take for long: pictures take 2 ms a megabyte of it."""
MESSAGE_S = 25e-6
"""What the application takes for a message besides its parsing: measured with pictures of one byte."""
MOST_UNREAD = 2**20
"""Bytes of ours that may wait for a client that sends, and does not read."""
UNREAD_REST_S = 0.25
UNREAD_S = 30.0
"""How long a client may read next to nothing of an answer that waits for it."""
LEAST_PACE = 1024
"""Bytes a second that it has to read meanwhile."""
LINGERS_S, LINGERS_MOST_S = 2.0, 30.0
"""For how long a client that has its answer is waited for to send some of the rest of its request, and all of it."""

log = logging.getLogger("stmixer.connections")


class PacedTransport:
    """An asyncio transport that is read only while the connection has allowance left; all else is the transport's.

    ``more_comes``: whether the client is in the middle of something. Then it is closed in two steps (RFC 9112, 9.6):
    TCP answers what comes after a close with a reset, which overtakes the answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self.allowance = Allowance(share=lambda: SHARE_OF_A_STREAM if self.streaming else SHARE)
        self.sender: Sender | None = None
        self.upgraded = self.streaming = False
        self._handed_on_s = 0.0
        self.when_lost: Callable[[], None] = lambda: None
        self._unread, self._reading = 0, cast(asyncio.TimerHandle | None, None)
        self._wanted, self._resting = True, False
        self.more_comes: Callable[[], bool] = lambda: False
        self._lingers_until, self._lingering = 0.0, cast(asyncio.TimerHandle | None, None)

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
        """Close once all is written, or is not read for long. In the middle of a request say no more, and wait a while
        for the rest of it."""
        self.expect_reading()
        if self._lingering is not None or self._transport.is_closing() or not self.more_comes():
            self._transport.close()
            return
        if self._transport.can_write_eof():  # TLS has no half of a connection
            self._transport.write_eof()
        self._lingers_until = self._loop.time() + LINGERS_MOST_S
        self._lingering = self._loop.call_later(LINGERS_S, self._transport.close)
        self.resume_reading()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._lingering is not None or self._transport.is_closing()

    def drops(self) -> bool:
        """Whether what was read now is of no use any more."""
        if self._lingering is None:
            return False
        self._lingering.cancel()
        if (left_s := self._lingers_until - self._loop.time()) <= 0:  # a timer would never have its turn before reads
            self._transport.close()
        else:
            self._lingering = self._loop.call_later(min(LINGERS_S, left_s), self._transport.close)
        return True

    def lingers_no_more(self) -> None:
        """It is lost."""
        if self._lingering is not None:
            self._lingering.cancel()

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
        self._rest(rest_s)

    def hand_on(self) -> None:
        """The application has a message, and what to do with it."""
        self._handed_on_s += MESSAGE_S

    def was_read(self, count: int, seconds: float) -> None:
        """So many bytes, in so much time; what was handed on of them takes its own."""
        seconds, self._handed_on_s = seconds + self._handed_on_s, 0.0
        self.allowance.took(count, seconds)
        self.spend_reading(seconds)

    def spend_reading(self, seconds: float) -> None:
        """A read took so long, which counts for the address too until it is a stream's."""
        self.spend(seconds)
        if self.sender is not None and not self.streaming:
            self._rest(self.sender.spend(seconds))

    def _rest(self, seconds: float) -> None:
        if seconds > 0 and not self._resting and not self._transport.is_closing():
            self._resting = True
            self._transport.pause_reading()
            self._loop.call_later(seconds, self._rested)

    def _rested(self) -> None:
        if self.sender is None or self.streaming:
            self._read_on()
        else:
            self.sender.when_due(self._read_on)

    def _read_on(self) -> None:
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
        self._paced.was_read(nbytes, time.perf_counter() - started)

    def data_received(self, data: bytes) -> None:
        """uvicorn's own."""
        super().data_received(data)  # type: ignore[misc]


class Timed(Generator[Any, Any, None]):
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
