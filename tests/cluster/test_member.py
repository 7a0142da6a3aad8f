"""A replica's side of the coordinator, with a coordinator and streams that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from stmixer.service.cluster import member
from stmixer.service.cluster.coordinator import ASKED_S, Joined, ToFetch
from stmixer.service.cluster.member import ALONE_S, SIGN_S, Member
from stmixer.service.cluster.orders import Order, PullRefusal
from stmixer.service.cluster.placing import LEASE_S
from stmixer.service.errors import CapacityError, StmixerError


class Verb:
    """An actor's method."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer

    async def remote(self, *arguments: Any) -> Any:
        answer = self._answer(*arguments)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Future):
            return await answer
        return answer


class Coordinator:
    """Answers at once while there is an answer, and notes what it is told."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[ToFetch | Exception] = asyncio.Queue()
        self.told: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.asked: asyncio.Queue[tuple[int, ...]] = asyncio.Queue()
        self.placed: list[Any] = []
        self.wants = True
        self.joined = 0
        self.late = False
        """As it was said last."""

    def __getattr__(self, verb: str) -> Verb:
        return Verb(getattr(self, f"_{verb}"))

    def _join(self, name: str, actor: Any, filed: Any, deployment: str, number: int | None) -> Joined:
        self.joined += 1
        self.told.put_nowait(("join", name, filed, deployment, number))
        return Joined(7 if number is None else number, b"secret")

    def _ask(self, name: str, others: int, capacity: int, seen: int, over: tuple[int, ...], late: bool) -> Any:
        self.asked.put_nowait(over)
        self.late = late
        return asyncio.ensure_future(self._next())

    def _place(self, key: str, text: str, owner: str) -> Any:
        self.told.put_nowait(("place", key, text, owner))
        return self.placed.pop(0)

    def _knows(self, number: int, owner: str, sees_all: bool) -> Any:
        return asyncio.get_running_loop().create_future()  # it never answers

    async def _next(self) -> ToFetch:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _began(self, name: str, number: int, running: str) -> bool:
        self.told.put_nowait(("began", name, number, running))
        return self.wants

    def _refused(self, name: str, number: int, why: PullRefusal) -> None:
        self.told.put_nowait(("refused", name, number, why))

    def _leave(self, name: str) -> None:
        self.told.put_nowait(("leave", name))


class Streams:
    """What is fetched, as a service would."""

    others, capacity, late = 0, 8, False

    def __init__(self) -> None:
        self.fetched: frozenset[int] = frozenset()
        self.over: frozenset[int] = frozenset()
        self.error: StmixerError | None = None
        self.ended = asyncio.Event()
        self.moved: dict[int, bool] = {}
        self.slow = frozenset[int]()
        """Those whose end takes until ``may_end``."""
        self.may_end = asyncio.Event()

    async def fetch(self, order: Order) -> str:
        if self.error is not None:
            raise self.error
        self.fetched |= {order.number}
        return f"stream {order.number}"

    async def end(self, number: int, *, moves: bool) -> None:
        self.fetched -= {number}
        self.moved[number] = moves
        if number in self.slow:
            await self.may_end.wait()
        self.ended.set()


def wanted(version: int, *numbers: int, known: bool = True) -> ToFetch:
    return ToFetch(version, tuple(Order(number, "{}", "") for number in numbers), known)


class Scene:
    """A member at work."""

    def __init__(self) -> None:
        self.coordinator, self.streams, self.now = Coordinator(), Streams(), 0.0
        self.signs: asyncio.Queue[float] = asyncio.Queue()
        """When one was left."""
        self.store_is_there = True

        async def find() -> Coordinator:
            return self.coordinator

        self.member = Member("a", find, "actor", self._leave_sign, {"door": "{}"}, "d1", lambda: self.now)

    async def _leave_sign(self) -> None:
        if not self.store_is_there:
            raise ConnectionError("nobody is there")
        self.signs.put_nowait(self.now)

    async def goes_on(self, seconds: float) -> None:
        """So long, a sign after the other."""
        until = self.now + seconds
        while self.now < until:
            self.now += SIGN_S + 0.1
            async with asyncio.timeout(10):
                await self.signs.get()

    async def __aenter__(self) -> Scene:
        await self.member.join()
        self.member.start(self.streams)
        assert await self.told() == ("join", "a", {"door": "{}"}, "d1", None)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.streams.may_end.set()
        await self.member.leave(self.streams)

    async def told(self) -> tuple[Any, ...]:
        """What the coordinator hears next."""
        async with asyncio.timeout(10):
            return await self.coordinator.told.get()


def played(act: Callable[[Scene], Any]) -> None:
    async def play() -> None:
        async with Scene() as scene:
            await act(scene)

    asyncio.run(play())


def test_it_fetches_what_it_is_told_and_ends_what_it_is_not() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4, 5))
        assert {await scene.told(), await scene.told()} == {
            ("began", "a", 4, "stream 4"), ("began", "a", 5, "stream 5"),
        }  # fmt: skip
        scene.coordinator.answers.put_nowait(wanted(2, 5, 6))
        assert await scene.told() == ("began", "a", 6, "stream 6")
        assert scene.streams.fetched == {5, 6}
        assert scene.streams.moved == {4: False}

    played(act)


def test_it_says_that_it_is_late() -> None:
    async def act(scene: Scene) -> None:
        async with asyncio.timeout(10):
            await scene.coordinator.asked.get()
            assert not scene.coordinator.late
            scene.streams.late = True
            scene.coordinator.answers.put_nowait(wanted(1))
            await scene.coordinator.asked.get()
        assert scene.coordinator.late

    played(act)


def test_what_cannot_begin_is_said_with_the_reason() -> None:
    async def act(scene: Scene) -> None:
        scene.streams.error = CapacityError("capacity", "full", 503, 9)
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert await scene.told() == ("refused", "a", 4, PullRefusal("capacity", "full", 503, 9))

    played(act)


def test_what_others_fetch_by_now_ends() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.wants = False
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"
        async with asyncio.timeout(10):
            await scene.streams.ended.wait()
        assert scene.streams.fetched == frozenset()

    played(act)


def test_without_an_answer_it_ends_what_it_fetches_by_itself() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"
        assert not scene.streams.ended.is_set()
        scene.store_is_there = False
        scene.now = LEASE_S + 0.1
        async with asyncio.timeout(10):
            await scene.streams.ended.wait()
        assert scene.streams.fetched == frozenset()
        assert scene.streams.moved == {4: True}
        scene.coordinator.answers.put_nowait(wanted(1, 4))  # it was only slow
        assert await scene.told() == ("began", "a", 4, "stream 4")

    played(act)


def test_while_the_coordinator_is_gone_it_fetches_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have died: then nobody gives what is fetched here to others, and it looks for signs when it is back."""
    monkeypatch.setattr(member, "RETRY_S", 0.0)

    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"
        await scene.goes_on(3 * LEASE_S)
        assert scene.streams.fetched == {4}
        scene.store_is_there = False
        scene.now += LEASE_S + 0.1
        async with asyncio.timeout(10):
            await scene.streams.ended.wait()
        assert scene.streams.moved == {4: True}

    played(act)


def test_it_does_not_go_on_alone_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was ended meanwhile it has not heard of."""
    monkeypatch.setattr(member, "RETRY_S", 0.0)

    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"
        await scene.goes_on(ALONE_S - LEASE_S)
        assert scene.streams.fetched == {4}
        scene.now = ALONE_S + LEASE_S
        async with asyncio.timeout(10):
            await scene.streams.ended.wait()
        assert scene.signs.empty()

    played(act)


def test_it_leaves_no_sign_while_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer a second, each to what was asked when the one before came."""
    monkeypatch.setattr(member, "RETRY_S", 0.0)

    async def act(scene: Scene) -> None:
        for version in range(9):
            async with asyncio.timeout(10):
                await scene.coordinator.asked.get()
            scene.now += ASKED_S
            for _ in range(20):
                await asyncio.sleep(0)
            scene.coordinator.answers.put_nowait(wanted(version, 4))
        assert scene.streams.fetched == {4}
        assert scene.signs.empty()

    played(act)


def test_the_lease_runs_from_when_it_asked() -> None:
    """The coordinator has heard it then, and counts from there."""

    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"
        scene.store_is_there = False
        scene.now = LEASE_S - 0.1  # so late comes the answer to what was asked at 0
        async with asyncio.timeout(10):
            await scene.coordinator.asked.get()
            await scene.coordinator.asked.get()
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        async with asyncio.timeout(10):
            await scene.coordinator.asked.get()
        assert not scene.streams.ended.is_set()
        scene.now = LEASE_S + 0.1  # nothing was asked since that is answered
        async with asyncio.timeout(10):
            await scene.streams.ended.wait()

    played(act)


def test_a_slow_end_holds_up_no_other() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4, 5))
        assert {(await scene.told())[2], (await scene.told())[2]} == {4, 5}
        scene.streams.slow = frozenset({4})
        scene.coordinator.answers.put_nowait(wanted(2, 5, 6))
        assert await scene.told() == ("began", "a", 6, "stream 6")
        scene.coordinator.answers.put_nowait(wanted(3, 4, 5, 6))  # here again, but it has to end before
        scene.coordinator.answers.put_nowait(wanted(4, 4, 5, 6, 7))
        assert await scene.told() == ("began", "a", 7, "stream 7")
        scene.store_is_there = False
        scene.now = LEASE_S + 0.1
        async with asyncio.timeout(10):
            await scene.streams.ended.wait()
        assert scene.streams.fetched == frozenset()
        scene.streams.may_end.set()
        assert await scene.told() == ("began", "a", 4, "stream 4")

    played(act)


def test_what_has_come_to_its_end_is_said() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"
        scene.streams.over = frozenset({4})
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        async with asyncio.timeout(10):
            while await scene.coordinator.asked.get() != (4,):
                pass

    played(act)


def test_a_stream_that_is_asked_for_again_after_an_error_is_the_same() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.placed = [ActorUnavailableError("it is gone", None), "running", "running"]
        assert await scene.member.place("{}", "me") == "running"
        first, second = await scene.told(), await scene.told()
        assert first == second == ("place", first[1], "{}", "me")
        await scene.member.place("{}", "me")
        assert (await scene.told())[1] != first[1], "another question"

    played(act)


def test_nobody_waits_for_ever_for_a_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "ANSWER_S", 0.01)

    async def act(scene: Scene) -> None:
        async with asyncio.timeout(10):
            with pytest.raises(CapacityError) as raised:
                await scene.member.knows(4, "me", sees_all=False)
        assert (raised.value.code, raised.value.status) == ("coordinator", 503)

    played(act)


def test_one_that_is_not_known_joins_anew_with_its_number() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(wanted(0, known=False))
        assert await scene.told() == ("join", "a", {"door": "{}"}, "d1", 7)
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"

    played(act)


def test_a_coordinator_that_dies_is_found_again() -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(ActorUnavailableError("it is gone", None))
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"

    played(act)


def test_it_leaves_once_what_it_fetched_has_ended() -> None:
    async def play() -> None:
        async with Scene() as scene:
            scene.coordinator.answers.put_nowait(wanted(1, 4))
            assert (await scene.told())[0] == "began"
            await scene.member.leave(scene.streams)
            assert scene.streams.fetched == frozenset()
            assert await scene.told() == ("leave", "a")
        assert scene.coordinator.told.empty(), "once"

    asyncio.run(play())


@pytest.mark.parametrize("error", [RuntimeError("what"), KeyError(3)])
def test_an_unforeseen_error_stops_nothing(error: Exception) -> None:
    async def act(scene: Scene) -> None:
        scene.coordinator.answers.put_nowait(error)
        scene.coordinator.answers.put_nowait(wanted(1, 4))
        assert (await scene.told())[0] == "began"

    played(act)
