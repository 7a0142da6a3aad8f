"""A default model that running streams cannot go on with: live ones begin anew where that is asked for, and are told.

The whole application in this process, with real decoders; workers are played, who have seen nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from cameras import says
from conftest import OWN_CLIPS
from posting import conserved
from scenes import person, result
from starlette.types import ASGIApp
from ws_client import jpeg, prefixed

from stmixer.model.labels import AVA_LABELS
from stmixer.model.zoo import variant
from stmixer.service.api.app import create_app
from stmixer.service.api.service import Service
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.worker import Worker
from stmixer.service.event_schemas import Rule
from stmixer.service.events.watched import WatchedStream
from stmixer.service.ipc.channel import Received
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import (
    AttachRing,
    BatchDone,
    DetachRing,
    RunBatch,
    StageSeconds,
    WindowsCopied,
    WorkerOptions,
)
from stmixer.service.ipc.ring import Ring, RingShape
from stmixer.service.schemas import PullOrder
from stmixer.service.sessions import pulled_stream
from stmixer.service.sessions.backlog import Said
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.settings import Settings
from stmixer.service.sources.pictures import PictureSource

TINY = ModelInfo(variant("tiny"), AVA_LABELS, False, None, None, None, None, "cpu")
FEWER = replace(TINY, labels=TINY.labels[:3])
THIRD = replace(TINY, labels=TINY.labels[1:4])
OTHERS = {"other": FEWER, "third": THIRD}
"""By the names of their files."""
TAKEN_WITH = {"weights": "other.safetensors", "default": True, "streams": "restart"}
FILE = {"url": "file:walk.mp4", "loop": True, "keyframe_hz": 4}


@dataclass
class StandIn:
    """In a worker's place. ``answers``: until that is set it keeps what it is given."""

    answers: asyncio.Event
    runs: list[asyncio.Task[None]] = field(default_factory=list)
    rings: dict[int, Ring] = field(default_factory=dict)
    says: asyncio.Queue[Received | None] = field(default_factory=asyncio.Queue)
    pid: int = 1

    @property
    def channel(self) -> StandIn:
        return self

    async def send(self, message: object, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        match message:
            case AttachRing(stream, width, height, capacity):
                self.rings[stream] = Ring(os.dup(fds[0]), RingShape(width, height, capacity), writable=False)
            case DetachRing(stream):
                self.rings.pop(stream, None)
            case RunBatch():
                self.runs = [asyncio.create_task(self._run(message))]

    async def _run(self, batch: RunBatch) -> None:
        await self.answers.wait()
        rings = [self.rings.get(job.stream) for job in batch.jobs]
        read = [ring and ring.read(job.slots, job.generations) for ring, job in zip(rings, batch.jobs, strict=True)]
        stale = tuple(place for place, frames in enumerate(read) if frames is None)
        found = tuple(None if frames is None else () for frames in read)
        self.says.put_nowait(Received(WindowsCopied(batch.id, stale)))
        self.says.put_nowait(Received(BatchDone(batch.id, found, StageSeconds(0.0, 0.0, 0.0), 0)))

    async def receive(self) -> Received | None:
        return await self.says.get()

    def end_now(self) -> None:
        self.says.put_nowait(None)

    async def end(self, timeout_s: float = 0) -> int:
        self.end_now()
        return 0


class Socket:
    """A client's, without a server between it and the application."""

    def __init__(self, app: ASGIApp) -> None:
        scope = {
            "type": "websocket", "path": "/v1/streams/ws", "raw_path": b"/v1/streams/ws", "query_string": b"",
            "root_path": "", "scheme": "ws", "headers": [(b"host", b"127.0.0.1")], "subprotocols": ["stmixer.v1"],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {}, "asgi": {"version": "3.0"},
        }  # fmt: skip
        self._in, self._out = asyncio.Queue[dict[str, Any]](), asyncio.Queue[dict[str, Any]]()
        self._in.put_nowait({"type": "websocket.connect"})
        self.told: list[dict[str, Any]] = []
        self._running = asyncio.create_task(app(scope, self._in.get, self._out.put))  # type: ignore[arg-type]

    def say(self, **message: Any) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def picture(self, number: int) -> None:
        """At its own time, 15 a second."""
        data = prefixed(number * 1_000_000 // 15, jpeg(number))
        self._in.put_nowait({"type": "websocket.receive", "bytes": data})

    async def hears(self, kind: str) -> dict[str, Any]:
        """The next message of a kind, or ``close`` with its code."""
        async with asyncio.timeout(30):
            while True:
                message = await self._out.get()
                if message["type"] == "websocket.send":
                    self.told.append(json.loads(message["text"]))
                elif message["type"] == "websocket.close":
                    self.told.append({"type": "close", "code": message["code"], "reason": message["reason"]})
                else:
                    continue
                if self.told[-1]["type"] == kind:
                    return self.told[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["type"] == kind]

    async def is_lost(self) -> None:
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await self._running


@dataclass
class House:
    service: Service
    app: ASGIApp
    http: httpx.AsyncClient
    answers: asyncio.Event

    async def asked(self, method: str, path: str, expect: int, **json_body: Any) -> Any:
        answer = await self.http.request(method, path, json=json_body or None)
        assert answer.status_code == expect, answer.text
        return answer.json() if answer.content else None

    async def pulled(self, **more: Any) -> PulledStream:
        begun = await self.asked("POST", "/v1/streams", 201, **FILE, **more)
        (stream,) = [stream for stream in self.service.pulled.all() if str(stream.id) == begun["id"]]
        return stream

    async def loaded(self, *names: str) -> None:
        """They can serve, beside the default."""
        for name in names:
            await self.asked("POST", "/v1/models", 202, weights=f"{name}.safetensors", default=False)
        await _until(lambda: all(model.state == "ready" for model in self.service.engine.models.all[1:]))

    async def default_is(self, name: str) -> None:
        await _until(lambda: self.service.engine.models.default.name == name)


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, folder: Path) -> AsyncIterator[House]:
    answers = asyncio.Event()
    answers.set()

    async def start(name: str, module: str, options: WorkerOptions) -> Worker:
        info = TINY if options.weights is None else OTHERS[Path(options.weights).stem]
        return Worker(name, cast(Child, StandIn(answers)), info, {1: 0.01})

    monkeypatch.setattr(Worker, "start", start)
    for name in OTHERS:
        (folder / f"{name}.safetensors").write_bytes(name.encode())
    settings = Settings(
        model="tiny", device="cpu", spare_workers=0, idle_decoders=0, max_streams=8, weights_dir=folder,
        allow_files=OWN_CLIPS,
    )  # fmt: skip
    service = Service(settings)
    await service.start()
    app = create_app(service)
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield House(service, app, http, answers)
    finally:
        await service.stop()


def played(monkeypatch: pytest.MonkeyPatch, folder: Path, act: Callable[[House], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.timeout(60), running(monkeypatch, folder) as house:
            await act(house)

    asyncio.run(play())


def said(stream: PulledStream) -> list[Said]:
    """All that it has said so far."""
    return list(stream.backlog._kept)


def counted(summary: dict[str, Any]) -> None:
    conserved(summary)
    assert summary["pending"] == 0
    assert (summary["error"], summary["worker_lost"], summary["cancelled"]) == (0, 0, 0)


def test_a_socket_is_told_gets_all_its_results_and_comes_back_to_the_other_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def act(house: House) -> None:
        first = Socket(house.app)
        start = {"type": "start", "policy": "all", "timestamps": "prefix", "keyframe_hz": 5, "lookahead_ms": 0}
        first.say(**start)
        ready = await first.hears("ready")
        assert (ready["model"], len(ready["labels"])) == ("tiny", len(TINY.labels))
        for number in range(30):
            first.picture(number)
        while len(first.of("result")) < 5:
            await first.hears("result")
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        close = await first.hears("close")
        assert (close["code"], close["reason"]) == (1012, "another model serves: connect again")
        (warning,) = first.of("warning")
        assert warning["code"] == "model_changed"
        assert warning["message"] == "other serves now, and cannot go on with this stream: connect again"
        assert [message["type"] for message in first.told[-2:]] == ["summary", "close"]
        summary, results = first.told[-2], first.of("result")
        counted(summary)
        assert summary["received"] == 30
        assert [result["seq"] for result in results] == list(range(summary["keyframes_due"])) == list(range(10))
        assert {result["model"] for result in results} == {"tiny"}
        assert not first.of("error")
        assert not house.service.engine.streams

        again = Socket(house.app)
        again.say(**start, resume_token=ready["resume_token"])
        anew = await again.hears("ready")
        assert (anew["model"], [label["id"] for label in anew["labels"]]) == ("other", [x.id for x in FEWER.labels])
        assert anew["session_id"] != ready["session_id"]
        for number in range(4):
            again.picture(number)
        result = await again.hears("result")
        assert (result["seq"], result["model"]) == (0, "other")
        assert [warning["code"] for warning in again.of("warning")] == ["resume_expired"]
        again.say(type="stop")
        assert (await again.hears("close"))["code"] == 1000
        counted(again.of("summary")[0])

    played(monkeypatch, tmp_path, act)


def test_who_was_away_comes_back_to_the_stream_and_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def act(house: House) -> None:
        first = Socket(house.app)
        start = {"type": "start", "policy": "all", "timestamps": "prefix", "keyframe_hz": 5, "lookahead_ms": 0}
        first.say(**start)
        ready = await first.hears("ready")
        for number in range(8):
            first.picture(number)
        await first.hears("result")
        await first.is_lost()
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        await house.default_is("other")
        again = Socket(house.app)
        again.say(**start, resume_token=ready["resume_token"])
        back = await again.hears("ready")
        assert (back["session_id"], back["model"]) == (ready["session_id"], "tiny")
        assert (await again.hears("close"))["code"] == 1012
        assert [warning["code"] for warning in again.of("warning")] == ["model_changed"]
        counted(again.of("summary")[0])
        assert not house.service.engine.streams

    played(monkeypatch, tmp_path, act)


def test_without_a_word_sockets_and_pulled_streams_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def act(house: House) -> None:
        stream, socket = await house.pulled(), Socket(house.app)
        socket.say(type="start", policy="all", timestamps="prefix", keyframe_hz=5, lookahead_ms=0)
        await socket.hears("ready")
        await house.asked("POST", "/v1/models", 202, weights="other.safetensors", default=True)
        await house.default_is("other")
        for number in range(15):
            socket.picture(number)
        for _ in range(3):
            assert (await socket.hears("result"))["model"] == "tiny"
        newest = said(stream)[-1].number if said(stream) else 0
        await says(stream, "result", after=newest, model="tiny")
        assert not [message for message in said(stream) if message.kind in ("restarted", "warning", "summary")]
        socket.say(type="stop")
        assert (await socket.hears("close"))["code"] == 1000
        # and later on by choice, though it is the default already
        told = await house.asked("POST", "/v1/models/other/default", 200, streams="restart")
        assert told["default"] is True
        assert json.loads((await says(stream, "restarted")).text)["model"] == "other"

    played(monkeypatch, tmp_path, act)


def test_a_pulled_stream_begins_anew_by_itself_and_whoever_follows_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule = {"id": "somebody", "person": True, "count": {"min": 1}}

    async def act(house: House) -> None:
        service = house.service
        stream = await house.pulled(name="door", rules=[rule])
        number, caller = stream.id, stream.session.caller
        await says(stream, "result", after=said(stream)[-1].number if said(stream) else 0)
        picture = await stream.preview.newest()
        former = stream.session
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        restarted = await says(stream, "restarted")
        message = json.loads(restarted.text)
        assert message["model"] == "other"
        assert [label["id"] for label in message["labels"]] == [label.id for label in FEWER.labels]
        counted(message["summary"])
        after = await says(stream, "result", after=restarted.number)
        assert (json.loads(after.text)["seq"], json.loads(after.text)["model"]) == (0, "other")
        before = [json.loads(one.text) for one in said(stream) if one.number < restarted.number]
        results = [one for one in before if one["type"] == "result"]
        assert {one["model"] for one in results} == {"tiny"}
        displaced = service.metrics.registry.get_sample_value("stmixer_results_dropped_total", {"transport": "pull"})
        assert len(results) + int(displaced or 0) == message["summary"]["ok"]
        assert [one.kind for one in said(stream)].count("summary") == 0

        assert (stream.id, caller.streams, list(service.engine.streams)) == (number, 1, [number])
        assert stream.session is not former
        service.engine.remove(former.stream)  # whose number is another's now
        assert service.engine.streams[number] is stream.session.stream
        (listed,) = (await house.asked("GET", "/v1/streams", 200))["streams"]
        assert (listed["id"], listed["pulled"]["name"], listed["pulled"]["state"]) == (str(number), "door", "live")
        rules = await house.asked("GET", f"/v1/streams/{number}/rules", 200)
        assert [one["id"] for one in rules["rules"]] == ["somebody"]
        assert picture
        assert await stream.preview.newest()
        assert stream.preview._stream is stream.session.stream

        await house.asked("DELETE", f"/v1/streams/{number}", 204)
        assert (caller.streams, service.engine.streams) == (0, {})
        last = said(stream)[-1]
        assert last.kind == "summary"
        conserved(json.loads(last.text)["summary"])

    played(monkeypatch, tmp_path, act)


def test_it_stays_where_its_rules_name_what_the_other_model_does_not_know(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule = {"id": "last", "label": TINY.labels[-1].name}

    async def act(house: House) -> None:
        stream = await house.pulled(rules=[rule])
        await says(stream, "result")
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        warning = json.loads((await says(stream, "warning", code="model_kept")).text)
        assert warning["message"].startswith("other serves now, and this stream stays as it is: rule 'last': the model")
        await says(stream, "result", after=said(stream)[-1].number, model="tiny")
        assert "restarted" not in [one.kind for one in said(stream)]

    played(monkeypatch, tmp_path, act)


def test_one_whose_model_is_the_default_again_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def act(house: House) -> None:
        stream, engine, socket = await house.pulled(), house.service.engine, Socket(house.app)
        socket.say(type="start", policy="all", timestamps="prefix", keyframe_hz=5, lookahead_ms=0)
        await socket.hears("ready")
        (session,) = [session for session in house.service._running() if session.stream.source == "ws"]
        await says(stream, "result")
        await house.loaded("other")
        await engine.make_default("other", restart=True)
        await engine.make_default("tiny", restart=True)  # before anybody has come to it
        assert stream.session.outdated.is_set()
        assert session.outdated.is_set()
        await _until(lambda: not session.outdated.is_set())
        await engine.make_default("other")  # which is no reason to begin anew
        await says(stream, "result", after=said(stream)[-1].number, model="tiny")
        assert not stream.session.outdated.is_set()
        assert "restarted" not in [one.kind for one in said(stream)]
        socket.say(type="stop")
        assert (await socket.hears("close"))["code"] == 1000
        assert not socket.of("warning")

    played(monkeypatch, tmp_path, act)


@pytest.mark.parametrize("restart", [False, True], ids=["keep", "forbidden"])
def test_what_was_to_begin_anew_stays_with_a_default_that_it_is_not_to_begin_anew_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restart: bool
) -> None:
    rules = [{"id": "first", "label": TINY.labels[0].name}] * restart

    async def act(house: House) -> None:
        engine, stream, socket = house.service.engine, await house.pulled(rules=rules), Socket(house.app)
        socket.say(type="start", policy="all", timestamps="prefix", keyframe_hz=5, lookahead_ms=0, rules=rules)
        await socket.hears("ready")
        (session,) = [session for session in house.service._running() if session.stream.source == "ws"]
        await says(stream, "result")
        await house.loaded("other", "third")
        await engine.make_default("other", restart=True)
        assert stream.session.outdated.is_set()
        assert session.outdated.is_set()
        await engine.make_default("third", restart=restart)  # before anybody has come to it
        assert not stream.session.outdated.is_set()
        assert not session.outdated.is_set()
        await says(stream, "result", after=said(stream)[-1].number, model="tiny")
        assert "restarted" not in [one.kind for one in said(stream)]
        if restart:
            assert (await socket.hears("warning"))["code"] == "model_kept"
        socket.say(type="stop")
        assert (await socket.hears("close"))["code"] == 1000

    played(monkeypatch, tmp_path, act)


@pytest.mark.parametrize("change", ["default", "rules"])
def test_one_whose_rules_do_not_fit_once_it_begins_anew_stays_with_its_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    """They did when it was told: another default has come, or other rules, while its last results were awaited."""
    first, last = {"id": "first", "label": TINY.labels[0].name}, {"id": "last", "label": TINY.labels[-1].name}

    async def act(house: House) -> None:
        stream = await house.pulled(rules=[first])
        await says(stream, "result")
        await house.loaded("other", "third")
        house.answers.clear()
        await _leased(stream)
        await house.asked("POST", "/v1/models/other/default", 200, streams="restart")
        await _until(lambda: stream.session.stream.ended)
        if change == "default":
            await house.asked("POST", "/v1/models/third/default", 200, streams="restart")
        else:
            await house.asked("PUT", f"/v1/streams/{stream.id}/rules", 200, rules=[last])
        house.answers.set()
        restarted = await says(stream, "restarted")
        assert json.loads(restarted.text)["model"] == "tiny"
        counted(json.loads(restarted.text)["summary"])
        warning = json.loads((await says(stream, "warning", after=restarted.number)).text)
        assert warning["code"] == "model_kept"
        name = "third" if change == "default" else "other"
        assert warning["message"].startswith(f"{name} serves now, and this stream stays as it is: rule ")
        await says(stream, "result", after=restarted.number, model="tiny", seq=0)
        (listed,) = (await house.asked("GET", "/v1/streams", 200))["streams"]
        assert (listed["id"], listed["pulled"]["state"]) == (str(stream.id), "live")
        rules = await house.asked("GET", f"/v1/streams/{stream.id}/rules", 200)
        assert [rule["id"] for rule in rules["rules"]] == [(first if change == "default" else last)["id"]]
        # and is no more bound to its model than others that stay
        await house.asked("PUT", f"/v1/streams/{stream.id}/rules", 200, rules=[])
        await house.asked("POST", "/v1/models/other/default", 200, streams="restart")
        again = await says(stream, "restarted", after=restarted.number)
        assert json.loads(again.text)["model"] == "other"

    played(monkeypatch, tmp_path, act)


def test_rules_that_come_while_it_begins_anew_are_its_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new = {"id": "old", "person": True}, {"id": "new", "person": True}

    async def act(house: House) -> None:
        events, stream = house.service.events, await house.pulled(rules=[old])
        set_rules, begun, go_on = events.set_rules, asyncio.Event(), asyncio.Event()

        async def slowly(watched: WatchedStream, rules: Sequence[Rule]) -> None:
            await set_rules(watched, rules)
            if not begun.is_set():
                begun.set()
                await go_on.wait()

        await says(stream, "result")
        monkeypatch.setattr(events, "set_rules", slowly)
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        await begun.wait()
        order = PullOrder.model_validate(FILE | {"rules": [new]})
        await house.service._change_filed(stream, order)  # as a file of streams says
        go_on.set()
        await says(stream, "restarted")
        rules = await house.asked("GET", f"/v1/streams/{stream.id}/rules", 200)
        assert [rule["id"] for rule in rules["rules"]] == ["new"]

    played(monkeypatch, tmp_path, act)


def test_cool_downs_and_numbers_of_people_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rule = {"id": "somebody", "person": True, "for_s": 0, "clear_s": 0, "cooldown_s": 3600}

    async def act(house: House) -> None:
        stream, now_us = await house.pulled(rules=[rule]), time.time_ns() // 1000
        former, events = stream.session, house.service.events
        assert former.watched is not None
        former.watched.see(result(0, person(7), since_us=now_us))
        former.watched.see(result(1, since_us=now_us))
        former.stream.tracks.last_id = 7
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        await says(stream, "restarted")
        watched = stream.session.watched
        assert watched is not None
        assert watched is not former.watched
        assert (watched.first_track, stream.session.stream.tracks.last_id) == (7, 7)
        watched.see(result(100, person(8), since_us=now_us))
        await events.flush()
        (event,) = (await house.asked("GET", "/v1/events", 200))["events"]
        assert (event["track_id"], event["state"]) == (7, "end")
        watched.see(result(101, since_us=now_us))
        watched.see(result(3800, person(9), since_us=now_us))
        await events.flush()
        assert [one["track_id"] for one in (await house.asked("GET", "/v1/events", 200))["events"]] == [9, 7]

    played(monkeypatch, tmp_path, act)


def test_who_stops_after_all_has_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Told that another model serves, it says ``stop``; whatever else it says is not heard."""
    ended, go_on = PictureSource.ended, asyncio.Event()

    async def in_time(source: PictureSource) -> None:
        await go_on.wait()
        await ended(source)

    monkeypatch.setattr(PictureSource, "ended", in_time)

    async def act(house: House) -> None:
        socket = Socket(house.app)
        socket.say(type="start", policy="all", timestamps="prefix", keyframe_hz=5, lookahead_ms=0)
        await socket.hears("ready")
        for number in range(4):
            socket.picture(number)
        await socket.hears("result")
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        assert (await socket.hears("warning"))["code"] == "model_changed"
        socket.picture(4)
        socket.say(type="nonsense")
        socket.say(type="stop")
        await _until(socket._in.empty)
        go_on.set()
        close = await socket.hears("close")
        assert (close["code"], close["reason"]) == (1000, "stopped")
        counted(socket.of("summary")[0])

    played(monkeypatch, tmp_path, act)


def test_what_no_worker_answers_is_called_off_in_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pulled_stream, "LAST_RESULTS_S", 0.05)

    async def act(house: House) -> None:
        stream = await house.pulled()
        await says(stream, "result")
        house.answers.clear()
        await _leased(stream)
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        restarted = await says(stream, "restarted")
        summary = json.loads(restarted.text)["summary"]
        conserved(summary)
        assert summary["cancelled"] > 0
        house.answers.set()
        await says(stream, "result", after=restarted.number, model="other", seq=0)

    played(monkeypatch, tmp_path, act)


def test_it_can_be_ended_while_it_waits_for_its_last_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def act(house: House) -> None:
        stream = await house.pulled()
        caller = stream.session.caller
        await says(stream, "result")
        house.answers.clear()
        await _leased(stream)
        await house.asked("POST", "/v1/models", 202, **TAKEN_WITH)
        await _until(lambda: stream.session.stream.ended)
        assert caller.streams == 1
        await house.asked("DELETE", f"/v1/streams/{stream.id}", 204)
        assert [one.kind for one in said(stream)][-1] == "summary"
        conserved(json.loads(said(stream)[-1].text)["summary"])
        assert "restarted" not in [one.kind for one in said(stream)]
        assert (caller.streams, house.service.engine.streams) == (0, {})

    played(monkeypatch, tmp_path, act)


def test_what_is_asked_for_has_to_make_sense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def act(house: House) -> None:
        said = await house.asked("POST", "/v1/models", 422, weights="other.safetensors", streams="restart")
        assert (said["code"], said["detail"]) == ("bad_option", "streams: restart goes with default: true")
        await house.asked("POST", "/v1/models", 422, weights="other.safetensors", default=True, streams="end")
        await house.asked("POST", "/v1/models/tiny/default", 422, streams="end")
        assert [model.name for model in house.service.engine.models.all] == ["tiny"]
        assert (await house.asked("POST", "/v1/models/tiny/default", 200))["default"] is True

    played(monkeypatch, tmp_path, act)


async def _leased(stream: PulledStream) -> None:
    """Until a worker has a keyframe of it."""
    await _until(lambda: any(p.state in ("copying", "running") for p in stream.session.stream._in_order))


async def _until(look: Callable[[], bool]) -> None:
    for _ in range(2000):
        if look():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come")
