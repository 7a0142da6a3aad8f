"""The coordinator itself, in this process: Ray's store is a dictionary here, and replicas do not die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stmixer.service.cluster import coordinator
from stmixer.service.cluster.coordinator import FORGOTTEN_S, ON_HEAD, Coordinator, coordinator_of, name_of
from stmixer.service.cluster.orders import PROTOCOL, PullRefusal
from stmixer.service.cluster.placing import LOST_S, SILENT_S
from stmixer.service.cluster.signs import leave_sign

FULL = PullRefusal("capacity", "all 2 streams are in use", 503, 5)


class Alive:
    """The handle of a replica that lives on."""

    def __init__(self) -> None:
        self.__ray_ready__ = SimpleNamespace(remote=self._wait)

    async def _wait(self) -> None:
        await asyncio.get_running_loop().create_future()


class Store:
    """As Ray's. ``puts``: how many rows were written."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.puts = 0
        self.fails = False
        """It is not there for the moment."""
        self.reads = 0
        """Rows that were asked for."""

    def put(self, key: str, value: bytes, *, namespace: bytes) -> None:
        self._look()
        self.rows[key] = value
        self.puts += 1

    def get(self, key: str, *, namespace: bytes) -> bytes | None:
        self._look()
        self.reads += 1
        return self.rows.get(key)

    def delete(self, key: str, *, namespace: bytes) -> None:
        self._look()
        self.rows.pop(key, None)

    def _look(self) -> None:
        if self.fails:
            raise ConnectionError("nobody is there")

    def list(self, prefix: str, *, namespace: bytes) -> list[bytes]:
        return [key.encode() for key in self.rows if key.startswith(prefix)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    kept = Store()
    for name, verb in {"put": kept.put, "get": kept.get, "del": kept.delete, "list": kept.list}.items():
        monkeypatch.setattr(coordinator.internal_kv, f"_internal_kv_{name}", verb)
    return kept


def played(act: Callable[[], Any]) -> None:
    async def play() -> None:
        async with asyncio.timeout(10):
            await act()

    asyncio.run(play())


async def joined(app: str = "stmixer") -> Coordinator:
    """With a replica ``a`` that has room."""
    found = Coordinator(app)
    await found.join("a", Alive(), {}, "d1", None)
    await found.ask("a", 0, 10, -1)
    return found


def test_a_stream_that_is_asked_for_again_begins_once(store: Store) -> None:
    async def act() -> None:
        before = await joined()
        first = asyncio.create_task(before.place("k1", "{}", "me"))
        again = asyncio.create_task(before.place("k1", "{}", "me"))
        await asyncio.sleep(0)
        orders = (await before.ask("a", 0, 10, -1)).orders
        assert [order.number for order in orders] == [1]
        assert await before.began("a", 1, "running")
        assert [await first, await again] == ["running", "running"]
        after = Coordinator("stmixer")  # it died before its answer came
        assert await after.place("k1", "{}", "me") == "running"
        assert await after.placed("me", False) == (await before.ask("a", 0, 10, -1)).orders

    played(act)


def test_a_late_replica_is_given_nothing_while_another_is_in_time(store: Store) -> None:
    async def act() -> None:
        found = await joined()
        await found.join("b", Alive(), {}, "d1", None)
        await found.ask("a", 0, 10, -1, (), True)
        await found.ask("b", 5, 10, -1)
        waits = asyncio.create_task(found.place("k1", "{}", ""))
        await asyncio.sleep(0)
        assert await found.began("b", 1, "running")
        assert await waits == "running"

    played(act)


def test_who_waits_is_told_why_not(store: Store) -> None:
    async def act() -> None:
        found = await joined()
        waits = asyncio.create_task(found.place("k1", "{}", ""))
        await asyncio.sleep(0)
        await found.refused("a", 1, FULL)
        assert await waits == FULL
        assert not await found.knows(1, "", True)

    played(act)


def test_a_stream_that_nobody_begins_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "BEGIN_S", 0.0)

    async def act() -> None:
        found = await joined()
        answer = await found.place("k1", "{}", "")
        assert isinstance(answer, PullRefusal)
        assert answer.retry_after_s == 5
        assert not await found.knows(1, "", True)

    played(act)


def test_it_goes_on_where_it_died_and_another_application_has_its_own(store: Store) -> None:
    async def act() -> None:
        found, other = await joined("x"), await joined("x: 1")
        for one, key in ((found, "k1"), (found, "k2"), (other, "k3")):
            task = asyncio.create_task(one.place(key, "{}", ""))
            await asyncio.sleep(0)
            await one.began("a", 2 if key == "k2" else 1, "running")
            await task
        assert await found.change("a", 1, '{"rules":1}')
        assert await found.forget(2, "", True)
        again = Coordinator("x")
        assert [(o.number, o.text) for o in await again.placed("", True)] == [(1, '{"rules":1}')]
        secrets = {(await one.join("b", Alive(), {}, "d1", None)).secret for one in (found, again)}
        assert len(secrets) == 1

    played(act)


def test_one_stream_more_is_one_row_more(store: Store) -> None:
    async def act() -> None:
        found = await joined()
        for number in range(1, 40):
            task = asyncio.create_task(found.place(f"k{number}", "{}", ""))
            await asyncio.sleep(0)
            before = store.puts
            await found.began("a", number, "running")
            assert store.puts - before == 2, "and what is of all"
            await task

    played(act)


class Clock:
    """The coordinator's; it looks around without a pause."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(coordinator, "LOOK_S", 0.0)
        monkeypatch.setattr(coordinator, "time", SimpleNamespace(monotonic=lambda: self.now))


async def a_stream(found: Coordinator) -> None:
    """Number 1, which runs at ``a``."""
    task = asyncio.create_task(found.place("k1", "{}", ""))
    await asyncio.sleep(0)
    assert await found.began("a", 1, "running")
    await task


async def looked(store: Store, times: int = 3, until: Callable[[], bool] = lambda: False) -> None:
    """The coordinator has asked for so many signs more, or it is so."""
    wanted = store.reads + times
    await comes(lambda: until() or store.reads >= wanted)


async def comes(so: Callable[[], bool]) -> None:
    """The coordinator looks around until it is so."""
    while True:
        if so():
            return
        await asyncio.sleep(0)


async def gone(found: Coordinator) -> None:
    """The stream has no replica any more."""
    while True:
        if await found.where(1) is None:
            return
        await asyncio.sleep(0)


def test_a_silent_replica_keeps_its_streams_while_it_leaves_signs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def act() -> None:
        found = await joined()
        await a_stream(found)
        for _ in range(8):
            clock.now += LOST_S - 0.1
            leave_sign("stmixer", "a")
            await looked(store)
            assert await found.where(1) == "a"
        clock.now += LOST_S - 0.1  # and no sign more
        await looked(store)
        assert await found.where(1) == "a"
        clock.now += 0.2
        await gone(found)

    played(act)


def test_a_sign_of_before_is_none_of_now(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is lost is waited for no longer because its replica once did not reach the coordinator."""
    clock = Clock(monkeypatch)

    async def act() -> None:
        found = await joined()
        await a_stream(found)
        clock.now = SILENT_S + 0.1
        leave_sign("stmixer", "a")
        await looked(store)
        await found.ask("a", 0, 10, -1)  # it is there again
        assert not [key for key in store.rows if key.startswith("sign ")]
        clock.now += SILENT_S + 0.1
        await looked(store)
        assert await found.where(1) == "a"
        clock.now += LOST_S - SILENT_S
        await gone(found)

    played(act)


def signs_in(store: Store) -> list[str]:
    """Whose are there, with the application's."""
    return sorted(key.partition(" of ")[2] for key in store.rows if key.startswith("sign "))


def test_the_sign_of_one_that_is_gone_goes_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def act() -> None:
        found = await joined()
        await a_stream(found)
        clock.now = SILENT_S + 0.1
        leave_sign("stmixer", "a")
        await looked(store)
        assert signs_in(store) == ["stmixer: a"]
        clock.now += LOST_S + 0.1
        await gone(found)
        await comes(lambda: not found._table.names)
        assert signs_in(store) == []
        await found.join("b", Alive(), {}, "d1", None)
        await found.join("c", Alive(), {}, "d1", None)
        for name in "bc":
            leave_sign("stmixer", name)  # and nobody looks for it
        monkeypatch.setattr(coordinator, "LOOK_S", 3600.0)
        await asyncio.sleep(0)
        clock.now += LOST_S + 0.1
        await found.leave("b")  # and "c" is found to be gone by the way
        assert signs_in(store) == []

    played(act)


def test_a_sign_from_before_its_own_death_says_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica died with the coordinator: what it left last does not keep its streams from others."""
    clock = Clock(monkeypatch)

    async def act() -> None:
        before = await joined()
        await a_stream(before)
        leave_sign("stmixer", "a")
        assert before._looking is not None
        before._looking.cancel()
        found = Coordinator("stmixer")
        await found.join("b", Alive(), {}, "d1", None)
        for clock.now in (SILENT_S + 0.1, LOST_S, LOST_S + 0.1):
            assert await found.where(1) == "a"
            await found.ask("b", 0, 10, -1)
            await looked(store, until=lambda: "a" not in found._table.names)
        assert [order.number for order in (await found.ask("b", 0, 10, -1)).orders] == [1]

    played(act)


def test_what_is_forgotten_leaves_no_sign(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ended = asyncio.Event()
    monkeypatch.setattr(coordinator.ray, "kill", lambda _: ended.set())
    monkeypatch.setattr(coordinator.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor="me"))

    async def act() -> None:
        found = await joined("x")
        await found.leave("a")
        for app, name in (("x", "a"), ("x: 1", "b")):
            leave_sign(app, name)
        clock.now = FORGOTTEN_S + 0.1
        await ended.wait()
        assert signs_in(store) == ["x: 1: b"]

    played(act)


def test_nobody_is_taken_for_gone_while_the_store_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the silent leave there cannot be read. It goes on once the store is back."""
    clock = Clock(monkeypatch)

    async def act() -> None:
        found = await joined()
        await a_stream(found)
        store.fails = True
        clock.now = LOST_S + 0.1
        await comes(lambda: "who is there" in caplog.messages)
        assert await found.where(1) == "a"
        store.fails = False
        await gone(found)

    played(act)


def test_it_is_where_its_store_is_and_one_for_each_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def options(**given: Any) -> Any:
        told.update(given)
        return SimpleNamespace(remote=lambda app: app)

    monkeypatch.setattr(coordinator.ray, "remote", lambda what: SimpleNamespace(options=options))
    coordinator_of("stmixer")
    assert told["resources"] == ON_HEAD == {"node:__internal_head__": 0.001}
    assert told["name"] == name_of("stmixer") == f"coordinator {PROTOCOL} of stmixer"
