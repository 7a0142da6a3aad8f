"""Whether a weights file is whole, and how far a runtime is from the plain network (``stmixer-weights verify``)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from stmixer.model.card import CheckpointError, read_header
from stmixer.model.checkpoint import Model, digest, load_exactly, read_tensors
from stmixer.model.detector import Detector, skeleton
from stmixer.model.outputs import last_stage
from stmixer.model.runtimes.choose import torch_runtime
from stmixer.model.runtimes.deviation import deviation
from stmixer.model.runtimes.onnx import OnnxRuntime
from stmixer.model.runtimes.runtime import Runtime
from stmixer.model.runtimes.tensors import TensorArrays


def check_file(path: Path) -> Iterator[str]:
    """A sentence for each thing found in order. Raises CheckpointError at the first that is not."""
    card, stated = read_header(path)
    tensors = read_tensors(path)
    detector = skeleton(card.config)
    load_exactly(detector, tensors)
    yield f"{card.name}: {len(tensors)} tensors, every name and shape fits"
    if (actual := digest(tensors)) != stated:
        raise CheckpointError(f"{path}: the digest of the tensors is {actual}, the header says {stated}: damaged file")
    yield f"digest {actual}"
    yield "all numbers finite"
    if not _gives_finite_numbers(detector):
        raise CheckpointError(f"{path}: a small clip gives infinities or numbers that are none")
    yield "one forward, its output finite"


def _gives_finite_numbers(detector: Detector) -> bool:
    """Whether a forward on a small deterministic clip gives finite boxes and logits in every stage."""
    with torch.inference_mode():
        output = detector.eval()(_example_clip(detector, 1, 64, 64), torch.tensor([[64.0, 64.0]]))
    return all(
        bool(values.isfinite().all())
        for stage in output.stages
        for values in (stage.human_logits, stage.action_logits, stage.boxes_xyxy_px)
    )


def _example_clip(detector: Detector, batch: int, height: int, width: int) -> torch.Tensor:
    shape = (batch, 3, detector.config.clip.frames, height, width)
    return torch.linspace(-40, 40, torch.Size(shape).numel()).sin().mul(2).view(shape)


def check_runtime(model: Model, device: torch.device, runtime: str, precision: str) -> str:
    """One sentence: the runtime's worst deviation from the network in float32 on the CPU, of each output's largest.

    Raises RuntimeUnavailable.
    """
    clip, sizes = _example_clip(model.detector, 2, 96, 128), torch.tensor([[128.0, 96.0], [121.0, 90.0]])
    with torch.inference_mode():
        expected = last_stage(model.detector.eval()(clip, sizes))
    if runtime != "onnx":
        opened = torch_runtime(model, device, runtime=runtime, precision=precision)
        return _compared(opened, clip, sizes, expected)
    from stmixer.model.export import export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export(model, path)
        return _compared(OnnxRuntime(path, TensorArrays(device, cells=False)), clip, sizes, expected)


def _compared(runtime: Runtime, clip: torch.Tensor, sizes: torch.Tensor, expected: tuple[torch.Tensor, ...]) -> str:
    output = runtime.detect(runtime.arrays.given(clip.numpy()), runtime.arrays.given(sizes.numpy()))
    worst = deviation(last_stage(output), expected)
    how = f"{runtime.name} in {runtime.precision} on {runtime.device}"
    return f"{how} deviates from the network in fp32 by {worst:.1e} of an output's largest value"
