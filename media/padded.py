"""MPEG-TS whose packets have more than their 188 bytes: four before each, of when it came (M2TS: AVCHD cameras, discs),
or 16 behind each, of parity (broadcasts; ETSI EN 300 744)."""

from __future__ import annotations

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
        self._ready, self._rest, self._between = b"", b"", 0
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
        """Takes whole packets out of what has come."""
        begin = min(self._between, len(data))
        self._between -= begin
        buffer, at, packets = self._rest + data[begin:], 0, [self._ready]
        while len(buffer) - at >= PACKET:
            whole = (len(buffer) - at + self._size - PACKET) // self._size
            if buffer[at : at + whole * self._size : self._size].count(SYNC) < whole:
                whole = 1
                follows = buffer[at + self._size : at + self._size + 1]
                if buffer[at] != SYNC or follows not in (b"", b"G"):  # out of step
                    at = buffer.find(SYNC, at + 1) % (len(buffer) + 1)
                    continue
            packets += [buffer[n : n + PACKET] for n in range(at, at + whole * self._size, self._size)]
            at += whole * self._size
        self._rest, self._ready = buffer[at:], b"".join(packets)
        self._between += max(0, at - len(buffer))
