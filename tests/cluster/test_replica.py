"""A replica without Ray: what it does to its process, whom it waits for, when it leaves; and Serve's router."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.handle import DeploymentBroadcastResponse

from stmixer.service.cluster import replica, router
from stmixer.service.cluster.choice import Room
from stmixer.service.cluster.owners import UnansweredError
from stmixer.service.cluster.replica import STOP_S, Replica
from stmixer.service.cluster.router import StreamRouter
from stmixer.service.cluster.service import Replies
from stmixer.service.settings import Settings


class Leaving:
    """A service that notes that it was told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.engine = SimpleNamespace(ready=True, entry=SimpleNamespace(draining=False))

    async def leave(self) -> None:
        self.left.set()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the process by a replica that is made in it."""
    done: list[str] = []
    monkeypatch.setattr(replica, "hide", lambda: done.append("hidden"))
    monkeypatch.setattr(replica, "configure", lambda settings: done.append(settings.log_format))
    root = SimpleNamespace(handlers=[])
    logs = SimpleNamespace(basicConfig=lambda: done.append("a handler"), getLogger=lambda: root)
    monkeypatch.setattr(replica, "logging", logs)  # the process is pytest's
    context = SimpleNamespace(replica_tag="a", app_name="stmixer", deployment="stmixer")
    monkeypatch.setattr(replica.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(replica.serve, "get_deployment_handle", lambda *_: None)
    monkeypatch.setattr(replica.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor="actor"))
    return done


def one(**settings: Any) -> Replica:
    found = Replica(Settings(model="tiny", device="cpu", **settings), "d1", 3.0)
    found._service = Leaving()  # type: ignore[assignment]
    return found


def played(act: Callable[[], Any]) -> None:
    async def play() -> None:
        async with asyncio.timeout(10):
            await act()

    asyncio.run(play())


def test_its_process_is_shut_and_says_what_settings_say(made: list[str]) -> None:
    found = one(log_format="json")
    assert made == ["a handler", "json", "hidden"]
    assert (found._member._filed, found._member._deployment) == ({}, "d1"), "no file is one without a stream"


def test_it_leaves_once_it_is_absent_for_a_while(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "ABSENT_S", 3600.0)

    async def act() -> None:
        found = one()
        found._see(frozenset({"b"}))
        assert found._absent is None, "it was never there"
        found._see(frozenset({"a", "b"}))
        found._see(frozenset({"b"}))
        waits = found._absent
        assert waits is not None
        assert waits.when() > asyncio.get_running_loop().time() + 1800
        found._see(frozenset({"a", "b"}))  # it was only not told of
        assert waits.cancelled()
        assert found._absent is None
        assert found._leaving is None
        monkeypatch.setattr(replica, "ABSENT_S", 0.0)
        found._see(frozenset({"b"}))
        await found._service.left.wait()  # type: ignore[attr-defined]

    played(act)


def test_one_that_has_left_and_stays_is_not_well(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(replica, "time", SimpleNamespace(monotonic=lambda: now))

    async def act() -> None:
        nonlocal now
        found = one(shutdown_timeout=7)
        found._service.engine.entry.draining = True
        await found._leave()
        now += 7 + STOP_S
        found.check_health()
        now += 0.1
        with pytest.raises(RuntimeError, match="still there"):
            found.check_health()

    played(act)


def test_one_that_does_not_answer_costs_its_own_answer_alone(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "ASKED_S", 0.05)
    assert callable(DeploymentBroadcastResponse._fetch_replica_results_async), "as Serve has it"

    class Answer:
        def __init__(self, what: Any) -> None:
            self._what = what

        async def get_async(self) -> Any:
            if isinstance(self._what, Exception):
                raise self._what
            if self._what is None:
                await asyncio.get_running_loop().create_future()
            return self._what

    async def results() -> list[Answer]:
        return [Answer("one"), Answer(None), Answer(RuntimeError("what")), Answer("two")]

    async def act() -> None:
        found = one()
        asked = SimpleNamespace(_fetch_replica_results_async=results)
        found._peers = SimpleNamespace(broadcast=lambda verb: asked)  # type: ignore[assignment]
        assert await found._ask("scrape") == Replies(["one", "two"], 2)

    played(act)


def test_its_router_hears_that_it_is_late(made: list[str]) -> None:
    found = one()
    found._service = SimpleNamespace(  # type: ignore[assignment]
        engine=SimpleNamespace(streams={1: None}), capacity=4, late=True
    )
    routed = StreamRouter.__new__(StreamRouter)
    routed.initialize_state()
    told: Any = SimpleNamespace(replica_id="a", routing_stats=found.record_routing_stats())
    assert routed._room(told) == Room(1, 4, late=True)
    told.routing_stats = {}
    assert routed._room(told) == Room(0, 0)


def test_a_request_waits_for_no_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "ANSWER_S", 0.05)
    threads: list[threading.Thread] = []

    def get_actor(name: str, *, namespace: str) -> Any:
        threads.append(threading.current_thread())

        async def where(number: int) -> str:
            if number == 8:
                await asyncio.get_running_loop().create_future()
            return f"replica of {number}"

        return SimpleNamespace(where=SimpleNamespace(remote=where))

    monkeypatch.setattr(router.ray, "get_actor", get_actor)

    async def act() -> None:
        found = StreamRouter.__new__(StreamRouter)
        found.initialize_state()
        found._deployment_id = SimpleNamespace(app_name="stmixer")  # type: ignore[assignment]
        assert await found._owner(7) == "replica of 7"
        with pytest.raises(UnansweredError):
            await found._owner(8)
        assert await found._owner(7) == "replica of 7"

    played(act)
    assert len(threads) == 2
    assert threading.main_thread() not in threads, "it would hold up all that the proxy does"
