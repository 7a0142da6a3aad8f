"""The decoder's side of a stream: samples to the ring that the API process gives, messages to it, orders from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from stmixer.service.decoder.sampling import Told
from stmixer.service.ipc.channel import Channel, Received
from stmixer.service.ipc.messages import Opened, RaiseLimit, RingFull, UseRing
from stmixer.service.ipc.ring import Ring, RingShape


class ParentGone(Exception):
    """The parent closed: end quietly."""


class Writer:
    """A ``sampling.SampleSink`` over the channel, for one stream.

    ``limit``: samples numbered below it may be written. What comes besides the ring and its limit waits for ``next``.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.tell: Callable[[Told], None] = channel.send
        self._ring: Ring | None = None
        self.limit = 0
        self._media: deque[Received] = deque()

    def open(self, message: Opened) -> Ring:
        """Announce the first frame and wait for the ring."""
        self._channel.send(message)
        return self.ring()

    def ring(self) -> Ring:
        """The ring, waited for."""
        while self._ring is None:
            self._receive()
        return self._ring

    def room(self, number: int) -> None:
        """Say that sample ``number`` is at the limit, and wait until that is raised."""
        self._channel.send(RingFull(number))
        while number >= self.limit:
            self._receive()

    def next(self) -> Received:
        """The next message that is not about the ring: a picture, a flush or the end, waited for."""
        while not self._media:
            self._receive()
        return self._media.popleft()

    def waiting(self) -> Received | None:
        """Such a message, if one has come."""
        while self._channel.readable():
            self._receive()
        return self._media.popleft() if self._media else None

    def _receive(self) -> None:
        """Take one message. Raises ParentGone."""
        received = self._channel.receive()
        match received:
            case None:
                raise ParentGone
            case Received(RaiseLimit(limit)):
                self.limit = limit
            case Received(UseRing() as order):
                self.limit = order.limit
                shape = RingShape(order.width, order.height, order.capacity)
                self._ring = Ring(received.fds[0], shape, writable=True)
            case _:
                self._media.append(received)
