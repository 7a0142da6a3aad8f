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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmixer.service.errors import StartError
from stmixer.service.event_schemas import Event
from stmixer.service.events.runs import Occurrence

VERSION = 1
MOST_EVENTS = 10_000
"""Past events that are kept; beyond that the oldest of the owner who has most give way."""
MOST_STREAMS = 10_000
"""Whose people's highest number is kept, likewise."""
MOST_SPOOLED = 10_000
"""Messages that wait for their receiver, likewise; those that give way are dead letters."""

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
CREATE TABLE spool (
    number INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, queue TEXT NOT NULL, body TEXT NOT NULL,
    at_us INTEGER NOT NULL
);
CREATE INDEX spool_owner ON spool (owner, queue);
"""


@dataclass(frozen=True, slots=True)
class StreamName:
    """Whose stream, and what it is called. ``owner``: the SHA-256 of the key's secret, empty where there is none."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """What has come of a stream's results: events in their order, and the occurrence of each that is open."""

    stream: StreamName
    events: tuple[Event, ...] = ()
    opened: tuple[Occurrence, ...] = ()
    newest_track: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is not delivered yet. ``queue``: of its owner's rule, in which messages keep their order;
    ``at_us``: epoch µs of its event's change.
    """

    number: int
    queue: str
    body: str
    at_us: int


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
                if version not in (0, VERSION):
                    raise StartError("bad_events_file", f"--events-file {self._path}: of another version of stmixer")
                if version == 0:
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={VERSION}")
                (self._changed,) = self._db.execute("SELECT coalesce(max(changed), 0) FROM events").fetchone()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Nothing more is asked of it."""
        self._db.close()

    # -- what streams have come to

    def save(self, changes: Sequence[Change], spooled: bool, now_us: int) -> int:
        """All of it or nothing. ``spooled``: a receiver waits for it. Returns how many older messages gave way."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._save(change, spooled, now_us)
            return self._trim() if any(one.events or one.newest_track is not None for one in changes) else 0

    def _save(self, change: Change, spooled: bool, now_us: int) -> None:
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
            if spooled:
                queue = f"{stream.owner}/{event.rule}"
                execute(
                    "INSERT INTO spool (owner, queue, body, at_us) VALUES (?,?,?,?)",
                    (stream.owner, queue, body, now_us),
                )
        for one in change.opened:
            execute(
                "INSERT OR REPLACE INTO occurrences VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (one.event_id, stream.owner, stream.name, one.rule, one.track_id, one.started_at_us, one.seen_at_us,
                 one.score_max, json.dumps(one.box), one.newest_track, one.terms),
            )  # fmt: skip
        if change.newest_track is not None:
            execute("INSERT OR REPLACE INTO streams VALUES (?,?,?)", (stream.owner, stream.name, change.newest_track))

    def _trim(self) -> int:
        """Returns how many messages gave way."""
        self._level("events WHERE NOT open", MOST_EVENTS)
        self._level("streams WHERE 1", MOST_STREAMS)
        return self._level("spool WHERE 1", MOST_SPOOLED)

    def _level(self, which: str, most: int) -> int:
        """Where there are more than so many, the oldest of those who have most give way. Returns how many."""
        counts = dict(self._db.execute(f"SELECT owner, count(*) FROM {which} GROUP BY owner"))
        table, room, gone = which.split()[0], most, 0
        for at, (owner, count) in enumerate(sorted(counts.items(), key=lambda item: int(item[1]))):
            kept = min(count, -(-room // (len(counts) - at)))
            room -= kept
            if kept < count:
                spare = f"SELECT rowid FROM {which} AND owner = ? ORDER BY rowid LIMIT ?"
                gone += self._db.execute(
                    f"DELETE FROM {table} WHERE rowid IN ({spare})", (owner, count - kept)
                ).rowcount
        return gone

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

    # -- what waits for its receiver

    def heads(self, besides: Iterable[str]) -> list[Waiting]:
        """Of each owner the oldest message that is in none of these queues; the oldest first."""
        left_out = list(besides)
        marks = ",".join("?" * len(left_out))
        first = f"SELECT min(number) FROM spool WHERE queue NOT IN ({marks}) GROUP BY owner"
        rows = self._db.execute(
            f"SELECT number, queue, body, at_us FROM spool WHERE number IN ({first}) ORDER BY number", left_out
        )
        return [Waiting(*row) for row in rows]

    def delivered(self, number: int) -> None:
        """A message is where it should be, or never will be."""
        self._db.execute("DELETE FROM spool WHERE number = ?", (number,))

    def waiting(self) -> tuple[int, int | None]:
        """How many messages wait, and epoch µs of the oldest one's."""
        (count,) = self._db.execute("SELECT count(*) FROM spool").fetchone()
        oldest = self._db.execute("SELECT at_us FROM spool ORDER BY number LIMIT 1").fetchone()
        return count, None if oldest is None else oldest[0]


def _why(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return "another process uses it; each service has a file of its own"
    if "not a database" in str(error):
        return "this is no SQLite file; name another, or move it away"
    return f"{error}; is its folder there, and may we write in it?"
