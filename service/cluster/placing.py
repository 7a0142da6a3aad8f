"""Which replica fetches which stream: the coordinator's table. Pure: told what happened and what time it is.

A replica reports every second. One that has not for ``LOST_S`` is gone, and so is one of which Ray says that its
process is: what it fetched goes to others. It has ended that by itself ``LEASE_S`` after the last report that was
answered, so no stream is fetched twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stmixer.service.errors import AccessError, CapacityError, InputError, StmixerError

LEASE_S = 3.0
"""So long a replica fetches on that the coordinator does not answer."""
LOST_S = 4.5
"""So long a silent replica is waited for: more than ``LEASE_S``, and a stream's end besides."""
AGAIN_S = 2.0
"""Until what found no room anywhere is tried again."""
RANGE = 10**9
"""Stream numbers that a replica has for itself, from its own number times this on; 0 is the coordinator's."""


@dataclass(frozen=True, slots=True)
class PullRefusal:
    """Why a stream does not begin: an error of ours on its way between processes."""

    code: str
    message: str
    status: int
    retry_after_s: int | None

    @classmethod
    def of(cls, error: StmixerError) -> PullRefusal:
        """An error as it travels."""
        wait = error.retry_after_s if isinstance(error, CapacityError) else None
        return cls(error.code, str(error), error.status, wait)

    def error(self) -> StmixerError:
        """The error that it was."""
        if self.retry_after_s is not None:
            return CapacityError(self.code, self.message, self.status, self.retry_after_s)
        kind = AccessError if self.status in (401, 403) else InputError
        return kind(self.code, self.message, self.status)


@dataclass(frozen=True, slots=True)
class Order:
    """A stream to be fetched: its number, a ``PullOrder`` as JSON, the hash of the key that asked for it ("" where no
    keys are), and its name in ``--streams`` where it stands there."""

    number: int
    text: str
    owner: str
    filed: str | None = None


@dataclass(slots=True)
class _Home:
    number: int
    heard_at: float
    others: int = 0
    """Its streams that were not placed here: sockets' and uploads."""
    capacity: int = 1


@dataclass(slots=True)
class _Placed:
    order: Order
    home: str | None = None
    began: bool = False
    """At its present home."""
    ever: bool = False
    again_at: float = 0.0
    refused_by: set[str] = field(default_factory=set)


class Placements:
    """Replicas by their names, streams by their numbers."""

    def __init__(self) -> None:
        self._homes: dict[str, _Home] = {}
        self._streams: dict[int, _Placed] = {}
        self._last_home = 0
        self._next_stream = 1
        self.empty_since: float | None = 0.0
        """Since when no replica is there; None while one is."""

    # -- replicas

    def join(self, name: str, now: float, number: int | None = None) -> int:
        """A replica is there; its number, which no other ever gets: the one that it had, where it had one."""
        home = self._homes.get(name)
        if home is None:
            self._last_home = self._last_home + 1 if number is None else max(self._last_home, number)
            home = self._homes[name] = _Home(self._last_home if number is None else number, now)
        home.heard_at, self.empty_since = now, None
        return home.number

    def report(self, name: str, others: int, capacity: int, now: float) -> bool:
        """How it is; False where it is not known (any more)."""
        home = self._homes.get(name)
        if home is None:
            return False
        home.heard_at, home.others, home.capacity = now, others, capacity
        return True

    def leave(self, name: str, now: float) -> None:
        """A replica is gone, or has ended what it fetched: its streams go to others."""
        if self._homes.pop(name, None) is not None and not self._homes:
            self.empty_since = now
        for stream in self._streams.values():
            stream.refused_by.discard(name)
            if stream.home == name:
                stream.home, stream.began, stream.again_at = None, False, now

    def look(self, now: float) -> bool:
        """Who is silent is gone, what waits is placed; whether anything changed."""
        lost = [name for name, home in self._homes.items() if now - home.heard_at > LOST_S]
        for name in lost:
            self.leave(name, now)
        placed = [s for s in self._streams.values() if s.home is None and s.again_at <= now and self._place(s)]
        return bool(lost or placed)

    # -- streams

    def order(self, text: str, owner: str, now: float, filed: str | None = None) -> Order:
        """A new stream, at the replica with the most room where there is one."""
        if self._next_stream % RANGE == 0:
            self._last_home += 1
            self._next_stream = self._last_home * RANGE + 1
        order = Order(self._next_stream, text, owner, filed)
        self._next_stream += 1
        stream = self._streams[order.number] = _Placed(order, again_at=now)
        self._place(stream)
        return order

    def file(self, orders: Mapping[str, str], now: float) -> None:
        """What ``--streams`` says now: what is unchanged stays, the rest ends, what is new begins."""
        for number, stream in list(self._streams.items()):
            name = stream.order.filed
            if name is not None and orders.get(name) != stream.order.text:
                del self._streams[number]
        there = {stream.order.filed for stream in self._streams.values()}
        for name, text in orders.items():
            if name not in there:
                self.order(text, "", now, filed=name)

    def forget(self, number: int) -> None:
        """End one for good."""
        self._streams.pop(number, None)

    def began(self, name: str, number: int) -> bool:
        """It runs there; False where it should not."""
        stream = self._streams.get(number)
        if stream is None or stream.home != name:
            return False
        stream.began = stream.ever = True
        stream.refused_by.clear()
        return True

    def refused(self, name: str, number: int, why: PullRefusal, now: float) -> bool:
        """It cannot begin there; whether it will be tried elsewhere, or later.

        One that nobody takes is forgotten, but for those that once ran, or stand in the file: where there was only no
        room for them they wait.
        """
        stream = self._streams.get(number)
        if stream is None or stream.home != name:
            return True
        stream.home, stream.began = None, False
        stream.refused_by.add(name)
        if why.retry_after_s is not None:
            if self._place(stream):
                return True
            if stream.ever or stream.order.filed is not None:
                stream.refused_by.clear()
                stream.again_at = now + AGAIN_S
                return True
        del self._streams[number]
        return False

    def of(self, name: str) -> tuple[Order, ...]:
        """What a replica is to fetch."""
        return tuple(stream.order for stream in self._streams.values() if stream.home == name)

    def where(self, number: int) -> str | None:
        """The replica that has a stream, whatever kind of one; None where none has (yet)."""
        stream = self._streams.get(number)
        if stream is not None:
            return stream.home if stream.began else None
        return next((name for name, home in self._homes.items() if home.number == number // RANGE), None)

    def knows(self, number: int) -> bool:
        """Whether a stream is to be fetched by anybody."""
        return number in self._streams

    def _place(self, stream: _Placed) -> bool:
        here: dict[str, int] = dict.fromkeys(self._homes, 0)
        for other in self._streams.values():
            if other.home is not None:
                here[other.home] += 1

        def filled(name: str) -> tuple[float, int]:
            home = self._homes[name]
            return (home.others + here[name] + 1) / max(1, home.capacity), home.number

        free = [name for name in self._homes if name not in stream.refused_by]
        if not free:
            return False
        stream.home, stream.began = min(free, key=filled), False
        return True

    # -- over the coordinator's own death

    def written(self) -> str:
        """All that has to outlive the process, as JSON."""
        streams = [
            {"number": s.order.number, "text": s.order.text, "owner": s.order.owner, "filed": s.order.filed,
             "home": s.home, "began": s.began, "ever": s.ever}
            for s in self._streams.values()
        ]  # fmt: skip
        homes = {name: home.number for name, home in self._homes.items()}
        return json.dumps([self._last_home, self._next_stream, homes, streams])

    @classmethod
    def read(cls, text: str, now: float) -> Placements:
        """The table as it was written: its replicas have until ``LOST_S`` from now to report."""
        self = cls()
        self._last_home, self._next_stream, homes, streams = json.loads(text)
        self._homes = {name: _Home(number, now) for name, number in homes.items()}
        self.empty_since = None if self._homes else now
        for s in streams:
            order = Order(s["number"], s["text"], s["owner"], s["filed"])
            self._streams[order.number] = _Placed(order, s["home"], s["began"], s["ever"], again_at=now)
        return self

    @property
    def names(self) -> Iterable[str]:
        """Of the replicas that there are."""
        return tuple(self._homes)
