"""What a worker on a GPU meets, as far as a machine without one can show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stmixer.model.checkpoint import untrained
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.processor import Device
from stmixer.service.errors import StartError
from stmixer.service.ipc.messages import WorkerOptions
from stmixer.service.worker import process
from stmixer.service.worker.features import FrameKey
from stmixer.service.worker.process import open_runner, reason_of, warm_up
from stmixer.service.worker.runner import FrameWindow, Job, Runner, pick_device

NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NO_ROOM, "oom"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "oom"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "oom"),
        ("CUDA error: an illegal memory access was encountered", "cuda"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "cuda"),
        ("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", "cuda"),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", "cuda"),
        ("the model's output is not finite", "error"),
    ],
)
def test_what_went_wrong_is_told_by_what_cuda_says(said: str, reason: str) -> None:
    assert reason_of(RuntimeError(said)) == reason


def test_what_went_wrong_first_counts() -> None:
    """A capture that runs out of memory ends with an error of the capture."""

    def capture() -> None:
        try:
            raise torch.OutOfMemoryError(NO_ROOM)
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError, match="during capture") as caught:
        capture()
    assert reason_of(caught.value) == "oom"


@pytest.mark.parametrize("name", ["cuda:1", "cuda:2", "cuda"])
def test_a_gpu_by_a_number_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stmixer.service.worker.runner.driver_devices", lambda: 1)
    monkeypatch.setattr("stmixer.service.worker.runner._cuda_works", lambda: True)
    if name == "cuda":
        assert pick_device(name) == (Device("cuda"), None)
        return
    with pytest.raises(StartError, match=rf"--device {name}: there is 1 CUDA device, numbered from 0") as caught:
        pick_device(name)
    assert caught.value.code == "cuda_unavailable"


class Small:
    """A device with the memory for so many keyframes at once: a runner's ``detect`` and stages fail above that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, holds: int) -> None:
        self.sizes: list[int] = []
        self._monkeypatch, self._holds = monkeypatch, holds

    def put_under(self, runner: Runner) -> None:
        for name in ("detect", "clip_stage"):
            real = getattr(runner.runtime, name)

            def limited(first, sizes_wh, *bank, real=real):
                if len(sizes_wh) > self._holds:
                    raise torch.OutOfMemoryError(NO_ROOM)
                self.sizes.append(len(sizes_wh))
                return real(first, sizes_wh, *bank)

            self._monkeypatch.setattr(runner.runtime, name, limited)


@pytest.fixture(scope="module", params=["tiny", "rt_lite0"])
def runner(request) -> Runner:
    return Runner(torch_runtime(untrained(request.param), torch.device("cpu")))


def jobs_of(runner: Runner, count: int) -> list[Job]:
    """Neighbouring keyframes of a stream: each shares all frames but one with the one before."""
    frames = runner.card.config.clip.frames
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (frames + count, 64, 96, 3), np.uint8)
    jobs = []
    for first in range(count):
        keys = tuple(FrameKey(7, generation) for generation in range(first, first + frames))
        jobs.append(Job(pixels[first : first + frames], 96, 64, 0.0, 3, 0.0, FrameWindow(keys, keys)))
    return jobs


def test_a_batch_too_large_for_the_device_runs_in_parts(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WARM_UP_S", 1000.0)
    whole = runner.run(jobs_of(runner, 5))
    runner.forget(7)
    small = Small(monkeypatch, 2)
    small.put_under(runner)
    try:
        assert list(warm_up(runner, 8)) == [1, 2]
        assert runner.most_at_once == 2
        assert runner._features is None or len(runner._features) == 0, "the batch that failed left something behind"
        small.sizes.clear()
        parts = runner.run(jobs_of(runner, 5))
        assert small.sizes == [2, 2, 1]
        assert len(parts.actors) == 5
        for a, b in zip(whole.kept, parts.kept, strict=True):
            np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-5)
            np.testing.assert_allclose(a.action_scores, b.action_scores, atol=1e-5)
    finally:
        runner.most_at_once = None
        runner.forget(7)


def test_a_warm_up_that_fails_otherwise_or_at_once_fails(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    Small(monkeypatch, 0).put_under(runner)
    with pytest.raises(torch.OutOfMemoryError):
        warm_up(runner, 8)
    assert runner.most_at_once is None


def test_who_starts_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WARM_UP_S", 1000.0)
    small = Small(monkeypatch, 1)
    start = process.start_runtime

    def started(*given, **named):
        runtime = start(*given, **named)
        small.put_under(Runner(runtime))
        return runtime

    monkeypatch.setattr(process, "start_runtime", started)
    _, ready = open_runner(WorkerOptions("tiny", None, "cpu", "eager", "fp32", 2, 4, None))
    assert ready.warning == "cpu has the memory for 1 keyframes at once: larger batches run in parts"
    assert [size for size, _ in ready.warmup_s] == [1]
