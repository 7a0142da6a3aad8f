"""RTP packets in the order of their numbers (RFC 3550, 5.1), as a network may not deliver them.

One that is missing is waited for as long as ``WAIT_S``, or until ``MOST_HELD`` have come behind it: a network puts
packets before others by some milliseconds, and what is lost must hold up nobody.
"""

from __future__ import annotations

WAIT_S = 0.1
MOST_HELD = 128
_FAR = 3000
"""Numbers from where it was: farther, the sender has begun anew."""


class PacketOrder:
    """Of one sender. ``late`` counts those that came when nobody waited for them any more, and were left out."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._held: dict[int, tuple[float, bytes]] = {}
        self.late = 0

    @property
    def waits_until(self) -> float | None:
        """Until when the missing one is waited for, by the clock of ``put``; None where none is missing."""
        return min(since for since, _ in self._held.values()) + WAIT_S if self._held else None

    def put(self, packet: bytes, now: float) -> list[bytes]:
        """Those whose turn it is with this one, in order."""
        if len(packet) < 4:
            return []
        number = int.from_bytes(packet[2:4])
        ahead = 0 if self._next is None else (number - self._next + 0x8000) % 0x10000 - 0x8000
        if not -_FAR < ahead < _FAR:
            before, self._next = self._all(), (number + 1) % 0x10000
            return [*before, packet]
        if ahead < 0:
            self.late += 1
            return []
        if ahead > 0:
            self._held.setdefault(number, (now, packet))
            return self._past_the_gap() if len(self._held) > MOST_HELD else []
        self._next = (number + 1) % 0x10000
        return [packet, *self._following()]

    def overdue(self, now: float) -> list[bytes]:
        """Those that have waited long enough for what is missing before them."""
        until = self.waits_until
        return [] if until is None or now < until else self._past_the_gap()

    def _following(self) -> list[bytes]:
        found = []
        while self._next is not None and (held := self._held.pop(self._next, None)) is not None:
            found.append(held[1])
            self._next = (self._next + 1) % 0x10000
        return found

    def _past_the_gap(self) -> list[bytes]:
        assert self._next is not None
        start = self._next
        self._next = min(self._held, key=lambda number: (number - start) % 0x10000)
        return self._following()

    def _all(self) -> list[bytes]:
        found: list[bytes] = []
        while self._held:
            found += self._past_the_gap()
        return found
