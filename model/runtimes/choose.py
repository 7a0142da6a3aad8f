"""From what a user asked for to a runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from stmixer.model.checkpoint import CheckpointError, Model, open_model
from stmixer.model.runtimes.compiled import CompiledRuntime
from stmixer.model.runtimes.cuda_graph import CudaGraphRuntime
from stmixer.model.runtimes.eager import EagerRuntime
from stmixer.model.runtimes.precision import pick_precision
from stmixer.model.runtimes.runtime import Runtime, RuntimeUnavailable

_TORCH = {"eager": EagerRuntime, "compile": CompiledRuntime, "cudagraph": CudaGraphRuntime}


def open_runtime(
    name: str | None, weights: Path | None, device: torch.device, *, runtime: str = "auto", precision: str = "auto"
) -> Runtime:
    """A model as ``open_model`` finds it, or one in an .onnx file, ready to run.

    ``auto`` is ONNX Runtime for .onnx files and eager otherwise. Raises CheckpointError or ConfigError for the weights
    and RuntimeUnavailable for a runtime or a precision that cannot be had.
    """
    if weights is not None and weights.suffix == ".onnx":
        if runtime not in ("auto", "onnx"):
            raise RuntimeUnavailable(f"--runtime {runtime} cannot run {weights.name}: give it the .safetensors file")
        if precision not in ("auto", "fp32"):
            raise RuntimeUnavailable(f"--precision {precision}: {weights.name} is fp32; leave --precision out")
        # with onnxruntime's import, half a second that the others need not
        from stmixer.model.runtimes.onnx import OnnxRuntime

        opened = OnnxRuntime(weights, device)
        if name not in (None, opened.card.name):
            raise CheckpointError(f"{weights} holds {opened.card.name}, not {name}; leave --model out")
        return opened
    if runtime == "onnx":
        raise RuntimeUnavailable(
            "--runtime onnx wants an .onnx file for --weights; `stmixer-weights export FILE -o x.onnx` makes one"
        )
    return torch_runtime(open_model(name, weights), device, runtime=runtime, precision=precision)


def torch_runtime(model: Model, device: torch.device, *, runtime: str = "auto", precision: str = "auto") -> Runtime:
    """A model in memory, run by PyTorch. Raises RuntimeUnavailable."""
    name = "eager" if runtime == "auto" else runtime
    if name not in _TORCH:
        raise RuntimeUnavailable(f"--runtime {runtime!r} is none; use auto, {', '.join(_TORCH)} or onnx")
    if name != "eager" and model.card.config.long_term is not None:
        raise RuntimeUnavailable(f"--runtime {name} cannot run the long-term model {model.card.name}; use eager")
    return _TORCH[name](model, device, pick_precision(precision, device))
