"""The engine beside a worker that is played: what it leases, what it takes for an answer, and what it does not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from test_stream import Camera

from stmixer.model.labels import AVA_LABELS
from stmixer.model.query_bank import OnlineBank
from stmixer.model.zoo import variant
from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.engine import Engine, log_failure
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.scheduler import Choice, Scheduler
from stmixer.service.engine.seat import Seat
from stmixer.service.engine.stream import Policy, Stream
from stmixer.service.engine.worker import Worker
from stmixer.service.ipc.channel import ChannelError, Received
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import (
    Action,
    Actor,
    AttachRing,
    BatchDone,
    BatchFailed,
    DetachRing,
    Frames,
    MessageError,
    Opened,
    RunBatch,
    SampleWritten,
    StageSeconds,
    WindowsCopied,
)
from stmixer.service.metrics import Metrics
from stmixer.service.places import Place
from stmixer.service.settings import Settings

TINY = ModelInfo(variant("tiny"), AVA_LABELS, False, None, None, None, None, "cpu")
NO_SECONDS = StageSeconds(0.01, 0.02, 0.03)
OPENED = Opened(640, 480, 170, 128, 30.0)


@dataclass
class Played:
    """Stands in the place of a worker's process. ``says`` is what it answers with; None from it ends it."""

    orders: list[object] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    says: asyncio.Queue[Received | None] = field(default_factory=asyncio.Queue)
    alive: bool = True
    pid: int = 1

    @property
    def channel(self) -> Played:
        return self

    async def send(self, message: object, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        if not self.alive:
            raise ChannelError("gone")
        self.orders.append(message)
        self.payloads.append(payload)

    async def receive(self) -> Received | None:
        return await self.says.get()

    def end_now(self) -> None:
        self.alive = False
        self.says.put_nowait(None)

    async def end(self, timeout_s: float = 0) -> int:
        self.alive = False
        return -9


@dataclass
class Scene:
    engine: Engine
    played: Played
    worker: Worker

    def given(self) -> RunBatch:
        """The batch that the worker was given last."""
        return [order for order in self.played.orders if isinstance(order, RunBatch)][-1]

    def says(self, message: object, payload: bytes = b"") -> None:
        self.engine._on_message(self.engine.seats[0], self.worker, Received(message, payload))


def acted(act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        engine, played = Engine(Settings(max_streams=9, batch_wait_ms=0), Metrics()), Played()
        worker = Worker("0", cast(Child, played), TINY, {1: 0.1})
        engine.seats[0].worker, engine.seats[0].model = worker, TINY
        await act(Scene(engine, played, worker))
        engine.seats[0].worker = None
        for stream in list(engine.streams.values()):
            engine.remove(stream)

    asyncio.run(asyncio.wait_for(run(), 60))


async def opened(scene: Scene, policy: Policy = "all", hz: float = 4.0) -> Camera:
    """A camera whose stream the engine has."""
    camera = Camera(policy, hz=hz, opened=False)
    camera.stream.id = scene.engine.entry.admit(policy, hz)
    scene.engine.add(camera.stream)
    await scene.engine.opened(camera.stream, OPENED)
    return camera


async def batched(scene: Scene, streams: int = 2, *, bank: OnlineBank | None = None) -> list[Stream]:
    """Streams whose first keyframes are with the worker, in one batch."""
    found = []
    for _ in range(streams):
        camera = await opened(scene, hz=1.0)
        camera.stream.bank = bank
        list(camera.run(1.0))
        found.append(camera.stream)
    await scene.engine.step(10.0)
    assert len(scene.given().jobs) == streams
    return found


# -- what a decoder says


def test_nothing_comes_of_a_source_before_it_has_opened() -> None:
    async def act(scene: Scene) -> None:
        stream = Camera("all", opened=False).stream
        for say in (
            lambda: scene.engine.frames(stream, Frames((0,), (0.0,), 0), 0.0),
            lambda: scene.engine.sample(stream, SampleWritten(0, 1, 0, 0)),
            lambda: scene.engine.ring_full(stream, 0),
        ):
            with pytest.raises(MessageError):
                say()

    acted(act)


def test_a_source_opens_once_and_at_a_size_of_the_model() -> None:
    async def act(scene: Scene) -> None:
        camera = await opened(scene)
        assert camera.stream.clip_size == TINY.padded(170, 128)
        with pytest.raises(MessageError, match="twice"):
            await scene.engine.opened(camera.stream, OPENED)
        with pytest.raises(MessageError, match="9999"):
            await scene.engine.opened(Camera("all", opened=False).stream, Opened(640, 480, 9999, 128, None))

    acted(act)


def test_time_that_goes_back_is_refused_and_changes_nothing() -> None:
    async def act(scene: Scene) -> None:
        stream = (await opened(scene)).stream
        scene.engine.frames(stream, Frames((0, 40_000), (0.0, 0.04), 0), 0.1)
        for pts_us in (0, 39_999, 40_000):
            with pytest.raises(MessageError, match=f"{pts_us}"):
                scene.engine.frames(stream, Frames((pts_us,), (0.0,), 0), 0.1)
        assert stream.newest_pts_us == 40_000
        scene.engine.frames(stream, Frames((40_001,), (0.1,), 0), 0.1)

    acted(act)


@pytest.mark.parametrize(
    "wrong",
    [
        SampleWritten(3, 9, 5, 400_000),  # one is left out
        SampleWritten(0, 9, 5, 400_000),  # long written
        SampleWritten(2, 9, 0, 400_000),  # the grid goes back
        SampleWritten(2, 9, 5, 60_000),  # time goes back
        SampleWritten(1, 9, 2, 80_000),  # the newest anew, elsewhere on the grid
        SampleWritten(1, 2, 1, 80_000),  # the newest anew, in the same generation
    ],
)
def test_samples_come_in_order(wrong: SampleWritten) -> None:
    async def act(scene: Scene) -> None:
        stream = (await opened(scene)).stream
        with pytest.raises(MessageError):
            scene.engine.sample(stream, SampleWritten(1, 2, 0, 0))
        scene.engine.sample(stream, SampleWritten(0, 1, 0, 0))
        scene.engine.sample(stream, SampleWritten(1, 2, 1, 66_667))
        with pytest.raises(MessageError):
            scene.engine.sample(stream, wrong)
        assert stream.summary.sampled == 2
        assert stream.newest is not None
        assert stream.newest.pts_us == 66_667
        scene.engine.sample(stream, SampleWritten(1, 3, 1, 70_000))  # a later frame of the same grid time
        scene.engine.sample(stream, SampleWritten(2, 4, 2, 133_333))

    acted(act)


def test_no_sample_lies_beyond_the_limit() -> None:
    async def act(scene: Scene) -> None:
        camera = await opened(scene)
        stream, capacity = camera.stream, 0
        assert stream.ring is not None
        while camera.send(capacity * 33_333):
            capacity += 1
        number = stream.write_limit()
        assert stream.summary.sampled == number
        with pytest.raises(MessageError):
            scene.engine.sample(stream, SampleWritten(number, number + 1, 10_000, 10**9))

    acted(act)


def test_frames_of_a_cancelled_stream_bring_no_keyframes() -> None:
    async def act(scene: Scene) -> None:
        stream = (await opened(scene)).stream
        scene.engine.frames(stream, Frames((0,), (0.0,), 0), 0.0)
        scene.engine.cancel(stream)
        scene.engine.frames(stream, Frames((900_000,), (0.9,), 0), 0.9)
        assert stream.finished
        assert stream.summary.keyframes_due == stream.summary.cancelled == 1

    acted(act)


# -- what a worker says


def test_a_batch_comes_back() -> None:
    async def act(scene: Scene) -> None:
        streams = await batched(scene)
        batch = scene.given()
        scene.says(WindowsCopied(batch.id, ()))
        scene.says(BatchDone(batch.id, ((), ()), NO_SECONDS, 7))
        assert scene.worker.batch is None
        for stream in streams:
            assert stream.summary.ok == 1
        registry = scene.engine.metrics.registry
        assert registry.get_sample_value("stmixer_inferences_total", {"worker": "0"}) == 2

    acted(act)


def test_stale_keyframes_run_again_without_blame() -> None:
    async def act(scene: Scene) -> None:
        streams = await batched(scene)
        batch = scene.given()
        scene.says(WindowsCopied(batch.id, (0,)))
        scene.says(BatchDone(batch.id, (None, ()), NO_SECONDS, 0))
        assert sorted(stream.summary.ok for stream in streams) == [0, 1]
        await scene.engine.step(11.0)
        assert len(scene.given().jobs) == 1
        assert scene.given().id != batch.id

    acted(act)


def test_a_keyframe_whose_slot_nobody_writes_any_more_is_an_error() -> None:
    """Its decoder died between slot and word, and none came after it: it must not run again for ever."""

    async def act(scene: Scene) -> None:
        (stream,) = await batched(scene, streams=1)
        scene.engine.end(stream, 10.0)
        for _ in range(9):
            if scene.worker.batch is None:
                break
            batch = scene.given()
            scene.says(WindowsCopied(batch.id, (0,)))
            scene.says(BatchDone(batch.id, (None,), NO_SECONDS, 0))
            await scene.engine.step(11.0)
        assert stream.finished
        assert stream.summary.error == stream.summary.keyframes_due
        assert scene.worker.batch is None

    acted(act)


def test_a_round_that_fails_is_no_readiness(caplog: pytest.LogCaptureFixture) -> None:
    async def act(scene: Scene) -> None:
        def fail(*_: object, **__: object) -> Choice:
            raise RuntimeError("a defect of ours")

        scene.engine.seats[0].scheduler.choose = fail  # type: ignore[method-assign]
        round_ = scene.engine._round = asyncio.create_task(scene.engine._run())
        round_.add_done_callback(log_failure)
        assert scene.engine.ready
        scene.engine.wake()
        await asyncio.wait({round_})
        await asyncio.sleep(0)
        assert not scene.engine.ready
        assert "the engine's round has failed" in caplog.text

    acted(act)


def test_a_worker_whose_word_cannot_be_taken_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    async def act(scene: Scene) -> None:
        def fail(worker: Worker, received: Received) -> None:
            raise OverflowError("a defect of ours")

        scene.played.says.put_nowait(Received(WindowsCopied(1, ())))
        await asyncio.wait_for(scene.worker.listen(fail), 60)
        assert scene.worker.reason == "protocol"
        assert not scene.played.alive
        assert "a defect of ours" in caplog.text

    acted(act)


def wrong_answers() -> list[tuple[str, Callable[[int], list[object]]]]:
    def copied(n: int) -> WindowsCopied:
        return WindowsCopied(n, ())

    def done(n: int, *actors: Any) -> BatchDone:
        return BatchDone(n, actors, NO_SECONDS, 0)

    return [
        ("another batch", lambda n: [copied(n + 1)]),
        ("results before the copy", lambda n: [done(n, (), ())]),
        ("copied twice", lambda n: [copied(n), copied(n)]),
        ("a place that is none", lambda n: [WindowsCopied(n, (2,))]),
        ("a result too few", lambda n: [copied(n), done(n, ())]),
        ("a result too many", lambda n: [copied(n), done(n, (), (), ())]),
        ("no result", lambda n: [copied(n), done(n, (), None)]),
        ("a result of a stale one", lambda n: [WindowsCopied(n, (1,)), done(n, (), ())]),
        ("another batch's failure", lambda n: [BatchFailed(n + 1, "", "error")]),
        ("the same answer again", lambda n: [copied(n), done(n, (), ()), done(n, (), ())]),
    ]


@pytest.mark.parametrize("answers", [answers for _, answers in wrong_answers()], ids=[n for n, _ in wrong_answers()])
def test_a_worker_that_answers_what_it_was_not_asked_is_ended(answers: Callable[[int], list[object]]) -> None:
    async def act(scene: Scene) -> None:
        streams = await batched(scene)
        for message in answers(scene.given().id):
            scene.played.says.put_nowait(Received(message))
        scene.played.says.put_nowait(Received(WindowsCopied(10**6, ())))  # is not listened to any more
        await asyncio.wait_for(scene.worker.listen(partial(scene.engine._on_message, scene.engine.seats[0])), 60)
        assert scene.worker.reason == "protocol"
        assert not scene.played.alive
        scene.engine._on_death(scene.engine.seats[0], scene.worker, scene.worker.batch)
        states = [[p.state for p in stream._in_order] for stream in streams]
        assert not any(state in ("copying", "running") for each in states for state in each)

    acted(act)


@pytest.mark.parametrize(("bytes_each", "whole"), [(4, True), (3, False), (5, False), (0, False)])
def test_what_is_left_for_banks_has_their_length(bytes_each: int, whole: bool) -> None:
    async def act(scene: Scene) -> None:
        bank = OnlineBank(3, 1, 2)
        streams = await batched(scene, bank=bank)
        batch = scene.given()
        assert len(scene.played.payloads[-1]) == 2 * (3 * 2 * 2 + 3)
        scene.says(WindowsCopied(batch.id, ()))
        answer = BatchDone(batch.id, ((), ()), NO_SECONDS, 0)
        if whole:
            scene.says(answer, bytes(2 * bytes_each))
            assert [stream.summary.ok for stream in streams] == [1, 1]
            assert bank.window(1)[1].any()
        else:
            with pytest.raises(MessageError, match="bank"):
                scene.says(answer, bytes(2 * bytes_each))
            assert [stream.summary.ok for stream in streams] == [0, 0]
            assert scene.worker.batch is not None, "its keyframes run again once it has died"
            assert not bank.window(1)[1].any()

    acted(act)


LOOK = [0.6, 0.8] + [0.0] * 62
"""Of one person, of a model whose queries have 32 numbers: spatial and temporal ones."""


def scored(people: int) -> tuple[Actor, ...]:
    action = Action(80, "watch (a person)", 0.75)
    return tuple(
        Actor((100.0, 50.0, 140.0, 150.0), (0.2, 0.1, 0.3, 0.3), 0.9, (replace(action),)) for _ in range(people)
    )


@pytest.mark.parametrize(
    ("people", "scores", "looks", "taken"),
    [
        ((1, 2), [0.75] * 240, LOOK * 3, True), ((1, 2), [0.75] * 239, LOOK * 3, False),
        ((1, 2), [0.75] * 241, LOOK * 3, False), ((1, 2), [], [], False), ((0, 0), [0.75], [], False),
        ((0, 1), [0.75] * 79 + [1.5], LOOK, False), ((0, 1), [0.75] * 79 + [-0.1], LOOK, False),
        ((0, 1), [math.nan] + [0.75] * 79, LOOK, False), ((1, 2), [0.75] * 240, LOOK * 2, False),
        ((1, 2), [0.75] * 240, [0.0] * 192, True), ((1, 2), [0.75] * 240, LOOK * 3 + [0.0], False),
        ((0, 1), [0.75] * 80, [1.0, 0.2] + [0.0] * 62, False), ((0, 1), [0.75] * 80, [math.nan] * 64, False),
        ((0, 1), [0.75] * 80, [math.inf] + [0.0] * 63, False),
    ],
)  # fmt: skip
def test_the_scores_and_looks_of_people_are_as_many_as_they_and_in_their_ranges(
    people: tuple[int, int], scores: list[float], looks: list[float], taken: bool
) -> None:
    async def act(scene: Scene) -> None:
        streams = await batched(scene)
        batch = scene.given()
        scene.says(WindowsCopied(batch.id, ()))
        answer = BatchDone(batch.id, (scored(people[0]), scored(people[1])), NO_SECONDS, 0)
        payload = np.array(scores, np.float32).tobytes() + np.array(looks, np.float16).tobytes()
        if not taken:
            with pytest.raises(MessageError, match=r"scores|looks"):
                scene.says(answer, payload)
            assert [stream.summary.ok for stream in streams] == [0, 0]
            return
        scene.says(answer, payload)
        for stream, n in zip(streams, people, strict=True):
            assert stream.found is not None
            actions = [actor.actions for actor in stream.found.result.actors]
            assert [[(a.score, a.smoothed) for a in each] for each in actions] == [[(0.75, pytest.approx(0.75))]] * n

    acted(act)


def test_a_batch_that_fails_runs_again_one_by_one_and_then_counts_as_an_error() -> None:
    async def act(scene: Scene) -> None:
        streams = await batched(scene)
        scene.says(BatchFailed(scene.given().id, "no", "error"))
        for _ in streams:
            await scene.engine.step(11.0)
            assert len(scene.given().jobs) == 1
            scene.says(BatchFailed(scene.given().id, "no", "error"))
        assert [stream.summary.error for stream in streams] == [1, 1]
        assert scene.played.alive

    acted(act)


def test_a_dead_workers_keyframes_run_again_but_for_stale_ones_without_blame() -> None:
    async def act(scene: Scene) -> None:
        streams = await batched(scene)
        scene.says(WindowsCopied(scene.given().id, (0,)))
        scene.engine._on_death(scene.engine.seats[0], scene.worker, scene.worker.batch)
        attempts = [stream._in_order[0].attempts for stream in streams]
        assert sorted(attempts) == [0, 1]
        assert all(stream._in_order[0].state == "ready" for stream in streams)

    acted(act)


def test_a_stuck_worker_is_given_up() -> None:
    async def act(scene: Scene) -> None:
        await batched(scene)
        assert await scene.engine.step(10.1) == 20.0
        assert scene.played.alive
        await scene.engine.step(20.0)
        assert (scene.worker.reason, scene.played.alive) == ("stuck", False)

    acted(act)


class Untaught(KeyframeCost):
    """Must not be told of a batch."""

    def observe(self, keyframes: int, new_frames: int, worked_s: float, overhead_s: float) -> None:
        raise AssertionError(f"{worked_s} s were compiling")


def test_a_worker_that_compiles_has_time_and_teaches_nothing_of_cost() -> None:
    async def act(scene: Scene) -> None:
        scene.worker.model = replace(TINY, runtime="compile")
        scene.engine.seats[0].cost = Untaught({1: 0.1}, 0.0, 8)
        await batched(scene)
        assert await scene.engine.step(609.9) == 610.0
        assert scene.played.alive
        batch, shapes = scene.given(), scene.worker.batch.shapes if scene.worker.batch else None
        assert shapes is not None
        scene.says(WindowsCopied(batch.id, ()))
        scene.says(BatchDone(batch.id, ((), ()), StageSeconds(0.0, 100.0, 0.0), 0))
        assert scene.worker.batch is None
        assert not scene.worker.compiles(shapes)

    acted(act)


def test_of_a_batch_that_ran_in_part_other_shapes_were_compiled() -> None:
    async def act(scene: Scene) -> None:
        scene.worker.model = replace(TINY, runtime="compile")
        await batched(scene)
        batch, shapes = scene.given(), scene.worker.batch.shapes if scene.worker.batch else None
        assert shapes is not None
        scene.says(WindowsCopied(batch.id, (0,)))
        scene.says(BatchDone(batch.id, (None, ()), NO_SECONDS, 0))
        assert scene.worker.batch is None
        assert scene.worker.compiles(shapes)

    acted(act)


# -- rings


def test_a_stream_owns_its_ring_and_a_successor_gets_all_of_them() -> None:
    async def act(scene: Scene) -> None:
        one, two = [(await opened(scene)).stream for _ in range(2)]
        assert scene.played.orders == [AttachRing(s.id, 170, 128, _capacity(s)) for s in (one, two)]
        scene.engine.remove(one)
        assert one.ring is not None
        assert one.ring.fd == -1
        await asyncio.sleep(0)
        assert scene.played.orders[-1] == DetachRing(one.id)
        spare = Played()
        scene.engine.seats[0].spare = Worker("0", cast(Child, spare), TINY, {1: 0.05})
        await scene.engine.seats[0].promote()
        assert spare.orders == [AttachRing(two.id, 170, 128, _capacity(two))]
        assert scene.engine.seats[0].worker is not scene.worker

    acted(act)


def test_capacity_is_what_the_first_worker_measured() -> None:
    """The next one warms up beside a busy one on the same cores."""

    async def act(scene: Scene) -> None:
        seat = Seat("0", Place("cpu"), Scheduler(1, 0.0))
        for seconds, capacity in ((0.05, 16), (0.5, 16)):
            seat.spare = Worker("0", cast(Child, Played()), TINY, {1: seconds})
            await seat.promote()
            assert seat.capacity == capacity

    acted(act)


def test_a_spare_that_dies_as_it_takes_over_is_not_taken() -> None:
    async def act(scene: Scene) -> None:
        await opened(scene)
        seat = scene.engine.seats[0]

        class Dying(Played):
            async def send(self, message: object, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
                seat.spare = None  # its watcher is there first
                raise ChannelError("gone")

        seat.worker, seat.spare = None, Worker("0", cast(Child, Dying()), TINY, {1: 0.05})
        await seat.promote()
        assert seat.worker is None

    acted(act)


def _capacity(stream: Stream) -> int:
    assert stream.ring is not None
    return stream.ring.shape.capacity
