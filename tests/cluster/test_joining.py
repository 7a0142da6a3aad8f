"""What one replica answers for all of them, with others that are made up; and what names a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from stmixer.service.client import _ws
from stmixer.service.cluster.choice import asked_of
from stmixer.service.cluster.member import Member
from stmixer.service.cluster.placing import RANGE, PullRefusal
from stmixer.service.cluster.service import ClusterService
from stmixer.service.cluster.tokens import SharedAccess
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.event_schemas import Event
from stmixer.service.events.store import Wanted
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import PullOrder, RunningStream, Summary
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.sessions.resume import ResumableStreams
from stmixer.service.sessions.session import Session
from stmixer.service.settings import Settings


class Placing:
    """A member whose coordinator has one answer."""

    name = "x1y2"

    def __init__(self, answer: PullRefusal | str = "", knows: bool = False) -> None:
        self.answer, self._knows = answer, knows
        self.placed: list[tuple[str, str]] = []

    async def place(self, text: str, owner: str) -> PullRefusal | str:
        self.placed.append((text, owner))
        return self.answer

    async def knows(self, number: int) -> bool:
        return self._knows and number == 7


def one_of_several(
    act: Callable[[ClusterService], Any], told: dict[str, list[Any]] | None = None, member: Placing | None = None
) -> Any:
    """What comes of it, with what all replicas say to each verb."""

    async def ask(verb: str, *arguments: Any, **named: Any) -> list[Any]:
        return (told or {})[verb]

    async def play() -> Any:
        settings = Settings(model="tiny", device="cpu")
        access = SharedAccess(None, b"secret")
        return await act(ClusterService(settings, cast(Member, member or Placing()), 3, access, ask))

    return asyncio.run(play())


def running(number: int) -> str:
    return RunningStream(
        id=str(number), source="ws", policy="latest", keyframe_hz=1, key=None, seconds=1, summary=Summary()
    ).model_dump_json()


def event(name: str, started_at_us: int) -> str:
    return Event(
        event_id=name, rule="fall", stream="door", state="start", track_id=1, started_at_us=started_at_us,
        ended_at_us=None, score_max=0.9, box=(0, 0, 1, 1), zone=None,
    ).model_dump_json()  # fmt: skip


def test_streams_of_all_replicas_are_listed() -> None:
    told = {"list_streams": [[running(3_000_000_001), running(12)], [], [running(7)]]}
    streams = one_of_several(lambda service: service.all_running(service.access.nobody), told)
    assert [stream.id for stream in streams] == ["7", "12", "3000000001"]


def test_what_all_measure_is_told() -> None:
    told = {"scrape": [("b", "# TYPE x gauge\nx 2\n"), ("a", "# TYPE x gauge\nx 1\n")]}
    measured = one_of_several(lambda service: service.measured(), told)
    assert [line for line in generate_latest(measured).decode().splitlines() if line[0] != "#"] == [
        'x{replica="a"} 1.0', 'x{replica="b"} 2.0',
    ]  # fmt: skip


def test_events_of_all_are_one_page_the_last_first() -> None:
    told = {"list_events": [[event("a", 30), event("b", 10)], [event("c", 20)]]}
    wanted = Wanted(None, None, None, None, None, None, 2)
    page = one_of_several(lambda service: service.events_page(wanted), told)
    assert [one.event_id for one in page.events] == ["a", "c"]
    assert page.next is None


@pytest.mark.parametrize("place", [(5, None), (None, 5)])
def test_there_is_no_other_page(place: tuple[int | None, int | None]) -> None:
    wanted = Wanted(None, None, None, None, *place, 100)
    with pytest.raises(InputError):
        one_of_several(lambda service: service.events_page(wanted), {"list_events": [[]]})


def test_a_stream_is_begun_where_the_coordinator_says() -> None:
    order = PullOrder(url="rtsp://8.8.8.8/door", name="door")
    member = Placing(PullRefusal("capacity", "no replica has room", 503, 5))
    with pytest.raises(CapacityError, match="no replica has room"):
        one_of_several(lambda service: service.begin_pulled(service.access.nobody, order), member=member)
    assert [(PullOrder.model_validate_json(text), owner) for text, owner in member.placed] == [(order, "")]


def test_what_may_not_be_fetched_is_refused_before_anybody_is_asked() -> None:
    member = Placing()
    for url in ("file:walk.mp4", "rtsp://127.0.0.1/door"):
        order = PullOrder(url=url)
        with pytest.raises(InputError):
            one_of_several(
                lambda service, order=order: service.begin_pulled(service.access.nobody, order), member=member
            )
    assert member.placed == []


def test_a_stream_that_moves_is_not_gone() -> None:
    async def act(service: ClusterService) -> None:
        await service.check_moving(8)
        with pytest.raises(CapacityError) as raised:
            await service.check_moving(7)
        assert (raised.value.code, raised.value.retry_after_s) == ("moving", 1)
        here = cast(PulledStream, SimpleNamespace(id=7))
        service._fetched, service.pulled._streams = {7: here}, {7: here}
        await service.check_moving(7)  # it is somebody else's, who asks is not told that it is

    one_of_several(act, member=Placing(knows=True))


def test_streams_of_a_replica_have_numbers_of_their_own() -> None:
    async def act(service: ClusterService) -> tuple[int, int]:
        service.engine.check_room = lambda *_, **__: None  # type: ignore[method-assign]
        return service.engine.admit("latest", 1.0), service.engine.admit("latest", 1.0, number=7)

    assert one_of_several(act) == (3 * RANGE + 1, 7)


def test_a_token_names_its_replica_and_our_clients_ask_for_that() -> None:
    session = cast(Session, SimpleNamespace())
    alone = ResumableStreams(15, Metrics()).add(session, ())
    assert "." not in alone.token
    there = ResumableStreams(15, Metrics(), "x1y2").add(session, ())
    home, _, secret = there.token.partition(".")
    assert (home, len(secret)) == ("x1y2", len(alone.token))
    assert _ws("http://host:8000", there.token) == "ws://host:8000/v1/streams/ws?replica=x1y2"
    assert _ws("https://host", alone.token) == _ws("https://host") == "wss://host/v1/streams/ws"
    query = _ws("http://host", there.token).partition("?")[2].encode()
    assert asked_of({"type": "websocket", "path": "/v1/streams/ws", "query_string": query}).replica == "x1y2"
