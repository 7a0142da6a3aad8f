"""What one replica answers for all of them, with others that are made up; and what names a replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import Request

from stmixer.service.access import Caller
from stmixer.service.api import events, pulled
from stmixer.service.api.service import Service
from stmixer.service.client import _ws
from stmixer.service.cluster import ages
from stmixer.service.cluster.choice import asked_of
from stmixer.service.cluster.member import Member
from stmixer.service.cluster.orders import Order, PullRefusal
from stmixer.service.cluster.placing import RANGE
from stmixer.service.cluster.service import ClusterService, Replies
from stmixer.service.cluster.tokens import SharedAccess
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.store import Wanted
from stmixer.service.key_file import Key
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import DrawProgress, PullOrder, RunningStream, Summary
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.sessions.resume import ResumableStreams
from stmixer.service.sessions.session import Session
from stmixer.service.settings import Settings


class Placing:
    """A member whose coordinator has one answer."""

    name = "x1y2"

    def __init__(self, answer: PullRefusal | str = "", knows: bool = False) -> None:
        self.answer, self._knows = answer, knows
        self.asked_for: list[tuple[str, str]] = []
        self.orders: tuple[Order, ...] = ()
        self.changed: list[tuple[int, str]] = []
        self.forgotten: list[tuple[int, str, bool]] = []

    async def place(self, text: str, owner: str) -> PullRefusal | str:
        self.asked_for.append((text, owner))
        return self.answer

    async def knows(self, number: int, owner: str, *, sees_all: bool) -> bool:
        return self._knows and number == 7 and (sees_all or owner == "me")

    async def placed(self, owner: str, *, sees_all: bool) -> tuple[Order, ...]:
        return self.orders

    async def change(self, number: int, text: str) -> bool:
        self.changed.append((number, text))
        return number != 9

    async def forget(self, number: int, owner: str, *, sees_all: bool) -> bool:
        self.forgotten.append((number, owner, sees_all))
        return number == 7


def one_of_several(
    act: Callable[[ClusterService], Any], told: dict[str, list[Any]] | None = None, member: Placing | None = None
) -> Any:
    """What comes of it, with what all replicas say to each verb."""

    async def ask(verb: str, *arguments: Any, **named: Any) -> Replies:
        return Replies((told or {})[verb], 1)

    async def play() -> Any:
        settings = Settings(model="tiny", device="cpu")
        access = SharedAccess(None, b"secret")
        return await act(ClusterService(settings, cast(Member, member or Placing()), 3, access, ask, late_s=3.0))

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


def test_a_stream_that_is_nowhere_is_listed() -> None:
    member = Placing()
    orders = [Order(7, "{}", ""), Order(8, '{"url":"rtsp://me:secret@8.8.8.8/door","name":"door"}', "")]
    member.orders = tuple(orders)
    told = {"list_streams": [[running(12)], [running(7)]]}
    streams = one_of_several(lambda service: service.all_running(service.access.nobody), told, member)
    assert [(stream.id, stream.pulled and stream.pulled.code) for stream in streams] == [
        ("7", None), ("8", "moving"), ("12", None),
    ]  # fmt: skip
    waits = streams[1].pulled
    assert (waits.name, waits.state, waits.url) == ("door", "connecting", "rtsp://8.8.8.8/door")


def test_one_that_is_nowhere_can_be_ended() -> None:
    member = Placing()

    async def act(service: ClusterService) -> tuple[bool, bool]:
        ends = await service.end_waiting(7, service.access.nobody), await service.end_waiting(8, service.access.nobody)
        service._fetched, service.pulled._streams = here(7), {7: here(7)[7][1]}
        assert not await service.end_waiting(7, service.access.nobody), "it is here, and somebody else's"
        return ends

    assert one_of_several(act, member=member) == (True, False)
    assert member.forgotten == [(7, "", True), (8, "", True)]


def here(number: int, text: str = "{}") -> dict[int, tuple[Order, PulledStream]]:
    """A stream that is fetched."""
    return {number: (Order(number, text, ""), cast(PulledStream, SimpleNamespace(id=number, is_over=number == 5)))}


def test_rules_that_are_set_go_with_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def set_here(self: Service, session: Session, rules: Any) -> None:
        assert session.stream.id in (7, 8, 9)

    monkeypatch.setattr(Service, "set_rules", set_here)
    member = Placing()
    rule = Rule(id="r", label="fall")

    async def act(service: ClusterService) -> None:
        service._fetched = here(7, '{"url":"rtsp://8.8.8.8/door","loop":false}') | here(9, '{"url":"rtsp://8.8.8.8/"}')
        for number in (7, 8):
            await service.set_rules(cast(Session, SimpleNamespace(stream=SimpleNamespace(id=number))), [rule])
        with pytest.raises(CapacityError, match="moves"):
            await service.set_rules(cast(Session, SimpleNamespace(stream=SimpleNamespace(id=9))), [rule])

    one_of_several(act, member=member)
    assert [number for number, _ in member.changed] == [7, 9]
    order = PullOrder.model_validate_json(member.changed[0][1])
    assert (order.url, order.rules) == ("rtsp://8.8.8.8/door", (rule,))
    assert set(json.loads(member.changed[0][1])) == {"url", "loop", "rules"}


def test_one_that_begins_anew_needs_no_coordinator_for_the_rules_that_it_has() -> None:
    member, rule = Placing(), Rule(id="r", person=True)

    async def act(service: ClusterService) -> Sequence[Rule]:
        service._fetched = here(9, '{"url":"rtsp://8.8.8.8/door"}')  # it should not run here
        stream = SimpleNamespace(id=9, schedule=SimpleNamespace(period_us=1_000_000))
        session = SimpleNamespace(stream=stream, caller=service.access.nobody, watched=None, close=asyncio.sleep)
        session.be_watched = lambda watched, on_end: setattr(session, "watched", watched)
        cast(Any, service.engine.models).of = lambda _: SimpleNamespace(info=SimpleNamespace(labels=()))
        await service._watch(cast(Session, session), None, [rule])
        await service.events.stop()
        return cast(Sequence[Rule], session.watched.own)

    assert one_of_several(act, member=member) == (rule,)
    assert member.changed == []


@pytest.mark.parametrize("lasts", [False, True])
def test_a_file_that_is_missing_ends_no_stream_that_lasts(tmp_path: Path, lasts: bool) -> None:
    """Of that it is the state; what is new is refused."""

    async def act(service: ClusterService) -> str:
        service.settings = service.settings.model_copy(update={"allow_files": tmp_path})

        async def begin(caller: Any, order: PullOrder, terms: Any, number: int | None = None) -> PulledStream:
            told = SimpleNamespace(model_dump_json=lambda: f"stream {number}")
            return cast(PulledStream, SimpleNamespace(id=number, running=lambda: told))

        service._begin_pull = begin  # type: ignore[method-assign]
        return await service.fetch(Order(7, '{"url":"file:gone.mp4"}', "", lasts=lasts))

    if lasts:
        assert one_of_several(act) == "stream 7"
    else:
        with pytest.raises(InputError, match="no such file"):
            one_of_several(act)


def test_a_stream_that_moves_is_not_gone_for_its_rules_and_is_ended_wherever() -> None:
    async def act(service: ClusterService) -> int:
        state = SimpleNamespace(caller=service.access.nobody)
        request = cast(
            Request, SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(service=service)), state=state)
        )
        with pytest.raises(CapacityError, match="moves"):
            await events.rules(request, 7)
        with pytest.raises(InputError, match="no such live stream"):
            await events.rules(request, 8)
        with pytest.raises(InputError, match="no such stream"):
            await pulled.end(request, 8)
        return (await pulled.end(request, 7)).status_code

    assert one_of_several(act, member=Placing(knows=True)) == 204


def test_what_has_come_to_its_end_is_told() -> None:
    async def act(service: ClusterService) -> frozenset[int]:
        service._fetched = here(5) | here(7)
        return service.over

    assert one_of_several(act) == {5}


def test_what_all_measure_is_told() -> None:
    told = {"scrape": [("b", "# TYPE x gauge\nx 2\n"), ("a", "# TYPE x gauge\nx 1\n")]}
    measured = one_of_several(lambda service: service.measured("application/openmetrics-text"), told)
    assert [line for line in measured.text.decode().splitlines() if line[0] != "#"] == [
        'x{replica="a"} 1', 'x{replica="b"} 2', "stmixer_replicas_unanswered 1.0",
    ]  # fmt: skip
    assert measured.content_type.startswith("text/plain; version=0.0.4")


def test_walls_that_machines_lack_are_told_with_whose_they_are() -> None:
    told = {"list_walls": [("b", ("landlock: no",)), ("a", ("seccomp: no", "seal: no")), ("c", ())]}
    walls = one_of_several(lambda service: service.all_missing_walls(), told)
    assert walls == ("a: seccomp: no", "a: seal: no", "b: landlock: no")


def test_a_drawing_is_found_wherever_it_is_and_by_its_own_key_alone() -> None:
    far = DrawProgress(done_s=2.5, duration_s=9.0).model_dump_json()
    there = {"find_drawing": ["", far]}

    async def other(service: ClusterService) -> DrawProgress:
        return await service.drawn_so_far("r1", service.access.caller(None))

    assert one_of_several(other, there) == DrawProgress(done_s=2.5, duration_s=9.0)

    async def here(service: ClusterService) -> tuple[DrawProgress, str, str, str]:
        anyone = service.access.caller(None)
        async with service.drawings.one_more("r1", anyone) as one:
            one.come(1.0, None)
            told = await service.drawn_so_far("r1", anyone)  # nobody else is asked
            found = service.drawing_found("r1", ""), service.drawing_found("r2", "")
            one.caller = Caller(Key(sha256="f" * 64, name="f", scopes=("detect",)))
            assert service.drawing_found("r1", "0" * 64) == "", "a key that is not known here"
            return told, *found, service.drawing_found("r1", "")

    told, found, none, anothers = one_of_several(here, {})
    assert (told, found) == (DrawProgress(done_s=1.0, duration_s=None), '{"done_s":1.0,"duration_s":null}')
    assert none == anothers == ""


def test_a_drawing_that_is_nowhere_is_not_there_and_may_be_where_nobody_answers() -> None:
    async def act(service: ClusterService) -> DrawProgress:
        return await service.drawn_so_far("r1", service.access.nobody)

    with pytest.raises(CapacityError, match="does not answer"):  # ``one_of_several`` has one that does not
        one_of_several(act, {"find_drawing": ["", ""]})

    async def all_answer(service: ClusterService) -> DrawProgress:
        async def ask(verb: str, *_: Any) -> Replies:
            return Replies(["", ""])

        service._ask = ask
        return await service.drawn_so_far("r1", service.access.nobody)

    with pytest.raises(InputError) as missing:
        one_of_several(all_answer)
    assert (missing.value.code, missing.value.status) == ("not_found", 404)


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
    assert [(PullOrder.model_validate_json(text), owner) for text, owner in member.asked_for] == [(order, "")]


def test_what_may_not_be_fetched_is_refused_before_anybody_is_asked() -> None:
    member = Placing()
    for url in ("file:walk.mp4", "rtsp://127.0.0.1/door"):
        order = PullOrder(url=url)
        with pytest.raises(InputError):
            one_of_several(
                lambda service, order=order: service.begin_pulled(service.access.nobody, order), member=member
            )
    assert member.asked_for == []


def test_a_stream_that_moves_is_not_gone() -> None:
    async def act(service: ClusterService) -> None:
        await service.check_moving(8, service.access.nobody)
        with pytest.raises(CapacityError) as raised:
            await service.check_moving(7, service.access.nobody)
        assert (raised.value.code, raised.value.retry_after_s) == ("moving", 1)
        stranger = Caller(Key(name="you", sha256="b" * 64, scopes=("stream",)))
        await service.check_moving(7, stranger)  # who asks for somebody else's is not told that it is
        service._fetched, service.pulled._streams = here(7), {7: here(7)[7][1]}
        await service.check_moving(7, service.access.nobody)

    one_of_several(act, member=Placing(knows=True))


def test_it_is_late_where_its_keyframes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ages, "OVER_S", 0.0)

    async def act(service: ClusterService) -> None:
        for seconds, late in ((2.0, False), (9.0, True)):
            service.metrics.keyframe_age.labels("ws").observe(seconds)
            assert service.late == late
            assert service.keyframe_age_s >= seconds, "each looks for itself"

    one_of_several(act)


def test_streams_of_a_replica_have_numbers_of_their_own() -> None:
    async def act(service: ClusterService) -> tuple[int, int]:
        service.engine.entry.check_room = lambda *_, **__: None  # type: ignore[method-assign]
        return service.engine.entry.admit("latest", 1.0), service.engine.entry.admit("latest", 1.0, number=7)

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
