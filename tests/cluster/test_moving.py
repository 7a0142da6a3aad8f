"""A pulled stream that moves to another replica has not come to its end: who follows it is not told so."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stmixer.service.access import Access
from stmixer.service.api.following import Follower
from stmixer.service.schemas import Summary
from stmixer.service.sessions.backlog import Backlog, Said
from stmixer.service.sessions.pulled_stream import PulledStream


class Nothing:
    """A part of a stream that has nothing to do."""

    state = "live"

    async def close(self, error: BaseException | None = None) -> None:
        """It is closed."""


class Session(Nothing):
    stream = SimpleNamespace(id=7)
    warnings: tuple[str, ...] = ()
    error = None

    def abort(self) -> None:
        """It is cut."""

    def summary(self) -> Summary:
        return Summary()


def pulled(state: str = "live") -> PulledStream:
    stream = PulledStream.__new__(PulledStream)
    stream.session, stream.backlog = cast(Any, Session()), Backlog()
    stream.preview, stream._source = cast(Any, Nothing()), cast(Any, Nothing())
    cast(Any, stream._source).state = state
    stream._telling, stream._end_told, stream.moved = None, False, False
    stream._keeping, stream._goes_on, stream._between = None, False, asyncio.Lock()
    return stream


@pytest.mark.parametrize(("moves", "kinds"), [(True, ["result"]), (False, ["result", "summary"])])
def test_the_last_word_is_of_what_ends(moves: bool, kinds: list[str]) -> None:
    async def play() -> list[str]:
        stream = pulled()
        stream.backlog.add("result", "{}")
        await stream.close(moves=moves)
        return [said.kind async for said in stream.backlog.follow(0) if isinstance(said, Said)]

    assert asyncio.run(play()) == kinds


@pytest.mark.parametrize(("state", "is_over"), [("ended", True), ("failed", False), ("live", False)])
def test_what_is_over(state: str, is_over: bool) -> None:
    assert pulled(state).is_over is is_over


class Out:
    """What a follower is told."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    async def first(self, seconds: float) -> str:
        return '{"type":"start","last_event_id":0}'

    async def send_text(self, text: str) -> None:
        """It is sent."""

    async def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


@pytest.mark.parametrize(("moves", "draining", "code"), [(True, True, 1012), (True, False, 1012), (False, False, 1000)])
def test_a_follower_of_a_stream_that_moves_is_to_come_back(
    monkeypatch: pytest.MonkeyPatch, moves: bool, draining: bool, code: int
) -> None:
    async def play() -> list[tuple[int, str]]:
        stream, out = pulled(), Out()
        engine = SimpleNamespace(entry=SimpleNamespace(draining=False))
        follower = Follower.__new__(Follower)
        follower._service = cast(
            Any,
            SimpleNamespace(
                access=Access(None), engine=engine, settings=SimpleNamespace(start_timeout_s=5),
                pulled=SimpleNamespace(find=lambda number, caller: stream),
            ),
        )  # fmt: skip
        never = asyncio.get_running_loop().create_future()
        follower._socket = cast(Any, SimpleNamespace(scope={"headers": [], "state": {}}, receive=lambda: never))
        follower.out = cast(Any, out)

        async def ready(stream: PulledStream) -> None:
            engine.entry.draining = draining
            await stream.close(moves=moves)

        monkeypatch.setattr(follower, "_tell_ready", ready)
        await follower.run(7)
        return out.closed

    ((told, _),) = asyncio.run(play())
    assert told == code
