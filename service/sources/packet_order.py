"""RTP packets in the order of their numbers (RFC 3550, 5.1), as a network may not deliver them.

One that is missing is waited for as long as ``WAIT_S``, or until ``MOST_HELD`` have come behind it: a network puts
packets before others by some milliseconds, and what is lost must hold up nobody.
"""

from __future__ import annotations

from stmixer.service.sources.interleaved import LEAST_RTP

WAIT_S = 0.1
MOST_HELD = 128
MOST_LATE = 100
"""In a row: then the sender has begun anew, at a smaller number (RFC 3550, A.1)."""
_FAR = 3000
"""Numbers from where it was: farther, the sender has begun anew."""


class PacketOrder:
    """Of one sender. ``late`` counts those that came when nobody waited for them any more, and were left out, ``lost``
    those that are missing in what was handed on, as far as numbers tell."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._source = b""
        self._held: dict[int, tuple[float, bytes]] = {}
        self._late_in_a_row = 0
        self.late = self.lost = 0

    @property
    def waits_until(self) -> float | None:
        """Until when the missing one is waited for, by the clock of ``put``; None where none is missing.

        A single packet that is far from where it was is no reason to go there: it may be anybody's.
        """
        since = [since for number, (since, _) in self._held.items() if self._ahead(number) <= MOST_HELD]
        if not since and len(self._held) > 1:
            since = [since for since, _ in self._held.values()]
        return min(since) + WAIT_S if since else None

    def put(self, packet: bytes, now: float) -> list[bytes]:
        """Those whose turn it is with this one, in order; what is too short for RTP is left out."""
        if len(packet) < LEAST_RTP:
            return []
        number, source = int.from_bytes(packet[2:4]), packet[8:12]
        ahead = self._ahead(number)
        if source != self._source or not -_FAR < ahead < _FAR or self._is_back(ahead):
            before, self._next, self._source = self._all(), (number + 1) % 0x10000, source
            self._late_in_a_row = 0
            return [*before, packet]
        if ahead < 0:
            self.late += 1
            return []
        if ahead > 0:
            self._held.setdefault(number, (now, packet))
            return self._past_the_gap() if len(self._held) > MOST_HELD else []
        self._next = (number + 1) % 0x10000
        self._held = {number: held for number, held in self._held.items() if not self._is_stray(number, held[0], now)}
        return [packet, *self._following()]

    def overdue(self, now: float) -> list[bytes]:
        """Those that have waited long enough for what is missing before them."""
        until = self.waits_until
        return [] if until is None or now < until else self._past_the_gap()

    def _ahead(self, number: int) -> int:
        """How far it is from the one that comes next, -32768..32767."""
        return 0 if self._next is None else (number - self._next + 0x8000) % 0x10000 - 0x8000

    def _is_stray(self, number: int, since: float, now: float) -> bool:
        """Whether one that waits is far from where its sender has been all the while."""
        return self._ahead(number) > MOST_HELD and now - since > WAIT_S

    def _is_back(self, ahead: int) -> bool:
        """Whether the sender has gone back, after so many that came too late."""
        self._late_in_a_row = self._late_in_a_row + 1 if ahead < 0 else 0
        if self._late_in_a_row <= MOST_LATE:
            return False
        self.lost += MOST_LATE
        return True

    def _following(self) -> list[bytes]:
        found = []
        while self._next is not None and (held := self._held.pop(self._next, None)) is not None:
            found.append(held[1])
            self._next = (self._next + 1) % 0x10000
        return found

    def _past_the_gap(self) -> list[bytes]:
        nearest = min(self._held, key=self._ahead)
        self.lost += self._ahead(nearest)
        self._next = nearest
        return self._following()

    def _all(self) -> list[bytes]:
        held, self._held = self._held, {}
        return [held[number][1] for number in sorted(held, key=self._ahead)]
