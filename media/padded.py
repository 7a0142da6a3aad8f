"""MPEG-TS whose packets have more than their 188 bytes: four before each, of when it came (M2TS: AVCHD cameras, discs),
or 16 behind each, of parity (broadcasts; ETSI EN 300 744)."""

from __future__ import annotations

import re
from collections.abc import Callable

from stmixer.media.takeover import PACKET, SYNC, transport_begins

SIZES = (192, 204)
"""Bytes from one packet to the next."""
_READ = 1 << 16
_FIRST = 4
"""Packets that tell that it is MPEG-TS."""


def padding_of(begun: bytes) -> tuple[int, int] | None:
    """Of what begins so, with five packets, where the first packet begins, and how far one is from the next; None where
    that is no more than a packet, or it is no MPEG-TS."""
    if transport_begins(begun) is not None:
        return None
    places = ((at, size) for size in SIZES for at in range(min(size, len(begun) - (_FIRST - 1) * size)))
    return next(((at, size) for at, size in places if begun[at : at + _FIRST * size : size] == _FIRST * b"G"), None)


class PlainPackets:
    """The packets alone, from front to back.

    ``read``: gives at most so many bytes, waiting for the first; b'' at the end. ``begun``: what it has given already,
    from the first packet on. ``size``: from one to the next.
    """

    def __init__(self, read: Callable[[int], bytes], begun: bytes, size: int) -> None:
        self._read, self._size = read, size
        self._followed = re.compile(rb"G(?=.{%d}G)" % (size - 1), re.DOTALL)
        self._ready, self._rest, self._between, self._lost = b"", b"", 0, False
        self._strip(begun)

    def read(self, size: int) -> bytes:
        """As the other one. Its errors pass through."""
        while not self._ready:
            if not (data := self._read(_READ)):
                return b""
            self._strip(data)
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def _strip(self, data: bytes) -> None:
        """Takes whole packets out of what has come. In step, any that begins as one: of two behind each other, either
        beginning may be damaged alone. Out of step, from the first on that another follows."""
        begin = min(self._between, len(data))
        self._between -= begin
        buffer, at, packets = self._rest + data[begin:], 0, [self._ready]
        while len(buffer) - at >= PACKET:
            if self._lost:
                if (found := self._followed.search(buffer, at)) is None:
                    at = max(at, len(buffer) - self._size)
                    break
                at, self._lost = found.start(), False
            begins = buffer[at : len(buffer) - PACKET + 1 : self._size]
            good = len(begins) - len(begins.lstrip(b"G"))
            packets += [buffer[n : n + PACKET] for n in range(at, at + good * self._size, self._size)]
            at += good * self._size
            if good < len(begins):
                if at + self._size >= len(buffer):
                    break
                self._lost = buffer[at + self._size] != SYNC
                at += 0 if self._lost else self._size
        self._rest, self._ready = buffer[at:], b"".join(packets)
        self._between += max(0, at - len(buffer))
