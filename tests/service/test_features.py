"""The feature ring: with it and without it the same results, bounded, and nothing lost with the worker."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from stmixer.model.card import read_header
from stmixer.model.checkpoint import Model, untrained
from stmixer.model.clip import input_size, padded_size
from stmixer.model.frame_maps import frame_shapes
from stmixer.model.labels import AVA_LABELS
from stmixer.model.postprocess import ClipDetections
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.host import HostArrays
from stmixer.model.runtimes.processor import CPU as HOST
from stmixer.model.runtimes.tensors import TensorArrays
from stmixer.service.ipc.messages import JobOrder
from stmixer.service.ipc.ring import Ring, RingShape, create_ring
from stmixer.service.offline.file import FileResults
from stmixer.service.schemas import DetectOptions, Result
from stmixer.service.worker.features import FeatureRing, FrameKey
from stmixer.service.worker.process import read_job
from stmixer.service.worker.runner import FrameWindow, Job, Runner, start_runtime, to_actors

MANUAL = Path(__file__).parents[2] / "docs/operate.md"
WALK = Path(__file__).parents[1] / "clips/walk.mp4"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Model:
    return untrained("rt_lite0")


def detect(runner: Runner, hz: float, batch_size: int = 1) -> list[Result]:
    options = DetectOptions(keyframe_hz=hz, score_threshold=0.0, top_k=3)
    return list(itertools.islice(FileResults(runner, WALK, options, batch_size=batch_size), 16))


def numbers(results: list[Result]) -> np.ndarray:
    rows = [(*a.box, a.person_score, a.actions[0].score) for r in results for a in r.actors]
    return np.array(rows)


@pytest.mark.parametrize("hz", [pytest.param(1.0, marks=pytest.mark.slow), 7.5])
def test_with_and_without_the_ring_the_results_agree(model: Model, hz: float) -> None:
    runtime = torch_runtime(model, CPU)
    first, second = detect(Runner(runtime), hz), detect(Runner(runtime, keep_features=False), hz)
    batched = detect(Runner(runtime), hz, batch_size=4)
    assert [r.pts_us for r in first] == [r.pts_us for r in second] == [r.pts_us for r in batched]
    assert len(numbers(first)) > 20
    assert np.abs(numbers(first) - numbers(second)).max() <= 1e-5
    assert np.abs(numbers(batched) - numbers(second)).max() <= 1e-5


def test_a_frame_is_computed_once(model: Model, monkeypatch) -> None:
    runner = Runner(torch_runtime(model, CPU))
    frames: list[int] = []
    stage = runner.runtime.frame_stage
    monkeypatch.setattr(runner.runtime, "frame_stage", lambda x: (frames.append(len(x)), stage(x))[1])
    results = detect(runner, 7.5)
    assert len(results) == 16
    assert sum(frames) == len(results) + model.card.config.clip.frames // 2 - 1
    before = sum(frames)
    detect(runner, 7.5)
    assert sum(frames) == 2 * before, "another file has other frames, whatever their numbers"


def maps(value: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full((6, 8 // s, 12 // s), value) + torch.arange(6).view(6, 1, 1) for s in (1, 2))


def test_a_camera_takes_what_the_manual_says() -> None:
    """Of the bundled model, and of 16:9: what is kept of frames without end."""
    card, _ = read_header(Path("stmixer-rt"))
    runner = Runner(cast(Any, SimpleNamespace(card=card, arrays=HostArrays())))
    ring = runner._features
    assert ring is not None
    config = card.config
    width, height = padded_size(*input_size(1920, 1080, config.preprocess.short_side), config.preprocess)
    levels = [np.zeros(shape[1:], np.float32) for shape in frame_shapes(config, 1, height, width)]
    for generation in range(20):
        ring.keep(FrameKey(1, generation), levels)
        ring.trim()
    kept = sum(level.nbytes for maps in ring._streams[1].values() for level in maps)
    (said,) = re.findall(r"it keeps features: (\d+) MB of a 16:9 one with the bundled model", MANUAL.read_text())
    assert round(kept / 1e6) == int(said)


@pytest.mark.parametrize("cells", [True, False])
def test_the_ring_gives_back_what_it_was_given_and_keeps_to_its_size(cells: bool) -> None:
    ring = FeatureRing(3, TensorArrays(CPU, cells=cells))
    for i in range(5):
        ring.keep(FrameKey(1, i), maps(float(i)))
        ring.keep(FrameKey(2, i), maps(-float(i)))
    (fine,), (coarse,) = ring.windows([[FrameKey(1, i) for i in (4, 0, 4)]])
    assert fine.shape == (3, 6, 8, 12)
    assert coarse.shape == (3, 6, 4, 6)
    assert torch.equal(fine[1], maps(0.0)[0])
    assert torch.equal(fine[0], maps(4.0)[0])
    assert len(ring) == 10
    ring.trim()
    assert len(ring) == 6
    assert FrameKey(1, 0) in ring, "used last"
    assert FrameKey(1, 1) not in ring
    assert FrameKey(2, 4) in ring
    ring.drop(1)
    ring.drop(1)
    assert len(ring) == 3
    assert FrameKey(1, 4) not in ring


def test_what_a_later_window_of_the_batch_wants_is_not_forgotten() -> None:
    ring = FeatureRing(2, TensorArrays(CPU))
    for i in range(6):
        ring.keep(FrameKey(1, i), maps(float(i)))
        ring.keep(FrameKey(2, i), maps(float(i)))
    ring.trim([FrameKey(1, 0), FrameKey(1, 1), FrameKey(1, 2), FrameKey(1, 9)])
    assert [i for i in range(6) if FrameKey(1, i) in ring] == [0, 1, 2], "more than its size, for they are wanted"
    assert [i for i in range(6) if FrameKey(2, i) in ring] == [4, 5]
    ring.trim()
    assert [i for i in range(6) if FrameKey(1, i) in ring] == [1, 2]


def test_on_a_cpu_graphs_run_window_by_window_and_keep_what_one_stream_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers as each keyframe alone, and memory for one window, however many are in the batch."""
    runner, alone = (Runner(start_runtime(None, None, HOST, "onnx", "fp32")) for _ in range(2))
    t, rng, kept, batches = runner.card.config.clip.frames, np.random.default_rng(3), list[int](), list[int]()
    pictures = rng.integers(0, 255, (3 * t, 64, 96, 3), dtype=np.uint8)

    def job(first: int) -> Job:
        keys = tuple(FrameKey(1, first + i) for i in range(t))
        return Job(pictures[first : first + t], 96, 64, 0.0, 3, 0.0, FrameWindow(keys, keys))

    clip_stage = runner.runtime.clip_stage

    def watched(maps, sizes_wh, *bank):
        assert runner._features is not None
        kept.append(len(runner._features))
        batches.append(len(sizes_wh))
        return clip_stage(maps, sizes_wh, *bank)

    monkeypatch.setattr(runner.runtime, "clip_stage", watched)
    jobs = [job(first) for first in (0, t // 2, t, 2 * t)]
    done = runner.run(jobs)
    assert batches == [1] * 4
    assert max(kept) <= t + 4 + t
    assert len(done.output.stages[-1].human_logits) == len(done.output.spatial_queries) == 4
    for place, one in enumerate(jobs):
        expected = alone.run([one])
        alone.forget(1)
        difference = done.output.stages[-1].boxes_xyxy_px[place] - expected.output.stages[-1].boxes_xyxy_px[0]
        assert np.abs(difference).max() <= 1e-3, place
        assert [a.person_score for a in done.actors[place]] == pytest.approx(
            [a.person_score for a in expected.actors[0]], abs=1e-5
        )


def test_the_worker_reads_only_what_it_does_not_know(model: Model) -> None:
    runner = Runner(torch_runtime(model, CPU))
    t = model.card.config.clip.frames
    shape = RingShape(40, 32, t + 2)
    fd = create_ring(shape).fd
    writer, reader = Ring(os.dup(fd), shape, writable=True), Ring(fd, shape, writable=False)
    rng = np.random.default_rng(0)

    def write(number: int) -> None:
        pixels = rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)
        writer.write(number % shape.capacity, number + 1, pixels)

    def wanted(first: int) -> JobOrder:
        numbers = range(first, first + t)
        slots, generations = tuple(n % shape.capacity for n in numbers), tuple(n + 1 for n in numbers)
        return JobOrder(7, slots, generations, 80, 64, 0.0, 1, 0.0)

    for number in range(t + 1):
        write(number)
    whole = read_job(runner, reader, wanted(0), None)
    assert whole is not None
    assert len(whole.frames) == t
    runner.run([whole])
    following = read_job(runner, reader, wanted(1), None)
    assert following is not None
    assert following.window is not None
    assert following.window.shown == (FrameKey(7, t + 1),)

    writer.write(1, 99, np.zeros((32, 40, 3), np.uint8))  # frame 1 is gone, but its features are known
    found = runner.run([following]).actors[0]
    assert read_job(runner, reader, wanted(1), None) is not None
    assert found

    restarted = Runner(torch_runtime(model, CPU))
    assert read_job(restarted, reader, wanted(1), None) is None, "stale: a worker that knows nothing wants every frame"
    writer.write(1, 2, np.asarray(reader.read([1], [99]))[0])
    assert read_job(restarted, reader, wanted(1), None) is not None
    runner.forget(7)
    assert runner.missing(following.window.keys) == following.window.keys


def test_jobs_without_names_run_whole(model: Model) -> None:
    frames = np.random.default_rng(1).integers(0, 255, (8, 32, 40, 3), dtype=np.uint8)
    keys = tuple(FrameKey(1, i) for i in range(8))
    plain = Runner(torch_runtime(model, CPU)).run([Job(frames, 40, 32, 0.0, 1, 0.0)])
    by_frame = Runner(torch_runtime(model, CPU)).run([Job(frames, 40, 32, 0.0, 1, 0.0, FrameWindow(keys, keys))])
    for a, b in zip(plain.actors[0], by_frame.actors[0], strict=True):
        assert a.person_score == pytest.approx(b.person_score, abs=1e-5)
        assert a.box == pytest.approx(b.box, abs=1e-5)


def test_an_output_that_is_not_finite_fails_by_name() -> None:
    """Half precision may overflow: the keyframe is an error then, and its worker goes on."""
    boxes, scores = np.full((1, 4), np.nan, np.float32), np.full((1, 2), 0.5, np.float32)
    found = ClipDetections(np.zeros(1, np.int64), boxes, np.ones(1, np.float32), scores)
    job = Job(np.zeros((1, 2, 2, 3), np.uint8), 2, 2, 0.0, None, 0.0)
    with pytest.raises(RuntimeError, match="not finite"):
        to_actors(found, job, AVA_LABELS)
