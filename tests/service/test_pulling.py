"""What pulled streams stand on: when the next attempt comes, and what those who follow hear. Nothing is connected."""

from __future__ import annotations

import asyncio

import pytest

from stmixer.service.access import Caller
from stmixer.service.api.pulled import _as_events
from stmixer.service.sessions.backlog import Backlog, Missing, Said
from stmixer.service.sessions.pulled_stream import PulledStreams
from stmixer.service.sources.trouble import Backoff, Trouble

LOST, WRONG = Trouble("connection_lost", "gone"), Trouble("unauthorized", "wrong password")


def waits(backoff: Backoff, until_s: float, trouble: Trouble = LOST) -> list[float]:
    """Those between attempts that fail at once, from 0 s on."""
    now, found = 0.0, []
    while now < until_s:
        found.append(backoff.wait_s(trouble, now))
        now += found[-1]
    return found


def test_attempts_follow_each_other_closely_and_then_less_so() -> None:
    found = waits(Backoff(lambda: 0.0), 300)
    assert found[:5] == [1, 2, 4, 8, 8]
    assert set(found[3:17]) == {8}  # up to two minutes
    assert set(found[-3:]) == {30}
    assert found == sorted(found)


def test_they_come_up_to_a_quarter_sooner() -> None:
    assert waits(Backoff(lambda: 1.0), 10)[:4] == [0.75, 1.5, 3, 6]
    for wait in waits(Backoff(), 119):
        assert wait <= 8


def test_what_an_attempt_takes_counts() -> None:
    """Those that hang in a connect for 5 s are no more than 8 s apart either; a second lies between any two."""
    backoff = Backoff(lambda: 0.0)
    assert [backoff.wait_s(LOST, 13.0 * number, took_s=5.0) for number in range(6)] == [1, 1, 1, 3, 3, 3]
    assert Backoff(lambda: 0.0).wait_s(WRONG, 0.0, took_s=2.0) == 28
    assert Backoff(lambda: 0.0).wait_s(LOST, 0.0, took_s=3600.0) == 1


def test_what_only_a_person_can_mend_is_tried_slowly() -> None:
    assert set(waits(Backoff(lambda: 0.0), 200, WRONG)) == {30}


def test_after_a_picture_it_begins_anew() -> None:
    backoff = Backoff(lambda: 0.0)
    waits(backoff, 300)
    backoff.succeeded()
    assert backoff.wait_s(LOST, 1000) == 1


async def heard(backlog: Backlog, seen: int | None) -> list[int | str]:
    """Numbers, and how many are missing as text."""
    found: list[int | str] = []
    async for said in backlog.follow(seen):
        found.append(said.number if isinstance(said, Said) else f"{said.count} missing")
    return found


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [(None, []), (0, ["2 missing", 3, 4, 5]), (1, ["1 missing", 3, 4, 5]), (2, [3, 4, 5]), (4, [5]), (5, []),
     (99, [3, 4, 5])],
)  # fmt: skip
def test_a_backlog_goes_on_from_where_one_was(seen: int | None, wanted: list[int | str]) -> None:
    async def run() -> None:
        backlog = Backlog(most=3)
        for number in range(5):
            backlog.add("result", str(number))
        backlog.close()
        assert await heard(backlog, seen) == wanted

    asyncio.run(run())


def test_a_backlog_of_large_messages_keeps_fewer() -> None:
    async def run() -> None:
        backlog = Backlog(most_characters=10)
        for text in ("a" * 4, "b" * 4, "c" * 4):
            backlog.add("result", text)
        following = backlog.follow(0)
        assert [await anext(following), await anext(following)] == [Missing(1), Said(2, "result", "bbbb")]
        backlog.add("result", "d" * 11)  # the newest is kept, whatever it is
        backlog.close()
        assert [said async for said in following] == [Missing(1), Said(4, "result", "d" * 11)]

    asyncio.run(run())


@pytest.mark.parametrize("waits", [True, False])
def test_who_follows_hears_nothing_more_once_its_key_has_lapsed(waits: bool) -> None:
    async def run() -> None:
        backlog, caller = Backlog(), Caller(None)
        following = _as_events(backlog.follow(), caller)
        await anext(following)
        if waits:
            coming = asyncio.ensure_future(anext(following, None))
            await asyncio.sleep(0)
            caller.lapsed.set()
            backlog.add("result", "{}")
            assert await coming is None
        else:
            backlog.add("result", "{}")
            caller.lapsed.set()
            assert await anext(following, None) is None

    asyncio.run(run())


def test_a_stream_that_does_not_end_well_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    class Stream:
        def __init__(self, number: int) -> None:
            self.id = number

        async def open(self) -> None:
            pass

        async def close(self, _: object, *, moves: bool) -> None:
            if self.id == 1:
                raise RuntimeError("odd")
            await asyncio.sleep(0)
            closed.append(self.id)

    async def run() -> None:
        streams = PulledStreams()
        for number in (1, 2):
            await streams.add(Stream(number))  # type: ignore[arg-type]
        await streams.close()
        assert closed == [2]

    asyncio.run(run())
    assert "RuntimeError: odd" in caplog.text


def test_who_follows_hears_what_comes_and_how_much_was_too_fast() -> None:
    async def run() -> None:
        backlog = Backlog(most=2)
        following = backlog.follow()
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        backlog.add("status", "a")
        assert await first == Said(1, "status", "a")
        for text in "bcde":
            backlog.add("status", text)
        assert [await anext(following) for _ in range(3)] == [
            Missing(2),
            Said(4, "status", "d"),
            Said(5, "status", "e"),
        ]
        backlog.close()
        assert await anext(following, None) is None

    asyncio.run(run())
