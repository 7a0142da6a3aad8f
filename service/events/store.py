"""What outlives the process, in one SQLite file: events that are open and past, people's numbers, what waits for its
receiver. Synchronous; ``Ledger`` calls it from one thread.

A change and what it means for receivers are one transaction: neither is there without the other, wherever the process
is killed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmixer.service.errors import StartError
from stmixer.service.event_schemas import Event
from stmixer.service.events.runs import Occurrence

VERSION = 1
MOST_EVENTS = 10_000
"""Past events that are kept; the oldest give way."""
MOST_STREAMS = 10_000
"""Whose people's highest number is kept."""
MOST_SPOOLED = 10_000
"""Messages that wait for their receiver; the oldest give way, and are dead letters."""

_TABLES = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, stream TEXT NOT NULL,
    rule TEXT NOT NULL, started_at_us INTEGER NOT NULL, open INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX events_open ON events (open) WHERE open;
CREATE TABLE occurrences (
    event_id TEXT PRIMARY KEY, owner TEXT NOT NULL, stream TEXT NOT NULL, rule TEXT NOT NULL, track_id INTEGER,
    started_at_us INTEGER NOT NULL, seen_at_us INTEGER NOT NULL, score_max REAL NOT NULL, box TEXT NOT NULL,
    newest_track INTEGER NOT NULL
);
CREATE TABLE streams (
    owner TEXT NOT NULL, stream TEXT NOT NULL, newest_track INTEGER NOT NULL, PRIMARY KEY (owner, stream)
);
CREATE TABLE spool (
    number INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL, body TEXT NOT NULL, at_us INTEGER NOT NULL
);
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
    """A message that is not delivered yet. ``at_us``: epoch µs of its event's change."""

    number: int
    rule: str
    body: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of past events. ``owner`` None: of all; ``before``: a number of ``Page.next``."""

    owner: str | None = None
    stream: str | None = None
    rule: str | None = None
    since_us: int | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """The newest first. ``next``: where the following ones begin, None where there are none."""

    events: tuple[Event, ...]
    next: int | None


class Store:
    """``path`` None: in memory, and gone with the process.

    Raises:
        StartError: ``bad_events_file``: the file cannot be used, or another process uses it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
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
            return self._trim() if any(change.events for change in changes) else 0

    def _save(self, change: Change, spooled: bool, now_us: int) -> None:
        stream, execute = change.stream, self._db.execute
        for event in change.events:
            body, is_open = event.model_dump_json(), event.state != "end"
            execute(
                "INSERT INTO events (event_id, owner, stream, rule, started_at_us, open, body) VALUES (?,?,?,?,?,?,?) "
                "ON CONFLICT (event_id) DO UPDATE SET open = excluded.open, body = excluded.body",
                (event.event_id, stream.owner, stream.name, event.rule, event.started_at_us, is_open, body),
            )
            if not is_open:
                execute("DELETE FROM occurrences WHERE event_id = ?", (event.event_id,))
            if spooled:
                execute("INSERT INTO spool (rule, body, at_us) VALUES (?,?,?)", (event.rule, body, now_us))
        for one in change.opened:
            execute(
                "INSERT OR REPLACE INTO occurrences VALUES (?,?,?,?,?,?,?,?,?,?)",
                (one.event_id, stream.owner, stream.name, one.rule, one.track_id, one.started_at_us, one.seen_at_us,
                 one.score_max, json.dumps(one.box), one.newest_track),
            )  # fmt: skip
        if change.newest_track is not None:
            execute("INSERT OR REPLACE INTO streams VALUES (?,?,?)", (stream.owner, stream.name, change.newest_track))

    def _trim(self) -> int:
        self._db.execute(
            "DELETE FROM events WHERE NOT open AND number <= (SELECT max(number) FROM events) - ?", (MOST_EVENTS,)
        )
        self._db.execute("DELETE FROM streams WHERE rowid <= (SELECT max(rowid) FROM streams) - ?", (MOST_STREAMS,))
        spare = "SELECT number FROM spool ORDER BY number DESC LIMIT -1 OFFSET ?"
        return self._db.execute(f"DELETE FROM spool WHERE number IN ({spare})", (MOST_SPOOLED,)).rowcount

    def opened(self) -> dict[StreamName, list[Occurrence]]:
        """The events that are open, by their streams."""
        found: dict[StreamName, list[Occurrence]] = {}
        for event_id, owner, stream, rule, track, started, seen, score, box, newest in self._db.execute(
            "SELECT event_id, owner, stream, rule, track_id, started_at_us, seen_at_us, score_max, box, newest_track "
            "FROM occurrences ORDER BY rowid"
        ):
            left, top, right, bottom = json.loads(box)
            occurrence = Occurrence(event_id, rule, track, started, seen, score, (left, top, right, bottom), newest)
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
        ]  # fmt: skip
        given = [(term, value) for term, value in terms if value is not None]
        where = " AND ".join(["1", *(term for term, _ in given)])
        rows = self._db.execute(
            f"SELECT number, body FROM events WHERE {where} ORDER BY number DESC LIMIT ?",
            (*(value for _, value in given), wanted.limit + 1),
        ).fetchall()
        events = tuple(Event.model_validate_json(body) for _, body in rows[: wanted.limit])
        return Page(events, rows[wanted.limit - 1][0] if len(rows) > wanted.limit else None)

    # -- what waits for its receiver

    def heads(self, besides: Iterable[str]) -> list[Waiting]:
        """Of each rule the message whose turn it is, but of these rules; the oldest first."""
        left_out = list(besides)
        marks = ",".join("?" * len(left_out))
        rows = self._db.execute(
            f"SELECT min(number), rule, body, at_us FROM spool WHERE rule NOT IN ({marks}) GROUP BY rule ORDER BY 1",
            left_out,
        )
        return [Waiting(*row) for row in rows]

    def delivered(self, number: int) -> None:
        """A message is where it should be, or never will be."""
        self._db.execute("DELETE FROM spool WHERE number = ?", (number,))

    def waiting(self) -> tuple[int, int | None]:
        """How many messages wait, and epoch µs of the oldest one's."""
        count, oldest = self._db.execute("SELECT count(*), min(at_us) FROM spool").fetchone()
        return count, oldest


def _why(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return "another process uses it; each service has a file of its own"
    if "not a database" in str(error):
        return "this is no SQLite file; name another, or move it away"
    return f"{error}; is its folder there, and may we write in it?"
