"""What waits for its receivers, in the store's file: a queue of each owner's rule, for each receiver its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from stmixer.service.event_schemas import Event
from stmixer.service.events.names import RuleOfStream, StreamName
from stmixer.service.events.shares import even_out

MOST_SPOOLED = 10_000
"""Messages that wait for a receiver; beyond that the oldest of the owner who has most give way: dead letters."""

ReceiverName = Literal["webhook", "mqtt"]

TABLES = """
CREATE TABLE spool (
    number INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, queue TEXT NOT NULL, body TEXT NOT NULL,
    at_us INTEGER NOT NULL, receiver TEXT NOT NULL DEFAULT 'webhook', stream TEXT NOT NULL DEFAULT '',
    is_on INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX spool_queue ON spool (receiver, owner, queue);
CREATE INDEX events_open ON events (owner, stream, rule) WHERE open;
"""

FROM_1 = """
ALTER TABLE spool ADD COLUMN receiver TEXT NOT NULL DEFAULT 'webhook';
ALTER TABLE spool ADD COLUMN stream TEXT NOT NULL DEFAULT '';
ALTER TABLE spool ADD COLUMN is_on INTEGER NOT NULL DEFAULT 0;
DROP INDEX spool_owner;
CREATE INDEX spool_queue ON spool (receiver, owner, queue);
CREATE INDEX events_open ON events (owner, stream, rule) WHERE open;
"""
"""What makes these of a file's of version 1."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is not delivered yet. ``queue``: of its owner's rule, in which messages keep their order;
    ``body``: of its event, be it as another version had it; ``at_us``: epoch µs of its event's change; ``stream``: by
    its name; ``is_on``: whether an event of its rule and stream was open then.
    """

    number: int
    queue: str
    body: str
    at_us: int
    stream: str
    is_on: bool

    @property
    def of(self) -> RuleOfStream:
        """What it is of."""
        owner, _, rule = self.queue.rpartition("/")
        return RuleOfStream(StreamName(owner, self.stream), rule)


class Spool:
    """Synchronous; part of the store, whose transactions it is called in."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(
        self, receivers: Collection[ReceiverName], stream: StreamName, event: Event, body: str, now_us: int
    ) -> None:
        """Something of an event, which is written down already."""
        if not receivers:
            return
        where = (stream.owner, stream.name, event.rule)
        is_on = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM events WHERE owner = ? AND stream = ? AND rule = ? AND open)", where
        ).fetchone()[0]
        queue = f"{stream.owner}/{event.rule}"
        self._db.executemany(
            "INSERT INTO spool (owner, queue, body, at_us, receiver, stream, is_on) VALUES (?,?,?,?,?,?,?)",
            [(stream.owner, queue, body, now_us, receiver, stream.name, is_on) for receiver in receivers],
        )

    def trim(self, receivers: Iterable[ReceiverName]) -> dict[ReceiverName, int]:
        """How many messages to each of them gave way, where any did."""
        gone = {each: even_out(self._db, f"spool WHERE receiver = '{each}'", MOST_SPOOLED) for each in receivers}
        return {receiver: count for receiver, count in gone.items() if count}

    def heads(self, receiver: ReceiverName, besides: Iterable[str]) -> list[Waiting]:
        """Of each owner the oldest message to it that is in none of these queues; the oldest first."""
        left_out = list(besides)
        marks = ",".join("?" * len(left_out))
        first = f"SELECT min(number) FROM spool WHERE receiver = ? AND queue NOT IN ({marks}) GROUP BY owner"
        rows = self._db.execute(
            f"SELECT number, queue, body, at_us, stream, is_on FROM spool WHERE number IN ({first}) ORDER BY number",
            (receiver, *left_out),
        )
        return [
            Waiting(number, queue, body, at_us, stream, bool(is_on))
            for number, queue, body, at_us, stream, is_on in rows
        ]

    def delivered(self, number: int) -> None:
        """A message is where it should be, or never will be."""
        self._db.execute("DELETE FROM spool WHERE number = ?", (number,))

    def waiting(self, receiver: ReceiverName) -> tuple[int, int | None]:
        """How many messages wait for it, and epoch µs of the oldest one's."""
        (count,) = self._db.execute("SELECT count(*) FROM spool WHERE receiver = ?", (receiver,)).fetchone()
        oldest = self._db.execute(
            "SELECT at_us FROM spool WHERE receiver = ? ORDER BY number LIMIT 1", (receiver,)
        ).fetchone()
        return count, None if oldest is None else oldest[0]

    def rules_waiting(self, receiver: ReceiverName) -> frozenset[RuleOfStream]:
        """Those of whose events something waits for it."""
        rows = self._db.execute("SELECT DISTINCT owner, stream, queue FROM spool WHERE receiver = ?", (receiver,))
        return frozenset(
            RuleOfStream(StreamName(owner, stream), queue.rpartition("/")[2]) for owner, stream, queue in rows
        )
