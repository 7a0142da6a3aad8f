"""One stream's engine in this process, with a runner that computes nothing: batches, room, gaps, counts, memory."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.model.zoo import variant
from stmixer.service.offline.engine import DetectedKeyframe, InProcessEngine
from stmixer.service.offline.stream import FrameStream, RgbPicture
from stmixer.service.schemas import DetectOptions, Result, Summary

WIDTH, HEIGHT = 160, 120


class Runner:
    """Stands where the model would be: notes the windows it is given."""

    def __init__(self, known: bool = False) -> None:
        self.card = SimpleNamespace(config=variant("tiny"), name="tiny", trained=True, labels=())
        self.batches: list[list[Any]] = []
        self.forgotten: list[int] = []
        self._known = known

    def missing(self, keys: Any) -> Any:
        return () if self._known else tuple(keys)

    def run(self, jobs: list[Any]) -> Any:
        self.batches.append(list(jobs))
        kept = [SimpleNamespace(action_scores=np.zeros((0, 0))) for _ in jobs]
        looks = [np.zeros((0, 0), np.float16) for _ in jobs]
        return SimpleNamespace(actors=[[] for _ in jobs], kept=kept, looks=looks, postprocess_s=0.0, entries=None)

    def forget(self, stream: int) -> None:
        self.forgotten.append(stream)


def picture(number: int) -> RgbPicture:
    return RgbPicture(np.full((HEIGHT, WIDTH, 3), number % 251, np.uint8))


def run(runner: Runner, times_us: list[int], batch_size: int = 1, **options: Any) -> tuple[list[Result], Summary]:
    engine = InProcessEngine(
        runner,
        DetectOptions(**options),
        limits=Limits.unlimited(),
        batch_size=batch_size,  # type: ignore[arg-type]
    )
    sampling, results = engine.sampling(), list[Result]()
    sampling.open(WIDTH, HEIGHT, None)
    for number, pts_us in enumerate(times_us):
        sampling.frame(pts_us, picture(number), 0.0)
        results += engine.ready_results()
    sampling.commit()
    sampling.tell_frames()
    results += engine.end()
    engine.close()
    return results, engine.summary


def conserved(summary: Summary) -> bool:
    kept = summary.received == summary.sampled + summary.not_sampled + sum(summary.dropped.values())
    outcomes = summary.ok + summary.superseded + summary.error + summary.cancelled + summary.pending
    return kept and summary.keyframes_due == outcomes


def test_batches_are_full_but_for_the_last() -> None:
    runner = Runner()
    results, summary = run(runner, list(range(0, 30_000_000, 40_000)), batch_size=4)
    assert [len(batch) for batch in runner.batches] == [4] * 7 + [2]
    assert [result.pts_us for result in results] == [k * 1_000_000 for k in range(30)]
    assert summary.ok == 30
    assert conserved(summary)


def test_rare_keyframes_run_where_the_ring_is_full() -> None:
    runner = Runner()
    results, summary = run(runner, list(range(0, 300_000_000, 100_000)), batch_size=8, keyframe_hz=0.05)
    assert [result.seq for result in results] == list(range(15))
    assert len(runner.batches) > 2, "a batch of all would want a ring of minutes"
    assert conserved(summary)


@pytest.mark.parametrize("hz", [1.0, 30.0])
def test_what_a_gap_jumps_over_is_counted(hz: float) -> None:
    runner = Runner()
    leap = 58 * 60 * 1_000_000
    times = [*range(0, 4_000_000, 40_000), *range(leap, leap + 4_000_000, 40_000)]
    results, summary = run(runner, times, keyframe_hz=hz)
    assert summary.keyframes_due > 58 * 60 * hz
    assert summary.ok == len(results) < 20 * hz
    assert summary.superseded == sum(result.dropped_since_last for result in results) > 57 * 60 * hz
    assert conserved(summary)


def test_a_broken_picture_is_dropped_and_counted() -> None:
    class Broken(RgbPicture):
        def resized(self, width: int, height: int, antialias: bool = False) -> Any:
            raise MediaError("unreadable", "broken")

    runner = Runner()
    engine = InProcessEngine(runner, DetectOptions(), limits=Limits.unlimited())  # type: ignore[arg-type]
    sampling = engine.sampling()
    sampling.open(WIDTH, HEIGHT, None)
    for number in range(50):
        good = picture(number)
        sampling.frame(number * 40_000, Broken(good.pixels) if number % 7 == 3 else good, 0.0)
        engine.ready_results()
    sampling.commit()
    sampling.tell_frames()
    engine.end()
    assert engine.summary.dropped["corrupt"] >= 1
    assert conserved(engine.summary)


@pytest.mark.parametrize("known", [False, True], ids=["frames", "features"])
def test_the_keyframes_picture_is_its_own(known: bool) -> None:
    """Also where the runner knows the features of every frame and is shown none."""
    runner, told = Runner(known), list[DetectedKeyframe]()
    engine = InProcessEngine(
        runner,
        DetectOptions(),
        limits=Limits.unlimited(),
        on_detected=told.append,  # type: ignore[arg-type]
    )
    sampling = engine.sampling()
    sampling.open(WIDTH, HEIGHT, None)
    results = list[Result]()
    for number in range(100):  # a frame of the grid each: the picture is the number
        sampling.frame(number * 1_000_000 // 15, picture(number), 0.0)
        results += engine.ready_results()
    assert [keyframe.result for keyframe in told] == results
    assert [int(keyframe.picture[0, 0, 0]) for keyframe in told] == [15 * k for k in range(len(told))]
    assert all(len(job.frames) == (0 if known else len(job.window.keys)) for batch in runner.batches for job in batch)


def test_a_closed_stream_leaves_nothing_behind() -> None:
    gc.collect()
    gc.disable()
    try:
        runner = Runner()
        stream = FrameStream(runner, DetectOptions())  # type: ignore[arg-type]
        for number in range(30):
            stream.feed(np.zeros((HEIGHT, WIDTH, 3), np.uint8), number * 100_000)
        ring = weakref.ref(stream._engine._ring)
        stream.close()
        stream.close()
        assert runner.forgotten == [stream._engine._stream.id] * 2
        assert conserved(stream.summary)
        assert stream.summary.dropped == {"cancelled": 1}, "the newest frame, which a later one might have displaced"
        del stream
        assert ring() is None, "pixels that wait for Python's collector"
    finally:
        gc.enable()
