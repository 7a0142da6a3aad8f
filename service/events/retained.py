"""What a broker keeps of ours: which topics hold a message that somebody has to take away again, in the store's file.

A service that is killed leaves them there; the next one knows of them.
"""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass

from stmixer.service.events.names import RuleOfStream, StreamName

TABLES = """
CREATE TABLE retained (
    owner TEXT NOT NULL, stream TEXT NOT NULL, rule TEXT NOT NULL, state_topic TEXT NOT NULL,
    config_topic TEXT NOT NULL, PRIMARY KEY (owner, stream, rule)
);
CREATE TABLE client (id TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Retained:
    """The topics of a rule. ``config_topic``: where Home Assistant is told of it, empty where it is not."""

    state_topic: str
    config_topic: str


class RetainedTopics:
    """Synchronous; part of the store."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def client_id(self) -> str:
        """By which a broker knows this service: the same for as long as the file lives."""
        row = self._db.execute("SELECT id FROM client").fetchone()
        if row is None:
            row = (f"stmixer-{uuid.uuid4().hex[:12]}",)
            self._db.execute("INSERT INTO client VALUES (?)", row)
        return str(row[0])

    def all(self) -> dict[RuleOfStream, Retained]:
        """Those there are."""
        rows = self._db.execute("SELECT owner, stream, rule, state_topic, config_topic FROM retained ORDER BY rowid")
        return {
            RuleOfStream(StreamName(owner, stream), rule): Retained(state, config)
            for owner, stream, rule, state, config in rows
        }

    def add(self, which: RuleOfStream, topics: Retained) -> None:
        """They are about to hold something."""
        self._db.execute(
            "INSERT OR REPLACE INTO retained VALUES (?,?,?,?,?)",
            (which.stream.owner, which.stream.name, which.rule, topics.state_topic, topics.config_topic),
        )

    def remove(self, which: RuleOfStream) -> None:
        """They hold nothing any more."""
        self._db.execute(
            "DELETE FROM retained WHERE owner = ? AND stream = ? AND rule = ?",
            (which.stream.owner, which.stream.name, which.rule),
        )

    def rules_open(self) -> frozenset[RuleOfStream]:
        """Those of which an event is open."""
        rows = self._db.execute("SELECT DISTINCT owner, stream, rule FROM events WHERE open")
        return frozenset(RuleOfStream(StreamName(owner, stream), rule) for owner, stream, rule in rows)
