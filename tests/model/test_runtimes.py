"""Every runtime gives the network's own numbers: one suite over variants and runtimes."""

from __future__ import annotations

import psutil
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import Model
from stmixer.model.detector import Detector, skeleton
from stmixer.model.labels import AVA_LABELS
from stmixer.model.outputs import last_stage
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.deviation import deviation
from stmixer.model.runtimes.prepare import prepared
from stmixer.model.runtimes.runtime import Runtime
from stmixer.model.runtimes.tensors import TensorArrays
from stmixer.model.zoo import VARIANTS, variant

CPU = torch.device("cpu")
TOLERANCE = 1e-3
"""Of an output's largest value, in fp32."""
SMALL = ("tiny", "rt_lite0")
QUICK = {("tiny", "eager"), ("rt_lite0", "eager"), ("rt_nano", "eager")}
SLOW = {
    ("tiny", "onnx"),
    ("rt_lite0", "onnx"),
    ("tiny", "compile"),
    ("slowonly_r50", "eager"),
    ("rt_resnet18", "eager"),
    ("rt_nano", "onnx"),
}
"""Exporting and compiling take half a minute and more each, large networks minutes: all the rest is a drill."""
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def marks(name: str, runtime: str) -> list:
    """By how long it takes and what it needs."""
    if runtime.startswith("cuda"):
        return [pytest.mark.slow, pytest.mark.gpu, CUDA]
    if (name, runtime) in QUICK:
        return []
    if (name, runtime) in SLOW:
        return [pytest.mark.slow]
    return [pytest.mark.drill]


def of(names: tuple[str, ...], runtimes: tuple[str, ...]) -> list:
    """Every variant with every runtime."""
    return [pytest.param((n, r), id=f"{n}-{r}", marks=marks(n, r)) for n in names for r in runtimes]


RUNTIMES = ("eager", "onnx", "compile", "cuda-eager", "cuda-compile", "cuda-cudagraph", "cuda-onnx")
EVERY = pytest.mark.parametrize("made", of(tuple(VARIANTS), RUNTIMES), indirect=True)


@pytest.fixture(scope="module")
def made(request, filled, onnx_file) -> tuple[Runtime, Detector]:
    """A runtime, and the network that it must agree with."""
    name, runtime = request.param
    model = Model(filled(variant(name)), ModelCard(variant(name), AVA_LABELS, trained=False))
    device = torch.device("cuda" if runtime.startswith("cuda-") else "cpu")
    kind = runtime.removeprefix("cuda-")
    if kind != "onnx":
        return torch_runtime(model, device, runtime=kind, precision="fp32"), filled(variant(name))
    path = onnx_file(name)
    from stmixer.model.runtimes.onnx import OnnxRuntime  # where the tests on CUDA run it may be lacking

    return OnnxRuntime(path, TensorArrays(device, cells=False)), model.detector


def compare(made: tuple[Runtime, Detector], clip: Tensor, sizes: Tensor) -> None:
    runtime, detector = made
    with torch.inference_mode():
        expected = detector(clip, sizes)
    output = runtime.detect(clip.to(runtime.device), sizes.to(runtime.device))
    assert deviation(last_stage(output), last_stage(expected)) <= TOLERANCE
    assert len(output.stages) == (len(expected.stages) if runtime.all_stages else 1)
    assert all(x.dtype is torch.float32 and x.device.type == runtime.device.type for x in last_stage(output))


@EVERY
@pytest.mark.parametrize("sizes", [[(96, 64)], [(64, 96), (50, 90), (33, 65)]], ids=["one", "three"])
def test_same_numbers_at_other_batches_and_sizes(made, padded_clip, sizes: list[tuple[int, int]]) -> None:
    compare(made, *padded_clip(made[1].config.clip.frames, sizes))


@pytest.mark.parametrize("made", of(("rt_lite0", "rt_resnet18", "rt_nano"), RUNTIMES), indirect=True)
def test_stages_are_the_whole(made, padded_clip) -> None:
    """The frame stage frame by frame, as a stream brings them, then the clip stage."""
    runtime, detector = made
    clip, sizes = padded_clip(detector.config.clip.frames, [(96, 64), (90, 60)])
    clip, sizes = clip.to(runtime.device), sizes.to(runtime.device)
    frames = [[runtime.frame_stage(clip[b : b + 1, :, t]) for t in range(clip.shape[2])] for b in range(2)]
    maps = [torch.stack([torch.cat([f[k] for f in one]) for one in frames]) for k in range(len(frames[0][0]))]
    whole, staged = runtime.detect(clip, sizes), runtime.clip_stage(maps, sizes)
    assert deviation(last_stage(staged), last_stage(whole)) <= 1e-4


@pytest.mark.parametrize("made", of(SMALL, ("eager", "onnx", "cuda-cudagraph")), indirect=True)
def test_results_are_the_callers(made, padded_clip) -> None:
    """A later call changes no earlier result."""
    runtime, detector = made
    first, second = (padded_clip(detector.config.clip.frames, [(64, 64)], seed) for seed in (0, 5))
    output = runtime.detect(*(x.to(runtime.device) for x in first))
    before = [x.clone() for x in last_stage(output)]
    runtime.detect(*(x.to(runtime.device) for x in second))
    assert all(map(torch.equal, before, last_stage(output)))


@pytest.mark.parametrize("made", of(SMALL, ("eager", "onnx", "compile", "cuda-eager", "cuda-cudagraph")), indirect=True)
@pytest.mark.slow
def test_no_leak_over_200_steps(made, padded_clip) -> None:
    runtime, detector = made
    # what is compiled is compiled for each shape: this one has been met above
    clip, sizes = padded_clip(detector.config.clip.frames, [(96, 64) if runtime.name == "compile" else (32, 32)])
    clip, sizes = clip.to(runtime.device), sizes.to(runtime.device)

    def used() -> int:
        if runtime.device.type == "cuda":
            return torch.cuda.memory_allocated()
        return psutil.Process().memory_info().rss

    for _ in range(50):
        runtime.detect(clip, sizes)
    before = used()
    for _ in range(200):
        runtime.detect(clip, sizes)
    # one clip and its maps kept a step would be over 100 MiB
    assert used() - before < 16 * 2**20


def test_prepared_leaves_the_original_alone(filled) -> None:
    detector = filled(variant("tiny"))
    before = {name: x.clone() for name, x in detector.state_dict().items()}
    ready = prepared(detector)
    assert {k: torch.equal(x, before[k]) for k, x in detector.state_dict().items()} == dict.fromkeys(before, True)
    norms = [m for m in ready.backbone.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert norms == []
    assert any(isinstance(m, torch.nn.BatchNorm3d) for m in detector.backbone.modules())


class NothingFromTheHost(TorchDispatchMode):
    """Fails where a forward on a device makes a tensor on the host: a CUDA graph cannot record its journey."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert not (isinstance(out, Tensor) and out.device.type == "cpu"), f"{func} makes a tensor on the host"
        return out


@pytest.mark.parametrize("name", VARIANTS)
def test_a_forward_can_be_recorded(name: str) -> None:
    detector = skeleton(variant(name)).requires_grad_(False)
    clip = torch.empty(2, 3, detector.config.clip.frames, 64, 64, device="meta")
    with NothingFromTheHost():
        detector(clip, torch.empty(2, 2, device="meta"))


@pytest.fixture
def half(request, filled) -> Runtime:
    model = Model(filled(variant("rt_lite0")), ModelCard(variant("rt_lite0"), AVA_LABELS, trained=False))
    return torch_runtime(model, torch.device("cuda"), runtime=request.param, precision="bf16")


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("half", ["eager", "compile", "cudagraph"], indirect=True)
def test_bf16_is_near(half: Runtime, filled, padded_clip) -> None:
    clip, sizes = padded_clip(8, [(96, 64)])
    with torch.inference_mode():
        expected = filled(variant("rt_lite0"))(clip, sizes)
    output = half.detect(clip.cuda(), sizes.cuda())
    assert deviation(last_stage(output), last_stage(expected)) <= 0.1
