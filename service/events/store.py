"""What outlives the process, in one SQLite file: events that are open and past, people's numbers, what waits for its
receiver. Synchronous; ``Ledger`` calls it from one thread.

A change and what it means for receivers are one transaction: neither is there without the other, wherever the process
is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmixer.service.errors import StartError
from stmixer.service.event_schemas import Event
from stmixer.service.events import retained, spool
from stmixer.service.events.names import StreamName
from stmixer.service.events.retained import RetainedTopics
from stmixer.service.events.runs import Occurrence
from stmixer.service.events.shares import even_out
from stmixer.service.events.spool import ReceiverName, Spool

VERSION = 2
MOST_EVENTS = 10_000
"""Past events that are kept; beyond that the oldest of the owner who has most give way."""
MOST_STREAMS = 10_000
"""Whose people's highest number is kept, likewise."""

_TABLES = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, stream TEXT NOT NULL,
    rule TEXT NOT NULL, started_at_us INTEGER NOT NULL, open INTEGER NOT NULL, changed INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX events_past ON events (owner) WHERE NOT open;
CREATE INDEX events_changed ON events (changed);
CREATE TABLE occurrences (
    event_id TEXT PRIMARY KEY, owner TEXT NOT NULL, stream TEXT NOT NULL, rule TEXT NOT NULL, track_id INTEGER,
    started_at_us INTEGER NOT NULL, seen_at_us INTEGER NOT NULL, score_max REAL NOT NULL, box TEXT NOT NULL,
    newest_track INTEGER NOT NULL, terms TEXT NOT NULL
);
CREATE TABLE streams (
    owner TEXT NOT NULL, stream TEXT NOT NULL, newest_track INTEGER NOT NULL, PRIMARY KEY (owner, stream)
);
"""
_MADE_FROM = {0: _TABLES + spool.TABLES + retained.TABLES, 1: spool.FROM_1 + retained.TABLES, VERSION: ""}
"""What makes a file of this version, by the version that it has."""


@dataclass(frozen=True, slots=True)
class Change:
    """What has come of a stream's results: events in their order, and the occurrence of each that is open."""

    stream: StreamName
    events: tuple[Event, ...] = ()
    opened: tuple[Occurrence, ...] = ()
    newest_track: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of past events. ``owner`` None: of all; ``before``: a number of ``Page.next``; ``after``: of ``Page.latest``."""

    owner: str | None = None
    stream: str | None = None
    rule: str | None = None
    since_us: int | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Those whose start was told last first; with ``Wanted.after`` in the order of their changes. ``next``: where the
    following ones begin, None where there are none. ``latest``: what changes from now on comes after it, over restarts.
    """

    events: tuple[Event, ...]
    next: int | None
    latest: int


class Store:
    """``path`` None: in memory, and gone with the process.

    Raises:
        StartError: ``bad_events_file``: the file cannot be used, or another process uses it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            with contextlib.suppress(OSError):  # SQLite says what is wrong; files beside it get the same rights
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self._open(":memory:" if path is None else str(path))
        except sqlite3.Error as error:
            raise StartError("bad_events_file", f"--events-file {path}: {_why(error)}") from None

    def _open(self, name: str) -> None:
        self._db = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version not in _MADE_FROM:
                    raise StartError("bad_events_file", f"--events-file {self._path}: of another version of stmixer")
                for statement in filter(str.strip, _MADE_FROM[version].split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
                (self._changed,) = self._db.execute("SELECT coalesce(max(changed), 0) FROM events").fetchone()
        except BaseException:
            self._db.close()
            raise
        self.spool, self.retained = Spool(self._db), RetainedTopics(self._db)

    def close(self) -> None:
        """Nothing more is asked of it."""
        self._db.close()

    # -- what streams have come to

    def save(
        self, changes: Sequence[Change], receivers: Collection[ReceiverName], now_us: int
    ) -> dict[ReceiverName, int]:
        """All of it or nothing. ``receivers`` wait for it. Returns how many older messages to each of them gave way."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._save(change, receivers, now_us)
            if not any(one.events or one.newest_track is not None for one in changes):
                return {}
            even_out(self._db, "events WHERE NOT open", MOST_EVENTS)
            even_out(self._db, "streams WHERE 1", MOST_STREAMS)
            return self.spool.trim(receivers)

    def _save(self, change: Change, receivers: Collection[ReceiverName], now_us: int) -> None:
        stream, execute = change.stream, self._db.execute
        for event in change.events:
            body, is_open = event.model_dump_json(), event.state != "end"
            self._changed = changed = max(self._changed + 1, now_us)
            told = execute(
                "UPDATE events SET open = ?, changed = ?, body = ? WHERE event_id = ?",
                (is_open, changed, body, event.event_id),
            )
            if told.rowcount == 0:
                execute(
                    "INSERT INTO events (event_id, owner, stream, rule, started_at_us, open, changed, body) "
                    "VALUES (?,?,?,?,?,?,?,?)",
                    (
                        event.event_id,
                        stream.owner,
                        stream.name,
                        event.rule,
                        event.started_at_us,
                        is_open,
                        changed,
                        body,
                    ),
                )
            if not is_open:
                execute("DELETE FROM occurrences WHERE event_id = ?", (event.event_id,))
            self.spool.add(receivers, stream, event, body, now_us)
        for one in change.opened:
            execute(
                "INSERT OR REPLACE INTO occurrences VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (one.event_id, stream.owner, stream.name, one.rule, one.track_id, one.started_at_us, one.seen_at_us,
                 one.score_max, json.dumps(one.box), one.newest_track, one.terms),
            )  # fmt: skip
        if change.newest_track is not None:
            execute("INSERT OR REPLACE INTO streams VALUES (?,?,?)", (stream.owner, stream.name, change.newest_track))

    def opened(self) -> dict[StreamName, list[Occurrence]]:
        """The events that are open, by their streams."""
        found: dict[StreamName, list[Occurrence]] = {}
        for event_id, owner, stream, rule, track, started, seen, score, box, newest, terms in self._db.execute(
            "SELECT event_id, owner, stream, rule, track_id, started_at_us, seen_at_us, score_max, box, newest_track, "
            "terms FROM occurrences ORDER BY rowid"
        ):
            left, top, right, bottom = json.loads(box)
            occurrence = Occurrence(
                event_id, rule, track, started, seen, score, (left, top, right, bottom), newest, terms
            )
            found.setdefault(StreamName(owner, stream), []).append(occurrence)
        return found

    def newest_tracks(self) -> dict[StreamName, int]:
        """The highest number of a person that each stream may have used."""
        rows = self._db.execute("SELECT owner, stream, newest_track FROM streams")
        return {StreamName(owner, stream): newest for owner, stream, newest in rows}

    def last_ends(self) -> dict[tuple[StreamName, str], int]:
        """Epoch µs at which each rule of each stream has ended last."""
        found: dict[tuple[StreamName, str], int] = {}
        for owner, body in self._db.execute("SELECT owner, body FROM events WHERE NOT open"):
            event = Event.model_validate_json(body)
            key = StreamName(owner, event.stream), event.rule
            found[key] = max(found.get(key, 0), event.ended_at_us or 0)
        return found

    def event(self, event_id: str) -> tuple[str, Event] | None:
        """One as it is now, and whose it is."""
        row = self._db.execute("SELECT owner, body FROM events WHERE event_id = ?", (event_id,)).fetchone()
        return None if row is None else (row[0], Event.model_validate_json(row[1]))

    def page(self, wanted: Wanted) -> Page:
        """Past events and those that are open."""
        terms: list[tuple[str, object]] = [
            ("owner = ?", wanted.owner), ("stream = ?", wanted.stream), ("rule = ?", wanted.rule),
            ("started_at_us >= ?", wanted.since_us), ("number < ?", wanted.before),
            ("changed > ?", wanted.after),
        ]  # fmt: skip
        given = [(term, value) for term, value in terms if value is not None]
        where = " AND ".join(["1", *(term for term, _ in given)])
        order = "number DESC" if wanted.after is None else "changed"
        rows = self._db.execute(
            f"SELECT number, changed, body FROM events WHERE {where} ORDER BY {order} LIMIT ?",
            (*(value for _, value in given), wanted.limit + 1),
        ).fetchall()
        events = tuple(Event.model_validate_json(body) for _, _, body in rows[: wanted.limit])
        number, changed, _ = rows[wanted.limit - 1] if len(rows) > wanted.limit else (None, None, None)
        if wanted.after is None:
            return Page(events, number, self._changed)
        return Page(events, None, max(wanted.after, self._changed) if changed is None else changed)


def _why(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return "another process uses it; each service has a file of its own"
    if "not a database" in str(error):
        return "this is no SQLite file; name another, or move it away"
    return f"{error}; is its folder there, and may we write in it?"
