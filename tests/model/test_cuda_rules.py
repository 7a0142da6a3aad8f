"""What CUDA asks of whoever uses it (docs/gpu.md): what only a GPU can show. On CUDA alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import Model
from stmixer.model.device_preprocess import make_clip_on
from stmixer.model.labels import AVA_LABELS
from stmixer.model.outputs import last_stage
from stmixer.model.preprocess import make_clip
from stmixer.model.runtimes import cuda_graph
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.deviation import deviation
from stmixer.model.runtimes.runtime import Runtime
from stmixer.model.zoo import variant

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
NAMES = ("tiny", "rt_lite0")
SEVERAL = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture
def opened(filled) -> Callable[..., Runtime]:
    def make(name: str, runtime: str, device: str = "cuda") -> Runtime:
        model = Model(filled(variant(name)), ModelCard(variant(name), AVA_LABELS, trained=False))
        return torch_runtime(model, torch.device(device), runtime=runtime, precision="fp32")

    return make


@pytest.fixture
def waits_are_errors() -> Iterator[Callable[[bool], None]]:
    """Whether a wait for the device is an error from now on."""
    yield lambda on: torch.cuda.set_sync_debug_mode("error" if on else "default")
    torch.cuda.set_sync_debug_mode("default")


def detected(runtime: Runtime, clip: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    return last_stage(runtime.detect(clip.to(runtime.device), sizes.to(runtime.device)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("graphs", [32, 1])
def test_graphs_in_one_pool_do_not_disturb_each_other(
    name: str, graphs: int, opened, padded_clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed in another order than captured; with room for one, each is captured anew."""
    monkeypatch.setattr(cuda_graph, "MAX_GRAPHS", graphs)
    runtime, eager = opened(name, "cudagraph"), opened(name, "eager")
    frames = variant(name).clip.frames
    clips = [
        padded_clip(frames, sizes, seed) for seed, sizes in enumerate(([(64, 64)], [(96, 64)] * 3, [(64, 96)] * 2))
    ]
    first = [detected(runtime, *clip) for clip in clips]
    for place in (1, 0, 2, 0, 1):
        again = detected(runtime, *clips[place])
        assert all(map(torch.equal, again, first[place])), place
    for ours, clip in zip(first, clips, strict=True):
        assert deviation(ours, detected(eager, *clip)) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("runtime", ["eager", "cudagraph"])
def test_a_forward_waits_for_nothing(name: str, runtime: str, opened, padded_clip, waits_are_errors) -> None:
    """Neither copies to the host nor sizes that depend on numbers."""
    ran = opened(name, runtime)
    clip, sizes = (x.cuda() for x in padded_clip(variant(name).clip.frames, [(64, 64)]))
    ran.detect(clip, sizes)
    waits_are_errors(True)
    ran.detect(clip, sizes)


def test_frames_may_change_once_the_clip_is_there() -> None:
    config = variant("tiny").preprocess
    window = np.random.default_rng(0).integers(0, 256, (32, 480, 640, 3), np.uint8)
    expected, _ = make_clip([window], config)
    torch.cuda.synchronize()
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 4096  # what would hold a later copy up
    clip, _ = make_clip_on(torch.device("cuda"), [window], config)
    window[:] = 0
    np.testing.assert_allclose(clip.cpu().numpy(), expected, atol=1e-6)


def run(program: str) -> str:
    """What it says in a process of its own, whose CUDA may break."""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2]


def test_a_broken_context_is_told() -> None:
    program = """
import torch
from stmixer.service.worker.process import reason_of
try:
    torch.arange(3, device="cuda")[torch.tensor([7], device="cuda")]
    torch.cuda.synchronize()
except RuntimeError as error:
    print(reason_of(error))
"""
    assert run(program) == "cuda"


@pytest.mark.parametrize("runtime", ["eager", "cudagraph"])
def test_what_is_too_large_is_told_and_what_is_small_runs_on(runtime: str) -> None:
    """Out of memory in a warm-up, capture included: the process goes on with smaller batches."""
    program = f"""
import torch
from stmixer.model.checkpoint import untrained
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.service.worker.process import reason_of, warm_up
from stmixer.service.worker.runner import Runner
free, total = torch.cuda.mem_get_info()
runner = Runner(torch_runtime(untrained("slowonly_r50"), torch.device("cuda"), runtime="{runtime}", precision="fp32"))
warm_up(runner, 1)
held = torch.cuda.memory_reserved()
torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * held / total))
try:
    runner.runtime.detect(torch.zeros(64, 3, 4, 256, 448, device="cuda"), torch.full((64, 2), 256.0, device="cuda"))
    print("it fits")
except RuntimeError as error:
    print(reason_of(error), list(warm_up(runner, 1)))
"""
    assert run(program) == "oom [1]"


@SEVERAL
@pytest.mark.parametrize("runtime", ["eager", "cudagraph", "compile"])
def test_another_gpu_than_the_first(runtime: str, opened, padded_clip) -> None:
    clip, sizes = padded_clip(8, [(64, 64)] * 3)
    before = torch.cuda.memory_allocated(0)
    ran = opened("rt_lite0", runtime, "cuda:1")
    found = detected(ran, clip, sizes)
    assert {str(x.device) for x in found} == {"cuda:1"}
    assert torch.cuda.memory_allocated(0) == before, "something of it is on the first"
    assert (
        deviation([x.cpu() for x in found], [x.cpu() for x in detected(opened("rt_lite0", "eager"), clip, sizes)])
        <= 1e-3
    )
