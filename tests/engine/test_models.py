"""Models side by side: loaded while others serve, made the default, rolled back, forgotten; what becomes of streams."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_engine import NO_SECONDS, OPENED, TINY, Played
from test_stream import Camera

from stmixer.model.labels import Label
from stmixer.service.engine.admission import capacity_of
from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.engine import Engine
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.models import MOST_MODELS
from stmixer.service.engine.served import ServedModel
from stmixer.service.engine.stream import Pending
from stmixer.service.engine.watched_file import WatchedFile
from stmixer.service.engine.worker import Batch, Shapes, WeightsSource, Worker
from stmixer.service.errors import InputError, StartError
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
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

OTHERS_LABELS = replace(TINY, labels=TINY.labels[:3])
SMALLER = replace(
    TINY,
    config=replace(
        TINY.config, preprocess=replace(TINY.config.preprocess, short_side=TINY.config.preprocess.short_side - 32)
    ),
)


@dataclass
class Stage:
    """An engine whose workers are played; ``infos``: what they say they are, by what they were told to load."""

    infos: dict[str | None, ModelInfo | Exception]
    engine: Engine = field(init=False)
    played: list[Played] = field(default_factory=list)
    gates: dict[str | None, asyncio.Event] = field(default_factory=dict)
    started: list[str | None] = field(default_factory=list)

    async def start_worker(self, name: str, module: str, options: WorkerOptions) -> Worker:
        """In ``Worker.start``'s place."""
        asked = options.model or options.weights
        if asked in self.gates:
            await self.gates[asked].wait()
        info = self.infos[asked]
        if isinstance(info, Exception):
            raise info
        played = Played()
        self.played.append(played)
        self.started.append(asked)
        return Worker(name, cast(Child, played), info, {1: 0.1})

    async def opened(self, model: str | None = None) -> Camera:
        camera = Camera("all", opened=False)
        camera.stream.options = camera.stream.options.model_copy(update={"model": model})
        camera.stream.id = self.engine.entry.admit("all", 1.0, model)
        self.engine.add(camera.stream)
        await self.engine.opened(camera.stream, OPENED)
        return camera

    def by_model(self) -> dict[str, list[int]]:
        return {
            served.name: sorted(i for seat in served.seats for i in seat.streams) for served in self.engine.models.all
        }

    async def loaded(self, name: str, **more: Any) -> ServedModel:
        """A model that has been loaded, or has failed."""
        served = self.engine.load(name, WeightsSource(name, None), **({"default": False} | more))
        await asyncio.gather(*self.engine.models._loading.values())
        return served

    def finished(self, name: str) -> None:
        """The worker of a model runs the batch that it has."""
        (seat,) = self.engine.models.get(name).seats
        worker = seat.worker
        assert worker is not None
        assert worker.batch is not None
        batch = worker.batch
        self.engine._copied(batch, WindowsCopied(batch.id, ()))
        done = BatchDone(batch.id, ((),) * len(batch.keyframes), NO_SECONDS, 0)
        self.engine.finish(seat, worker, batch, done, b"")


def acted(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Stage], Awaitable[None]], *, spares: int = 0,
    **infos: ModelInfo | Exception,
) -> None:  # fmt: skip
    stage = Stage({None: TINY, **infos})
    monkeypatch.setattr(Worker, "start", stage.start_worker)

    async def run() -> None:
        stage.engine = Engine(
            Settings(max_streams=99, max_batch=1, batch_wait_ms=0, device="cpu", spare_workers=spares), Metrics()
        )
        await stage.engine.models.start()
        await act(stage)
        for stream in list(stage.engine.streams.values()):
            stage.engine.remove(stream)
        await stage.engine.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_one_that_takes_over_has_each_streams_next_keyframe(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        camera = await stage.opened()
        list(camera.run(3.0))
        await stage.engine.step(10.0)
        await stage.loaded("better", default=True)
        assert stage.by_model() == {"tiny": [], "better": [1]}
        old, new = stage.played
        assert [type(order) for order in old.orders] == [AttachRing, RunBatch, DetachRing]
        assert [type(order) for order in new.orders] == [AttachRing]
        await stage.engine.step(10.0)
        assert isinstance(new.orders[-1], RunBatch), "it does not wait for what the other has"
        stage.finished("tiny")
        stage.finished("better")
        results = [pending.result for pending in camera.delivered]
        assert [(result.seq, result.model) for result in results if result is not None] == [(0, "tiny"), (1, "better")]
        assert stage.engine.model is stage.engine.models.get("better").info

    acted(monkeypatch, act, better=TINY)


def test_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        await stage.opened()
        await stage.loaded("better", default=True)
        await stage.opened()
        assert stage.by_model() == {"tiny": [], "better": [1, 2]}
        await stage.engine.make_default("tiny")
        assert stage.by_model() == {"tiny": [1, 2], "better": []}
        assert [(s.name, s.is_default, s.state) for s in stage.engine.models.all] == [
            ("tiny", True, "serving"), ("better", False, "ready"),
        ]  # fmt: skip

    acted(monkeypatch, act, better=TINY)


@pytest.mark.parametrize("other", [OTHERS_LABELS, SMALLER], ids=["labels", "size"])
def test_what_sees_or_tells_otherwise_leaves_what_runs_where_it_is(
    monkeypatch: pytest.MonkeyPatch, other: ModelInfo
) -> None:
    async def act(stage: Stage) -> None:
        await stage.opened()
        await stage.loaded("other", default=True)
        await stage.opened()
        assert stage.by_model() == {"tiny": [1], "other": [2]}
        assert stage.engine.models.get("tiny").state == "serving"
        await stage.loaded("like", default=True)  # like the first
        assert stage.by_model() == {"tiny": [], "other": [2], "like": [1]}

    acted(monkeypatch, act, other=other, like=TINY)


def test_live_streams_that_it_cannot_go_on_with_may_be_told_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what names its model, nor what was posted, nor what is over."""

    async def act(stage: Stage) -> None:
        told = list[int]()
        for source, model in (("ws", None), ("pull", None), ("upload", None), ("ws", "tiny"), ("pull", None)):
            camera = await stage.opened(model)
            camera.stream.source = source  # type: ignore[assignment]
            camera.stream.begin_anew = partial(told.append, camera.stream.id)
        camera.stream.end(0.0)
        await stage.loaded("other", default=True)
        assert told == []
        await stage.engine.make_default("other")
        assert told == []
        await stage.engine.make_default("other", restart=True)  # the default already
        assert told == [1, 2]
        await stage.loaded("another", default=True, restart=True)
        assert told == [1, 2, 1, 2]
        await stage.loaded("like", default=True, restart=True)  # like the first: they move, and none is told
        assert told == [1, 2, 1, 2]
        assert stage.by_model() == {"tiny": [4], "other": [], "another": [], "like": [1, 2, 3, 5]}

    acted(monkeypatch, act, other=OTHERS_LABELS, another=SMALLER, like=TINY)


@pytest.mark.parametrize("restart", [False, True])
def test_a_watched_files_next_model_has_them_told_by_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restart: bool
) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"one")

    async def act(stage: Stage) -> None:
        stage.infos[str(file)] = OTHERS_LABELS
        told, camera = list[int](), await stage.opened()
        camera.stream.source, camera.stream.begin_anew = "ws", partial(told.append, 1)
        watched = WatchedFile(file, stage.engine, restart=restart)
        file.write_bytes(b"another")
        for _ in range(2):
            await watched.look()
        await asyncio.gather(*stage.engine.models._loading.values())
        assert stage.engine.models.default.name == "mine.2"
        assert told == [1] * restart

    acted(monkeypatch, act)


def test_a_stream_that_names_its_model_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        await stage.loaded("better")
        await stage.opened("tiny")
        await stage.opened("better")
        await stage.opened()
        assert stage.by_model() == {"tiny": [1, 3], "better": [2]}
        await stage.engine.make_default("better")
        assert stage.by_model() == {"tiny": [1], "better": [2, 3]}
        with pytest.raises(InputError, match="no model 'best' serves here; there is better, tiny"):
            stage.engine.entry.admit("all", 1.0, "best")

    acted(monkeypatch, act, better=TINY)


def test_one_that_does_not_load_changes_nothing_and_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        await stage.opened()
        served = await stage.loaded("broken", default=True)
        assert (served.state, served.failed) == ("failed", "it is cut short")
        assert stage.by_model() == {"tiny": [1], "broken": []}
        assert stage.engine.models.default.name == "tiny"
        with pytest.raises(InputError, match="no model 'broken' serves here"):
            stage.engine.entry.admit("all", 1.0, "broken")
        with pytest.raises(InputError, match="no model 'broken'"):
            await stage.engine.make_default("broken")
        stage.infos["broken"] = TINY
        assert (await stage.loaded("broken", default=True)).state == "serving"
        assert stage.by_model() == {"tiny": [], "broken": [1]}

    acted(monkeypatch, act, broken=StartError("weights", "it is cut short"))


def test_a_worker_that_follows_loads_the_very_file_that_the_first_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"one")

    async def act(stage: Stage) -> None:
        stage.infos[str(file)] = TINY
        stage.engine.load("mine", WeightsSource(None, file), default=False)
        await asyncio.gather(*stage.engine.models._loading.values())
        assert stage.engine.models.get("mine").digest == hashlib.sha256(b"one").hexdigest()
        file.write_bytes(b"two")
        await stage.engine.make_default("mine")  # which wants a spare
        await _said(caplog, "mine.safetensors is another file than the one that is served")
        assert stage.started.count(str(file)) == 1
        file.write_bytes(b"one")
        (seat,) = stage.engine.models.get("mine").seats
        seat.worker.give_up("exit")  # type: ignore[union-attr]
        await _said(caplog, "exit")
        stage.engine.models.default._supervisors[0]._look.set()
        for _ in range(500):
            if stage.started.count(str(file)) > 1:
                break
            await asyncio.sleep(0.01)
        assert stage.started.count(str(file)) > 1

    acted(monkeypatch, act, spares=1)


def test_one_that_has_lost_its_worker_is_not_taken_for_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        served = await stage.loaded("better")
        assert served.ready
        served.seats[0].worker = None
        assert served.started
        assert not served.ready

    acted(monkeypatch, act, better=TINY)


def test_a_seat_that_does_not_start_takes_the_models_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        order = list[int]()

        async def start_worker(name: str, module: str, options: WorkerOptions) -> Worker:
            order.append(len(order))
            if len(order) == 2:
                raise StartError("worker_failed", "no memory")
            if len(order) == 3:
                await asyncio.sleep(0.05)
            return await stage.start_worker(name, module, options)

        stage.engine.models._settings = stage.engine.settings.model_copy(update={"device": "cuda:0,cuda:1,cuda:2"})
        monkeypatch.setattr(Worker, "start", start_worker)
        served = await stage.loaded("many")
        assert (served.state, served.failed) == ("failed", "no memory")
        await asyncio.sleep(0.1)
        assert not any(played.alive for played in stage.played[1:])
        assert len(stage.played) >= 2

    acted(monkeypatch, act, many=TINY)


def test_capacity_follows_what_is_admitted_and_not_the_load_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that warmed up beside busy ones has measured too little, and then lets in too little to learn better."""

    async def act(stage: Stage) -> None:
        (seat,) = stage.engine.models.get("tiny").seats
        seat.cost, seat._warmup_s, seat.capacity = KeyframeCost({1: 0.08}, 0.0, 8), {1: 0.08}, capacity_of({1: 0.08})
        first = seat.capacity
        for _ in range(first - 1):
            await stage.opened()
        batch = Batch(1, (cast(Pending, None),), 0.0, Shapes(None, 1, 8), 0.0)
        done = BatchDone(1, (), StageSeconds(0.0, 0.04, 0.0), 0)
        for _ in range(200):
            stage.engine._learn(seat, batch, done, 0.04, compiled=False)
        assert seat.capacity == 2 * first

    acted(monkeypatch, act)


def test_what_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        models, registry = stage.engine.models, stage.engine.metrics.registry
        camera = await stage.opened()
        list(camera.run(3.0))
        await stage.engine.step(10.0)
        await stage.loaded("better", default=True)
        with pytest.raises(InputError, match="better is the default"):
            await models.forget("better")
        with pytest.raises(InputError, match="tiny has streams"):  # a batch of one that went over
            await models.forget("tiny")
        stage.finished("tiny")
        assert registry.get_sample_value("stmixer_worker_up", {"worker": "0"}) == 1
        await models.forget("tiny")
        assert not stage.played[0].alive
        assert registry.get_sample_value("stmixer_worker_up", {"worker": "0"}) is None
        assert registry.get_sample_value("stmixer_seat_streams", {"worker": "0"}) is None
        with pytest.raises(InputError) as unknown:
            await models.forget("tiny")
        assert unknown.value.status == 404
        assert registry.get_sample_value("stmixer_worker_restarts_total", {"worker": "0", "reason": "exit"}) == 0
        await stage.loaded("next")
        assert [seat.name for seat in stage.engine.seats] == ["1", "0"], "numbers are used again: labels stay few"

    acted(monkeypatch, act, better=TINY, next=TINY)


def test_rules_may_name_what_any_of_them_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    knits = replace(TINY, labels=(*TINY.labels, Label(999, "knit")))

    async def act(stage: Stage) -> None:
        labels = stage.engine.models.labels
        assert "knit" not in labels
        await stage.loaded("knits")
        assert "knit" in labels
        await stage.engine.models.forget("knits")
        assert "knit" not in labels

    acted(monkeypatch, act, knits=knits)


def test_one_that_is_loading_can_be_forgotten_and_names_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        stage.gates["slow"] = asyncio.Event()
        served = stage.engine.load("slow", WeightsSource("slow", None), default=True)
        await asyncio.sleep(0)
        assert served.state == "loading"
        assert stage.engine.models.labels == {label.name for label in TINY.labels}
        with pytest.raises(InputError, match="there is a model slow already"):
            stage.engine.load("slow", WeightsSource("slow", None), default=True)
        await stage.engine.models.forget("slow")
        assert stage.by_model() == {"tiny": []}
        stage.gates["slow"].set()
        await asyncio.sleep(0)
        assert stage.engine.models.default.name == "tiny"
        for number in range(MOST_MODELS - 1):
            stage.infos[f"m{number}"] = TINY
            await stage.loaded(f"m{number}")
        with pytest.raises(InputError, match="forget one of them first"):
            stage.engine.load("more", WeightsSource("more", None), default=False)

    acted(monkeypatch, act, slow=TINY)


def test_only_the_default_has_a_spare_and_the_one_before_lets_its_own_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        await _settled(stage)
        (first,) = stage.engine.models.get("tiny").seats
        assert first.spare is not None
        spare = cast(Played, first.spare.channel)
        await stage.loaded("better")
        (second,) = stage.engine.models.get("better").seats
        await _settled(stage)
        assert second.spare is None
        await stage.engine.make_default("better")
        await _settled(stage)
        assert second.spare is not None
        assert first.spare is None
        assert not spare.alive
        assert first.worker is not None
        assert first.worker.alive
        registry = stage.engine.metrics.registry
        assert registry.get_sample_value("stmixer_worker_restarts_total", {"worker": "0", "reason": "exit"}) == 0

    acted(monkeypatch, act, spares=1, better=TINY)


def test_two_at_once_leave_all_streams_with_the_one_that_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        for _ in range(5):
            await stage.opened()
        await stage.loaded("a")
        await stage.loaded("b")
        await asyncio.gather(*(stage.engine.make_default(name) for name in ("a", "b", "tiny", "b")))
        assert stage.by_model() == {"tiny": [], "a": [], "b": [1, 2, 3, 4, 5]}
        assert stage.engine.models.default.name == "b"

    acted(monkeypatch, act, a=TINY, b=TINY)


def test_a_stream_that_ends_while_others_move_stays_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        cameras = [await stage.opened() for _ in range(3)]
        await stage.loaded("better")
        new = stage.played[-1]
        send = new.send

        async def and_another_ends(message: object, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
            await send(message, payload, fds)
            stage.engine.remove(cameras[2].stream)

        new.send = and_another_ends  # type: ignore[method-assign]
        await stage.engine.make_default("better")
        assert stage.by_model() == {"tiny": [], "better": [1, 2]}

    acted(monkeypatch, act, better=TINY)


def test_two_models_on_one_device_share_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(stage: Stage) -> None:
        engine = stage.engine
        engine.entry._settings = engine.settings.model_copy(update={"max_streams": None})
        await stage.loaded("better")
        for seat in engine.seats:
            seat.capacity = 8
        for _ in range(4):
            await stage.opened()
        assert engine.entry.has_room("latest", 4.0)
        for _ in range(3):
            await stage.opened("better")
        assert not engine.entry.has_room("latest", 4.0)
        assert engine.entry.has_room("latest", 1.0, model="better")

    acted(monkeypatch, act, better=TINY)


def test_a_file_that_is_watched_is_loaded_once_it_is_another_one_and_at_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"one")

    async def act(stage: Stage) -> None:
        stage.infos[str(file)] = TINY
        watched = WatchedFile(file, stage.engine)

        async def look() -> list[tuple[str, str, bool]]:
            await watched.look()
            await asyncio.gather(*stage.engine.models._loading.values())
            return [(served.name, served.state, served.is_default) for served in stage.engine.models.all]

        assert [name for name, *_ in await look()] == ["tiny"]
        file.write_bytes(b"another")
        assert [name for name, *_ in await look()] == ["tiny"], "it may still be written"
        assert (await look())[-1] == ("mine.2", "serving", True)
        assert len(await look()) == 2
        stage.infos[str(file)] = StartError("weights", "it is cut short")
        file.write_bytes(b"broken")
        await look()
        assert (await look())[1:] == [("mine.2", "serving", True), ("mine.3", "failed", False)]
        stage.infos[str(file)] = TINY
        file.write_bytes(b"good again")
        await look()
        assert (await look())[1:] == [
            ("mine.2", "ready", False),
            ("mine.3", "failed", False),
            ("mine.4", "serving", True),
        ]
        file.unlink()
        assert len(await look()) == 4
        file.write_bytes(b"and another")
        await look()
        assert [name for name, *_ in await look()] == ["tiny", "mine.4", "mine.5"], "the one before is a way back"

    acted(monkeypatch, act)


async def _said(caplog: pytest.LogCaptureFixture, words: str) -> None:
    for _ in range(500):
        if words in caplog.text:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(caplog.text)


async def _settled(stage: Stage) -> None:
    """Until every supervisor has what it wants."""

    def wants() -> bool:
        return all(
            seat.worker is not None and (seat.spare is not None) == served.is_default
            for served in stage.engine.models.all
            for seat in served.seats
        )

    for _ in range(500):
        if wants():
            return
        await asyncio.sleep(0.01)
    raise AssertionError([SimpleNamespace(worker=seat.worker, spare=seat.spare) for seat in stage.engine.seats])
