"""The desk: whose events are seen, what a killed process has left, names, cool-down over a restart, a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from scenes import T0_US, fell, person, result

from stmixer.service.errors import InputError, StartError
from stmixer.service.event_schemas import ClipWish, Event, Rule
from stmixer.service.events import desk as desk_module
from stmixer.service.events.desk import EventDesk
from stmixer.service.events.spool import ReceiverName
from stmixer.service.events.store import Change, Wanted
from stmixer.service.events.watched import WatchedStream
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

HERE = Rule(id="here", person=True, for_s=0, clear_s=0)
FALL = Rule(id="fall", label="fall", for_s=0, clear_s=3)
LATER_US = T0_US + 60_000_000


class Kept:
    """Who would keep clips."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float, float]] = []

    def keep(self, event: Event, stream: int, pre_s: float, post_s: float) -> None:
        self.asked.append((event.state, stream, pre_s, post_s))


@asynccontextmanager
async def desk(path: Path | None = None, keeper: Kept | None = None, **settings: Any) -> AsyncIterator[EventDesk]:
    it = EventDesk(Settings(events_file=path, **settings), Metrics(), keeper)
    it.read()
    await it.start(["fall", "lie"])
    try:
        yield it
    finally:
        await it.stop()


async def kill(it: EventDesk) -> None:
    """As SIGKILL does."""
    assert it._ledger is not None
    await it.flush()
    tasks, it._tasks = it._tasks, []
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await it._ledger.close()
    it._ledger, it._streams = None, {}


async def begin(
    it: EventDesk, number: int, *rules: Rule, name: str | None = None, owner: str = ""
) -> tuple[WatchedStream, list[Event]]:
    stream, told = it.enter(number, name, owner, 1.0), list[Event]()
    stream.tell = told.append
    await it.set_rules(stream, rules)
    return stream, told


async def listed(it: EventDesk, **wanted: Any) -> list[tuple[str, str, str]]:
    page = await it.page(Wanted(**wanted))
    return [(event.stream, event.rule, event.reason or event.state) for event in page.events]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_without_a_rule_nothing_is_there() -> None:
    async def body() -> None:
        async with desk() as it:
            stream, told = await begin(it, 1, name="hall")
            stream.see(result(0, person(1)))
            await it.exit(stream)
            assert (it._ledger, it._tasks, told) == (None, [], [])
            assert await listed(it) == []

    run(body())


def test_events_are_listed_by_page_stream_rule_time_and_owner() -> None:
    async def body() -> None:
        async with desk() as it:
            hall, _ = await begin(it, 1, HERE, name="hall", owner="a")
            yard, _ = await begin(it, 2, HERE, FALL, name="yard", owner="b")
            hall.see(result(0, person(1)))
            yard.see(result(1, fell(1)))
            hall.see(result(2))
            await it.flush()
            assert await listed(it) == [("yard", "fall", "start"), ("yard", "here", "start"), ("hall", "here", "end")]
            first = await it.page(Wanted(limit=2))
            assert [event.rule for event in first.events] == ["fall", "here"]
            rest = await it.page(Wanted(limit=2, before=first.next))
            assert ([event.stream for event in rest.events], rest.next) == (["hall"], None)
            assert await listed(it, owner="a") == [("hall", "here", "end")]
            assert await listed(it, owner="b", rule="here") == [("yard", "here", "start")]
            assert await listed(it, stream="hall") == [("hall", "here", "end")]
            assert [found[0] for found in await listed(it, since_us=T0_US + 1)] == ["yard", "yard"]
            assert await it.event(first.events[0].event_id) == ("b", first.events[0])
            assert await it.event("none") is None

    run(body())


def test_a_stream_that_follows_another_is_quiet_for_what_is_left_of_rules_that_are_as_they_were() -> None:
    rules = [HERE.model_copy(update={"id": name, "cooldown_s": 100.0}) for name in ("same", "other", "gone")]

    async def body() -> None:
        async with desk() as it:
            first, _ = await begin(it, 1, *rules)
            first.see(result(0, person(5)))
            first.see(result(10))
            assert first.ended_us == dict.fromkeys(("same", "other", "gone"), T0_US)
            other = rules[1].model_copy(update={"min_score": 0.4})
            await it.set_rules(first, [rules[0], other])
            await it.exit(first)
            second = it.enter(1, None, "", 1.0, quiet_us=first.ended_us, newest_track=5)
            await it.set_rules(second, [rules[0], other, rules[2]])
            told = list[Event]()
            second.tell = told.append
            assert second.first_track == 5
            second.see(result(0, person(6), since_us=T0_US + 50_000_000))
            await it.flush()
            assert sorted((event.rule, event.track_id) for event in told) == [("gone", 6), ("other", 6)]
            second.see(result(51, person(6), since_us=T0_US + 50_000_000))
            await it.flush()
            assert (told[-1].rule, told[-1].track_id) == ("same", 6)

    run(body())


def test_what_is_told_was_written_down_before() -> None:
    async def body() -> None:
        async with desk() as it:
            stream, told = await begin(it, 1, HERE)
            assert it._ledger is not None
            store = it._ledger.store
            stream.tell = lambda event: told.append(event) if store.event(event.event_id) else None
            stream.see(result(0, person(1)))
            await it.flush()
            assert [event.state for event in told] == ["start"]

    run(body())


def test_a_disk_that_fails_is_counted_and_what_came_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with desk() as it:
            stream, told = await begin(it, 1, HERE)
            assert it._ledger is not None

            def full(*_: object) -> dict[ReceiverName, int]:
                raise sqlite3.OperationalError("database or disk is full")

            monkeypatch.setattr(it._ledger.store, "save", full)
            stream.see(result(0, person(1)))
            await it.flush()
            assert [event.state for event in told] == ["start"]
            assert it._metrics.registry.get_sample_value("stmixer_event_store_errors_total") == 1

    run(body())


class Disk:
    """Takes what is saved, or (``full``) nothing; ``tried`` once it was asked to."""

    def __init__(self, it: EventDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        assert it._ledger is not None
        self.full, self.took = True, asyncio.Event()
        self._save, self._loop = it._ledger.store.save, asyncio.get_running_loop()
        monkeypatch.setattr(it._ledger.store, "save", self.save)

    def save(
        self, changes: Sequence[Change], receivers: Collection[ReceiverName], now_us: int
    ) -> dict[ReceiverName, int]:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        gave_way = self._save(changes, receivers, now_us)
        self._loop.call_soon_threadsafe(self.took.set)
        return gave_way


def test_what_a_disk_did_not_take_it_gets_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that was told is over in the file, too, and the webhook's."""

    async def body() -> None:
        async with desk(tmp_path / "e", webhook="http://127.0.0.1:1/x") as it:
            stream, told = await begin(it, 1, HERE, FALL, name="hall")
            stream.see(result(0, person(1)))
            await it.flush()
            disk = Disk(it, monkeypatch)
            stream.see(result(1))
            await it.flush()
            disk.full = False
            stream.see(result(2, fell(7)))
            await it.flush()
            assert [event.state for event in told] == ["start", "end", "start", "start"]
            assert [state for _, _, state in await listed(it)] == ["start", "start", "end"]
            await kill(it)
        async with desk(tmp_path / "e") as it:
            assert it._ledger is not None
            assert it._ledger.store.spool.waiting("webhook")[0] == 4
            hall, told = await begin(it, 1, HERE, FALL, name="hall")
            hall.see(result(0, fell(hall.first_track + 1), since_us=LATER_US))
            await it.flush()
            assert len({event.event_id for event in told if event.state == "update"}) == 2

    run(body())


def test_it_gets_it_again_though_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "AGAIN_S", 0.01)

    async def body() -> None:
        async with desk() as it:
            stream, told = await begin(it, 1, HERE)
            disk = Disk(it, monkeypatch)
            stream.see(result(0, person(1)))
            await it.flush()
            disk.full = False
            await disk.took.wait()
            assert (await listed(it), len(told)) == ([("1", "here", "start")], 1)

    run(body())


def test_it_gets_it_again_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, HERE)
            disk = Disk(it, monkeypatch)
            stream.see(result(0, person(1)))
            await it.exit(stream)
            disk.full = False
        async with desk(tmp_path / "e") as it:
            assert await listed(it) == [("1", "here", "stream_ended")]

    run(body())


def test_what_waits_for_a_disk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "MOST_QUEUED", 2)

    async def body() -> None:
        async with desk() as it:
            stream, _ = await begin(it, 1, HERE)
            disk = Disk(it, monkeypatch)
            for at in range(6):
                stream.see(result(at, *[person(1)] * (at % 2)))
                await it.flush()
            disk.full = False
            await it.flush()
            assert await listed(it) == [("1", "here", "start"), ("1", "here", "end")]

    run(body())


def test_the_end_of_a_stream_is_the_end_of_its_events() -> None:
    async def body() -> None:
        async with desk() as it:
            stream, told = await begin(it, 1, HERE, FALL)
            stream.see(result(0, fell(1)))
            await it.exit(stream)
            assert [(event.rule, event.state) for event in told[2:]] == [("here", "end"), ("fall", "end")]
            assert {event.reason for event in told[2:]} == {"stream_ended"}
            await it.exit(stream)
            assert len(told) == 4

    run(body())


def test_what_cannot_go_on_after_the_service_ends_with_it(tmp_path: Path) -> None:
    async def ends(path: Path | None, name: str | None) -> list[str]:
        async with desk(path) as it:
            stream, told = await begin(it, 1, HERE, name=name)
            stream.see(result(0, person(1)))
        return [event.state for event in told]

    async def body() -> None:
        assert await ends(None, "hall") == ["start", "end"]  # nothing is kept
        assert await ends(tmp_path / "a", None) == ["start", "end"]
        assert await ends(tmp_path / "b", "hall") == ["start"]

    run(body())


def test_a_number_of_before_is_another_stream(tmp_path: Path) -> None:
    rule = HERE.model_copy(update={"cooldown_s": 900.0})

    async def body() -> None:
        for _ in range(2):
            async with desk(tmp_path / "e") as it:
                stream, told = await begin(it, 1, rule)
                stream.see(result(0, person(1)))
                stream.see(result(1))
                await it.flush()
                assert [event.state for event in told] == ["start", "end"]

    run(body())


def test_what_a_killed_process_left_open_is_lost_but_of_a_stream_that_may_return(tmp_path: Path) -> None:
    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            for number, name in ((1, "hall"), (2, None), (3, "7"), (4, "hall")):
                stream, _ = await begin(it, number, HERE, name=name)
                stream.see(result(0))
                stream.see(result(1, person(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            assert await listed(it) == [
                ("4", "here", "lost"), ("3", "here", "lost"), ("2", "here", "lost"), ("hall", "here", "start"),
            ]  # fmt: skip
            hall, told = await begin(it, 1, HERE, name="hall")
            hall.see(result(0, person(hall.first_track + 1), since_us=LATER_US))
            await it.flush()
            assert [event.state for event in told] == ["update"]

    run(body())


def test_a_stream_that_does_not_return_loses_what_it_had_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "RETURN_S", 0.0)

    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, HERE, name="hall")
            stream.see(result(0, person(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            await it._tasks[-1]
            assert await listed(it) == [("hall", "here", "lost")]

    run(body())


def test_one_that_returns_without_the_rule_ends_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, HERE, name="hall")
            stream.see(result(0, person(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            await begin(it, 1, FALL, name="hall")
            assert await listed(it) == [("hall", "here", "rule_changed")]

    run(body())


def test_one_that_returns_without_any_rule_has_lost_it(tmp_path: Path) -> None:
    """Rules that were put while it ran were of that stream."""

    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, HERE, name="hall")
            stream.see(result(0, person(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            await begin(it, 1, name="hall")
            assert await listed(it) == [("hall", "here", "lost")]

    run(body())


@pytest.mark.parametrize(
    "other", [{"label": "lie"}, {"min_score": 0.3}, {"zone": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))}]
)
def test_a_rule_that_says_something_else_after_a_restart_is_another(tmp_path: Path, other: dict[str, Any]) -> None:
    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, FALL, name="hall")
            stream.see(result(0, fell(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            await begin(it, 1, FALL.model_copy(update=other), name="hall")
            assert await listed(it) == [("hall", "fall", "rule_changed")]

    run(body())


def test_another_owners_stream_of_the_name_goes_on_with_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, HERE, name="hall", owner="a")
            stream.see(result(0, person(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            other, told = await begin(it, 1, HERE, name="hall", owner="b")
            other.see(result(0, person(1), since_us=LATER_US))
            await it.flush()
            assert [event.state for event in told] == ["start"]
            assert other.first_track == 0

    run(body())


def test_a_cool_down_goes_on_over_a_restart(tmp_path: Path) -> None:
    rule = HERE.model_copy(update={"cooldown_s": 90.0})

    async def body() -> None:
        async with desk(tmp_path / "e") as it:
            stream, _ = await begin(it, 1, rule, name="hall")
            stream.see(result(0, person(1)))
            stream.see(result(1))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            stream, told = await begin(it, 1, rule, name="hall")
            for at in range(0, 30, 2):  # the first 60 s after the end
                stream.see(result(at, person(5000), since_us=LATER_US))
            await it.flush()
            assert told == []
            stream.see(result(30, person(5000), since_us=LATER_US))
            await it.flush()
            (start,) = told
            assert start.started_at_us == LATER_US
            assert it._streams["hall"].open_count == 1

    run(body())


def test_a_cool_down_goes_on_when_a_stream_of_that_name_begins_again() -> None:
    rule = HERE.model_copy(update={"cooldown_s": 90.0})

    async def body() -> None:
        async with desk() as it:
            first, _ = await begin(it, 1, rule, name="hall")
            first.see(result(0, person(1)))
            await it.exit(first)
            second, told = await begin(it, 2, FALL, name="hall")
            second.see(result(0, person(1), since_us=LATER_US))
            await it.set_rules(second, [rule])
            for at in range(0, 30, 2):
                second.see(result(at, person(1), since_us=LATER_US))
            await it.flush()
            assert told == []
            second.see(result(30, person(1), since_us=LATER_US))
            await it.flush()
            assert [event.state for event in told] == ["start"]

    run(body())


def test_who_keeps_clips_is_asked_at_start_and_end() -> None:
    kept, rule = Kept(), HERE.model_copy(update={"clip": ClipWish(pre_s=3, post_s=4)})

    async def body() -> None:
        async with desk(keeper=kept) as it:
            stream, _ = await begin(it, 9, rule, FALL)
            stream.see(result(0, fell(1, 0.5)))
            stream.see(result(1, fell(1, 0.9)))
            stream.see(result(2))
            stream.see(result(3, fell(1)))
            await it.flush()
            await it.set_rules(stream, ())  # ends what is open
            await it.flush()
        assert kept.asked == [("start", 9, 3, 4), ("end", 9, 3, 4)] * 2

    run(body())


def test_a_rule_that_wants_clips_where_nobody_keeps_any_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rule = HERE.model_copy(update={"clip": ClipWish()})
    (tmp_path / "rules.yaml").write_text("rules: [{id: all, person: true, clip: {}}, {id: none, person: true}]")

    def said() -> list[str]:
        found = [record.getMessage() for record in caplog.records if "no clips" in record.getMessage()]
        caplog.clear()
        return found

    async def body(keeper: Kept | None) -> None:
        async with desk(keeper=keeper, rules=tmp_path / "rules.yaml") as it:
            await begin(it, 1, FALL, rule, name="hall")
            await begin(it, 2, FALL, name="yard")

    run(body(None))
    assert said() == [
        f"no clips are kept, though rules of {whose}: --event-clips names a folder for them"
        for whose in ("all streams ask for some (all)", "stream hall ask for some (here)")
    ]
    run(body(Kept()))
    assert said() == []


def test_what_the_webhook_is_to_have_is_written_with_the_event(tmp_path: Path) -> None:
    async def body() -> None:
        async with desk(tmp_path / "e", webhook="http://127.0.0.1:1/x") as it:
            stream, _ = await begin(it, 1, HERE, name="hall", owner="whose")
            stream.see(result(0, person(1)))
            await kill(it)
        async with desk(tmp_path / "e") as it:
            assert it._ledger is not None
            (waiting,) = it._ledger.store.spool.heads("webhook", ())
            assert Event.model_validate_json(waiting.body).state == "start"
            assert waiting.of.stream.owner == "whose"
            assert "whose" not in waiting.body

    run(body())


def test_rules_of_all_streams_are_in_force_and_are_checked(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules: [{id: here, person: true, for_s: 0}]")

    async def body() -> None:
        async with desk(rules=tmp_path / "rules.yaml") as it:
            stream, told = await begin(it, 1)
            stream.see(result(0, person(1)))
            await it.flush()
            assert [event.rule for event in told] == ["here"]
            with pytest.raises(InputError, match="knows no label 'dance'"):
                it.check([Rule(id="a", label="dance")])

    run(body())
    (tmp_path / "rules.yaml").write_text("rules: [{id: a, label: dance}]")
    with pytest.raises(StartError, match=r"--rules .*: rule 'a': the model knows no label 'dance'"):
        run(body())


@pytest.mark.parametrize(("text", "says"), [(None, "No such file"), (" \n", "it is empty")])
def test_a_secret_that_is_none_is_told_of(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "secret"
    if text is not None:
        path.write_text(text)

    async def body() -> None:
        async with desk(tmp_path / "e", webhook="http://127.0.0.1:1/x", webhook_secret_file=path):
            raise AssertionError

    with pytest.raises(StartError, match=says):
        run(body())
