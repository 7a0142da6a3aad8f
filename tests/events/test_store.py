"""The file of events: what is kept of whom, what has changed since, and who may read it."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from scenes import T0_US, event

from stmixer.service.errors import StartError
from stmixer.service.events import spool as spool_module
from stmixer.service.events import store as store_module
from stmixer.service.events.names import RuleOfStream, StreamName
from stmixer.service.events.store import Change, Store, Wanted

HALL = StreamName("", "hall")


def test_one_who_has_most_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MOST_SPOOLED", 4)
    monkeypatch.setattr(store_module, "MOST_EVENTS", 4)
    store = Store(None)
    for owner, count in (("a", 1), ("b", 9), ("c", 2)):
        events = (event(f"{owner}{n}").model_copy(update={"state": "end"}) for n in range(count))
        store.save([Change(StreamName(owner, "hall"), tuple(events))], ["webhook"], T0_US)
    heads = []
    while found := store.spool.heads("webhook", ()):
        for head in found:
            heads.append(json.loads(head.body)["event_id"])
            store.spool.delivered(head.number)
    assert sorted(heads) == ["a0", "b8", "c0", "c1"]
    assert {found.event_id for found in store.page(Wanted()).events} == set(heads)
    store.close()


def test_of_past_events_as_many_are_kept_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MOST_EVENTS", 5)
    store = Store(None)
    for n in range(8):
        for state in ("start", "update", "update", "end"):
            store.save([Change(HALL, (event(str(n)).model_copy(update={"state": state}),))], (), T0_US)
    store.save([Change(HALL, (event("open"),))], (), T0_US)
    assert [found.event_id for found in store.page(Wanted()).events] == ["open", *"76543"]
    store.close()


def test_what_has_changed_since_comes_whole_and_in_order() -> None:
    store = Store(None)

    def told(name: str, state: str, at_us: int) -> None:
        store.save([Change(HALL, (event(name).model_copy(update={"state": state}),))], (), at_us)

    def since(after: int, limit: int = 100) -> tuple[list[tuple[str, str]], int]:
        page = store.page(Wanted(after=after, limit=limit))
        assert page.next is None
        return [(one.event_id, one.state) for one in page.events], page.latest

    assert store.page(Wanted()).latest == 0
    told("a", "start", 100)
    told("b", "start", 200)
    latest = store.page(Wanted()).latest
    assert since(0) == ([("a", "start"), ("b", "start")], latest)
    told("c", "start", 50)  # the clock was set back
    told("a", "end", 60)
    assert since(latest) == ([("c", "start"), ("a", "end")], latest + 2)
    assert since(latest, 1) == ([("c", "start")], latest + 1)
    assert since(latest + 1, 1) == ([("a", "end")], latest + 2)
    assert since(latest + 2) == ([], latest + 2)
    assert [one.event_id for one in store.page(Wanted()).events] == ["c", "b", "a"]
    store.close()


def test_nobody_else_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    store = Store(path)
    store.save([Change(HALL, (event("a"),))], ["webhook"], 1)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"events.db": 0o600, "events.db-wal": 0o600}
    store.close()


def test_a_file_that_is_no_store_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("something else, of some length: " * 100)
    with pytest.raises(StartError, match="this is no SQLite file"):
        Store(tmp_path / "events.db")
    with pytest.raises(StartError, match="is its folder there"):
        Store(tmp_path / "none" / "events.db")


def test_a_file_of_the_version_before_goes_on(tmp_path: Path) -> None:
    """What waited for the webhook still does, and there is room for what a broker keeps."""
    path = tmp_path / "events.db"
    store = Store(path)
    store.save([Change(HALL, (event("a"),))], ["webhook"], 1)
    store.close()
    with closing(sqlite3.connect(path)) as db:  # as version 1 had it
        db.executescript(
            "DROP TABLE retained; DROP TABLE client; DROP INDEX events_open; DROP INDEX spool_queue;"
            "ALTER TABLE spool DROP COLUMN receiver; ALTER TABLE spool DROP COLUMN stream;"
            "ALTER TABLE spool DROP COLUMN is_on; CREATE INDEX spool_owner ON spool (owner, queue);"
            "PRAGMA user_version = 1"
        )
    store = Store(path)
    (head,) = store.spool.heads("webhook", ())
    assert (json.loads(head.body)["event_id"], head.queue) == ("a", "/fall")
    store.save([Change(HALL, (event("b"),))], ["webhook", "mqtt"], 2)
    assert (store.spool.waiting("webhook"), store.spool.waiting("mqtt")) == ((2, 1), (1, 2))
    assert store.spool.rules_waiting("mqtt") == {RuleOfStream(HALL, "fall")} == store.retained.rules_open()
    name = store.retained.client_id()
    assert name.startswith("stmixer-")
    store.close()
    store = Store(path)
    assert store.retained.client_id() == name
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(StartError, match="of another version of stmixer"):
        Store(path)
