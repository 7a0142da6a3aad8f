"""One stream's engine in this process, with a runner that computes nothing: batches, room, gaps, counts, memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from posting import made_video

from stmixer.media.decode import Frame, VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.model.zoo import variant
from stmixer.service.offline.engine import DetectedKeyframe, InProcessEngine
from stmixer.service.offline.file import FileResults
from stmixer.service.offline.stream import FrameStream, RgbPicture
from stmixer.service.schemas import DetectOptions, Result, Summary

WIDTH, HEIGHT = 160, 120


class Runner:
    """Stands where the model would be: notes the windows it is given."""

    def __init__(self, known: bool = False) -> None:
        self.card = SimpleNamespace(config=variant("tiny"))
        self.batches: list[list[Any]] = []
        self.forgotten: list[int] = []
        self._known = known

    def missing(self, keys: Any) -> Any:
        return () if self._known else tuple(keys)

    def run(self, jobs: list[Any]) -> Any:
        self.batches.append(list(jobs))
        return SimpleNamespace(actors=[[] for _ in jobs], postprocess_s=0.0, entries=None)

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


@pytest.fixture(scope="module")
def twenty_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ahead") / "v.mp4"
    path.write_bytes(made_video(WIDTH, HEIGHT, 600))
    return path


class Counted(VideoReader):
    """Knows how many frames were asked of it; ``reached`` is set when the one numbered ``goal`` was."""

    asked, goal, breaks_at = 0, -1, -1
    breaks_with: BaseException = MediaError("unreadable", "broken")
    reached: threading.Event

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            if frame.index == self.breaks_at:
                raise self.breaks_with
            type(self).asked = frame.index + 1
            if frame.index == self.goal:
                self.reached.set()
            yield frame


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    reader = type("Fresh", (Counted,), {"reached": threading.Event()})
    monkeypatch.setattr("stmixer.service.offline.file.VideoReader", reader)
    return reader


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "decoding ahead"]


def test_a_file_is_decoded_while_a_keyframe_runs(twenty_seconds: Path, counted: type[Counted]) -> None:
    class Slow(Runner):
        def run(self, jobs: list[Any]) -> Any:
            assert counted.reached.wait(20), f"nothing was decoded meanwhile: {counted.asked} frames"
            return super().run(jobs)

    counted.goal = 80  # the first keyframe's window ends with frame 32 or so
    results = list(FileResults(Slow(), twenty_seconds, DetectOptions()))  # type: ignore[arg-type]
    assert [result.seq for result in results] == list(range(20))


@pytest.mark.parametrize(("batch_size", "options"), [(1, {}), (3, {"keyframe_hz": 4}), (8, {"keyframe_hz": 0.25})])
def test_decoded_ahead_windows_are_the_same(twenty_seconds: Path, batch_size: int, options: dict[str, Any]) -> None:
    ahead, straight = Runner(), Runner()
    results = FileResults(ahead, twenty_seconds, DetectOptions(**options), batch_size=batch_size)  # type: ignore[arg-type]
    found = list(results)
    engine = InProcessEngine(straight, DetectOptions(**options), limits=Limits.unlimited(), batch_size=batch_size)  # type: ignore[arg-type]
    sampling, expected = engine.sampling(), list[Result]()
    with VideoReader(twenty_seconds, limits=Limits.unlimited()) as reader:
        sampling.open(WIDTH, HEIGHT, reader.info.average_rate)
        for frame in reader:
            sampling.frame(frame.pts_us, frame, 0.0)
            expected += engine.ready_results()
        sampling.commit()
        sampling.tell_frames()
        expected += engine.end()
    assert [(r.seq, r.pts_us, r.warming) for r in found] == [(r.seq, r.pts_us, r.warming) for r in expected]
    assert results.summary == engine.summary
    assert conserved(results.summary)
    assert [len(batch) for batch in ahead.batches] == [len(batch) for batch in straight.batches]
    both = zip((job for b in ahead.batches for job in b), (job for b in straight.batches for job in b), strict=True)
    assert all(np.array_equal(mine.frames, other.frames) for mine, other in both)


def test_decoding_runs_no_further_ahead_than_the_ring(twenty_seconds: Path, counted: type[Counted]) -> None:
    results = FileResults(Runner(), twenty_seconds, DetectOptions())  # type: ignore[arg-type]
    next(results)
    shape = results._engine._ring_shape(WIDTH, HEIGHT)
    results.close()  # waits for the thread: what it could decode it has
    assert counted.asked <= 4 * (shape.capacity + 1) + 1 < 600
    assert not decoding_threads()
    assert conserved(results.summary)


def test_what_breaks_ahead_is_told_after_what_came_before(twenty_seconds: Path, counted: type[Counted]) -> None:
    counted.breaks_at = 300
    results, found = FileResults(Runner(), twenty_seconds, DetectOptions()), list[Result]()  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="broken"):
        found.extend(results)
    assert [result.seq for result in found] == list(range(len(found)))
    assert len(found) >= 8
    assert not decoding_threads()
    assert conserved(results.summary)


def test_a_decoder_that_is_ended_is_no_end_of_the_file(twenty_seconds: Path, counted: type[Counted]) -> None:
    counted.breaks_at, counted.breaks_with = 300, SystemExit("ended")
    results, found = FileResults(Runner(), twenty_seconds, DetectOptions()), list[Result]()  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="ended"):
        found.extend(results)
    assert len(found) >= 8
    assert not decoding_threads()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that is what it is about
def test_a_child_of_a_fork_is_told_that_nobody_decodes_for_it(twenty_seconds: Path) -> None:
    results = FileResults(Runner(), twenty_seconds, DetectOptions())  # type: ignore[arg-type]
    next(results)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # one that waits is killed
        try:
            list(results)
        except RuntimeError as error:
            results.close()
            os._exit(7 if "fork" in str(error) else 1)
        finally:
            os._exit(2)
    status = os.waitpid(child, 0)[1]
    assert len(list(results)) == 19, "here it goes on"
    assert os.waitstatus_to_exitcode(status) == 7


def test_results_that_nobody_iterates_further_leave_no_thread(twenty_seconds: Path) -> None:
    results = FileResults(Runner(), twenty_seconds, DetectOptions())  # type: ignore[arg-type]
    next(results)
    assert decoding_threads()
    del results
    gc.collect()
    assert not decoding_threads()


def test_a_broken_runner_ends_the_thread(twenty_seconds: Path) -> None:
    class Broken(Runner):
        def run(self, jobs: list[Any]) -> Any:
            raise RuntimeError("no")

    results = FileResults(Broken(), twenty_seconds, DetectOptions())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no"):
        next(results)
    assert not decoding_threads()
