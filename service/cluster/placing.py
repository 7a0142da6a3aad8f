"""Which replica fetches which stream: the coordinator's table. Pure: told what happened and what time it is.

A replica reports every second. One that has not for ``LOST_S`` is gone, and so is one of which Ray says that its
process is: what it fetched goes to others. It has ended that by itself ``LEASE_S`` after the last report that was
answered, or the last sign that it left (``signs``), so no stream is fetched twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from stmixer.service.cluster.orders import Order, PullRefusal

LEASE_S = 3.0
"""So long a replica fetches on that the coordinator does not answer."""
LOST_S = 4.5
"""So long a silent replica is waited for: more than ``LEASE_S``, and a stream's end besides."""
SILENT_S = 1.5
"""After so long a replica should have reported again."""
AGAIN_S = 2.0
"""Until what found no room anywhere is tried again."""
GIVEN_UP_S = 30.0
"""After so long nobody waits any more for a stream that has not begun."""
MOST_DEPLOYMENTS = 100
"""Of the last so many it is known that their file of streams was read."""
HEAD = "head"
"""The row of the table that is no stream's."""
NO_KEY = (401, 403)
"""Statuses of a stream whose key is good no more."""
RANGE = 10**9
"""Stream numbers that a replica has for itself, from its own number times this on; 0 is the coordinator's."""


@dataclass(slots=True)
class _Home:
    number: int
    heard_at: float
    reported_at: float
    others: int = 0
    """Its streams that were not placed here: sockets' and uploads."""
    capacity: int = 1
    late: bool = False
    """Its keyframes are."""


@dataclass(slots=True)
class _Placed:
    order: Order
    home: str | None = None
    began: bool = False
    """At its present home."""
    again_at: float = 0.0
    asked_at: float = 0.0
    key: str = ""
    """Of the question for it, which may come twice; "" where it stands in the file."""
    filed_text: str = ""
    """As the file has it, whatever rules it was given since."""
    running: str = ""
    """What it was when it began first (``RunningStream`` as JSON)."""
    over: bool = False
    """It has come to its end where it is."""
    refused_by: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Looked:
    """The replicas that are gone since the last look, and whether anything is other than then."""

    lost: tuple[str, ...]
    changed: bool


class Placements:
    """Replicas by their names, streams by their numbers."""

    def __init__(self) -> None:
        self._homes: dict[str, _Home] = {}
        self._streams: dict[int, _Placed] = {}
        self._numbers: dict[str, int] = {}
        """By the keys of the questions."""
        self._deployments: list[str] = []
        self._touched: set[int] = set()
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
            home = self._homes[name] = _Home(self._last_home if number is None else number, now, now)
        home.heard_at, home.reported_at, self.empty_since = now, now, None
        return home.number

    def report(
        self, name: str, others: int, capacity: int, now: float, over: Iterable[int] = (), late: bool = False
    ) -> bool:
        """How it is, and which of its streams have come to their end; False where it is not known (any more)."""
        home = self._homes.get(name)
        if home is None:
            return False
        home.heard_at, home.reported_at, home.others, home.capacity = now, now, others, capacity
        home.late = late
        for number in over:
            stream = self._streams.get(number)
            if stream is not None and stream.home == name and not stream.over:
                stream.over = True
                self._touched.add(number)
        return True

    def silent(self, now: float) -> tuple[str, ...]:
        """Those that should have reported by now."""
        return tuple(name for name in self._homes if self._is_silent(name, now))

    def heard(self, name: str, now: float) -> None:
        """A silent one is there all the same."""
        if name in self._homes:
            self._homes[name].heard_at = now

    def leave(self, name: str, now: float) -> None:
        """A replica is gone, or has ended what it fetched: its streams go to others, but for those that were over."""
        if self._homes.pop(name, None) is not None and not self._homes:
            self.empty_since = now
        for number, stream in list(self._streams.items()):
            stream.refused_by.discard(name)
            if stream.home == name and stream.over:
                self._drop(number)
            elif stream.home == name:
                stream.home, stream.began, stream.again_at = None, False, now
                self._touched.add(number)

    def look(self, now: float) -> Looked:
        """Who is silent is gone, what waits is placed, for what nobody waits any more is forgotten. One that is
        heard of but does not report cannot be told what to begin: that goes to one that does."""
        lost = [name for name, home in self._homes.items() if now - home.heard_at > LOST_S]
        for name in lost:
            self.leave(name, now)
        given_up = [
            number for number, s in self._streams.items() if not s.order.lasts and now - s.asked_at > GIVEN_UP_S
        ]
        for number in given_up:
            self._drop(number)
        placed = [s for s in self._streams.values() if self._waits(s, now) and self._place(s, now)]
        return Looked(tuple(lost), bool(lost or given_up or placed))

    # -- streams

    def order(self, text: str, owner: str, now: float, filed: str | None = None, key: str = "") -> Order:
        """A new stream, at the replica with the most room where there is one; the one that it became where the same
        question (``key``) comes again."""
        if key in self._numbers:
            return self._streams[self._numbers[key]].order
        if self._next_stream % RANGE == 0:
            self._last_home += 1
            self._next_stream = self._last_home * RANGE + 1
        order = Order(self._next_stream, text, owner, filed, lasts=filed is not None)
        self._next_stream += 1
        stream = _Placed(order, again_at=now, asked_at=now, key=key, filed_text="" if filed is None else text)
        self._streams[order.number] = stream
        if key:
            self._numbers[key] = order.number
        self._touched.add(order.number)
        self._place(stream, now)
        return order

    def change(self, name: str, number: int, text: str) -> bool:
        """Its order is another one, of a stream that runs there; False where it does not."""
        stream = self._streams.get(number)
        if stream is None or stream.home != name:
            return False
        stream.order = replace(stream.order, text=text)
        self._touched.add(number)
        return True

    def file(self, orders: Mapping[str, str], now: float, deployment: str = "") -> None:
        """What ``--streams`` says: what is unchanged stays, the rest ends, what is new begins.

        Of a ``deployment`` once: neither does one of before count again, nor begin what was ended by hand.
        """
        if deployment in self._deployments:
            return
        if deployment:
            self._deployments = [*self._deployments, deployment][-MOST_DEPLOYMENTS:]
        for number, stream in list(self._streams.items()):
            name = stream.order.filed
            if name is not None and orders.get(name) != stream.filed_text:
                self._drop(number)
        there = {stream.order.filed for stream in self._streams.values()}
        for name, text in orders.items():
            if name not in there:
                self.order(text, "", now, filed=name)

    def forget(self, number: int, owner: str = "", *, sees_all: bool = True) -> bool:
        """End one for good; False where there is none of this owner."""
        if not self.knows(number, owner, sees_all=sees_all):
            return False
        self._drop(number)
        return True

    def began(self, name: str, number: int, running: str = "") -> bool:
        """It runs there; False where it should not. ``running``: what it is then."""
        stream = self._streams.get(number)
        if stream is None or stream.home != name:
            return False
        stream.began, stream.order = True, replace(stream.order, lasts=True)
        if stream.key and not stream.running:
            stream.running = running
        stream.refused_by.clear()
        self._touched.add(number)
        return True

    def running(self, number: int) -> str:
        """What a stream was when it began; "" while it has not."""
        stream = self._streams.get(number)
        return "" if stream is None else stream.running

    def refused(self, name: str, number: int, why: PullRefusal, now: float) -> bool:
        """It cannot begin there; whether it will be tried elsewhere, or later.

        A new one that nobody takes is forgotten, at once where it can never be fetched. One that lasts is tried
        everywhere, then again: what is wrong may be wrong there alone, or for now. It ends with its key.
        """
        stream = self._streams.get(number)
        if stream is None or stream.home != name:
            return True
        stream.home, stream.began = None, False
        stream.refused_by.add(name)
        self._touched.add(number)
        lasts = stream.order.lasts
        if (lasts or why.retry_after_s is not None) and self._place(stream, now):
            return True
        if lasts and why.status not in NO_KEY:
            stream.refused_by.clear()
            stream.again_at = now + AGAIN_S
            return True
        self._drop(number)
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

    def knows(self, number: int, owner: str = "", *, sees_all: bool = True) -> bool:
        """Whether a stream of this owner is to be fetched by anybody."""
        stream = self._streams.get(number)
        return stream is not None and (sees_all or stream.order.owner == owner)

    def listed(self, owner: str, *, sees_all: bool) -> tuple[Order, ...]:
        """All that is to be fetched of this owner."""
        return tuple(s.order for s in self._streams.values() if sees_all or s.order.owner == owner)

    def _drop(self, number: int) -> None:
        stream = self._streams.pop(number)
        self._numbers.pop(stream.key, None)
        self._touched.add(number)

    def _is_silent(self, name: str, now: float) -> bool:
        return now - self._homes[name].reported_at > SILENT_S

    def _waits(self, stream: _Placed, now: float) -> bool:
        """For a home, or in vain at one that does not report where another does."""
        if stream.home is None:
            return stream.again_at <= now
        if stream.began or now - self._homes[stream.home].reported_at <= LOST_S:
            return False
        return any(not self._is_silent(name, now) for name in self._homes.keys() - stream.refused_by)

    def _place(self, stream: _Placed, now: float) -> bool:
        """With whoever reports and has the most room: a late one where others are full, a silent one where there is no
        other."""
        here: dict[str, int] = dict.fromkeys(self._homes, 0)
        for other in self._streams.values():
            if other.home is not None:
                here[other.home] += 1

        def filled(name: str) -> tuple[bool, bool, bool, float, int]:
            home = self._homes[name]
            full = (home.others + here[name] + 1) / max(1, home.capacity)
            return self._is_silent(name, now), full > 1, home.late, full, home.number

        free = [name for name in self._homes if name not in stream.refused_by]
        if not free:
            return False
        stream.home, stream.began = min(free, key=filled), False
        self._touched.add(stream.order.number)
        return True

    # -- over the coordinator's own death

    def written(self) -> dict[str, str]:
        """All that has to outlive the process: rows of JSON by their names, a stream's each, and ``HEAD``."""
        return {HEAD: self._head(), **{str(number): self._row(stream) for number, stream in self._streams.items()}}

    def changes(self) -> dict[str, str | None]:
        """The rows that are other than when this was asked last, ``HEAD`` first; None is one that goes."""
        touched, self._touched = self._touched, set()
        rows: dict[str, str | None] = {HEAD: self._head()}
        for number in sorted(touched):
            stream = self._streams.get(number)
            rows[str(number)] = None if stream is None else self._row(stream)
        return rows

    @classmethod
    def read(cls, rows: Mapping[str, str], now: float) -> Placements:
        """The table as it was written: its replicas have until ``LOST_S`` from now to report."""
        self = cls()
        self._last_home, self._next_stream, homes, self._deployments = json.loads(rows[HEAD])
        self._homes = {name: _Home(number, now, now) for name, number in homes.items()}
        self.empty_since = None if self._homes else now
        for number, text in sorted((int(name), text) for name, text in rows.items() if name != HEAD):
            row = json.loads(text)
            at = row["home"] if row["home"] in self._homes else None  # it left, and no more than that was written
            order = Order(number, row["text"], row["owner"], row["filed"], row["lasts"])
            self._streams[number] = _Placed(
                order, at, row["began"] and at is not None, again_at=now, asked_at=now, key=row["key"],
                filed_text=row["filed_text"], running=row["running"], over=row["over"],
            )  # fmt: skip
            if row["key"]:
                self._numbers[row["key"]] = number
        return self

    def _head(self) -> str:
        homes = {name: home.number for name, home in self._homes.items()}
        return json.dumps([self._last_home, self._next_stream, homes, self._deployments])

    @staticmethod
    def _row(s: _Placed) -> str:
        return json.dumps(
            {"text": s.order.text, "owner": s.order.owner, "filed": s.order.filed, "lasts": s.order.lasts,
             "home": s.home, "began": s.began, "key": s.key, "filed_text": s.filed_text, "running": s.running,
             "over": s.over}
        )  # fmt: skip

    @property
    def names(self) -> Iterable[str]:
        """Of the replicas that there are."""
        return tuple(self._homes)
