"""From what a user asked for to a runtime. PyTorch is imported where one of its runtimes is what runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmixer.model.bundled import DEFAULT, bundled
from stmixer.model.card import CheckpointError, ModelCard, read_header
from stmixer.model.extras import missing
from stmixer.model.named import weights_named
from stmixer.model.onnx_files import graphs_of
from stmixer.model.runtimes.arrays import DeviceName
from stmixer.model.runtimes.host import HostArrays
from stmixer.model.runtimes.runtime import Runtime, RuntimeUnavailable
from stmixer.model.zoo import variant

if TYPE_CHECKING:
    import torch

    from stmixer.model.checkpoint import Model

log = logging.getLogger("stmixer")

TORCH_RUNTIMES = ("eager", "compile", "cudagraph")
NO_TORCH = "PyTorch is not installed; pip install 'stmixer[torch]' brings it"


def has_torch() -> bool:
    """Whether PyTorch is installed, with what our runtimes on it need besides; nothing is imported."""
    return not missing(["torch", "torchvision", "timm"])


def open_runtime(
    name: str | None,
    weights: Path | None,
    device: DeviceName,
    *,
    runtime: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    tensors: bool = False,
) -> Runtime[Any]:
    """A model as ``open_model`` finds it, or one in an .onnx file, ready to run.

    ``auto`` is ONNX Runtime for .onnx files, and on a CPU for weights with graphs of their own beside them; otherwise
    eager. ``threads``: of a CPU's products; by default what the runtime takes. ``tensors``: arrays are torch's whatever
    runs. Raises CheckpointError or ConfigError for the weights, and RuntimeUnavailable for a runtime or a precision
    that cannot be had.
    """
    if weights is not None and weights.suffix == ".onnx":
        if runtime not in ("auto", "onnx"):
            raise RuntimeUnavailable(f"--runtime {runtime} cannot run {weights.name}: give it the .safetensors file")
        if precision not in ("auto", "fp32"):
            raise RuntimeUnavailable(f"--precision {precision}: {weights.name} is fp32; leave --precision out")
        opened = _onnx_runtime(weights, None, device, threads, tensors)
        if name not in (None, opened.card.name):
            raise CheckpointError(f"{weights} holds {opened.card.name}, not {name}; leave --model out")
        return opened
    if runtime in ("auto", "onnx") and (found := _with_graphs(name, weights)) is not None:
        graphs, card = found
        if runtime == "onnx" and precision not in ("auto", "fp32"):
            raise RuntimeUnavailable(f"--precision {precision}: {graphs.name} is fp32; leave --precision out")
        if runtime == "onnx":
            return _onnx_runtime(graphs, card, device, threads, tensors)
        if device.type == "cpu" and precision in ("auto", "fp32"):
            try:
                return _onnx_runtime(graphs, card, device, threads, tensors)
            except CheckpointError as error:
                if not has_torch():
                    raise
                log.warning("%s; PyTorch runs instead", error)
    if runtime == "onnx":
        raise RuntimeUnavailable(
            "--runtime onnx wants an .onnx file for --weights; `stmixer-weights export FILE -o x.onnx` makes one"
        )
    if not has_torch():
        _check_known(name, weights)
        raise RuntimeUnavailable(_what_for(name, weights, device, runtime, precision) + NO_TORCH)
    import torch

    from stmixer.model.checkpoint import open_model

    if threads is not None:
        torch.set_num_threads(threads)
    return torch_runtime(open_model(name, weights), torch.device(str(device)), runtime=runtime, precision=precision)


def why_chosen(opened: Runtime[Any], wanted: str) -> str:
    """Why this runtime runs, where ``wanted`` was asked for, as a clause."""
    if wanted != "auto":
        return "as asked for"
    if opened.name == "onnx":
        return "since its graphs lie ready"
    if opened.device.type == "cuda":
        return "since it runs on a GPU"
    return "since it has no ONNX graphs" if opened.precision == "fp32" else "for its precision"


def torch_runtime(model: Model, device: torch.device, *, runtime: str = "auto", precision: str = "auto") -> Runtime:
    """A model in memory, run by PyTorch. Raises RuntimeUnavailable."""
    from stmixer.model.runtimes.compiled import CompiledRuntime
    from stmixer.model.runtimes.cuda_graph import CudaGraphRuntime
    from stmixer.model.runtimes.eager import EagerRuntime
    from stmixer.model.runtimes.precision import pick_precision

    made = dict(zip(TORCH_RUNTIMES, (EagerRuntime, CompiledRuntime, CudaGraphRuntime), strict=True))
    name = "eager" if runtime == "auto" else runtime
    if name not in made:
        raise RuntimeUnavailable(f"--runtime {runtime!r} is none; use auto, {', '.join(made)} or onnx")
    if name != "eager" and model.card.config.long_term is not None:
        raise RuntimeUnavailable(f"--runtime {name} cannot run the long-term model {model.card.name}; use eager")
    return made[name](model, device, pick_precision(precision, device))


def _onnx_runtime(
    path: Path, card: ModelCard | None, device: DeviceName, threads: int | None, tensors: bool
) -> Runtime[Any]:
    """ONNX Runtime on its graphs: on a CPU it wants no PyTorch, on a GPU that holds the memory."""
    # with onnxruntime's import, half a second that the others need not
    from stmixer.model.runtimes.onnx import OnnxRuntime

    if device.type == "cpu" and not tensors:
        return OnnxRuntime(path, HostArrays(), card=card, threads=threads)
    if not has_torch():
        raise RuntimeUnavailable(f"ONNX Runtime on {device} wants PyTorch. {NO_TORCH}")
    import torch

    from stmixer.model.runtimes.tensors import TensorArrays

    arrays = TensorArrays(torch.device(str(device)), cells=False)
    return OnnxRuntime(path, arrays, card=card, threads=threads)


def _with_graphs(name: str | None, weights: Path | None) -> tuple[Path, ModelCard] | None:
    """The graphs that lie beside the weights that are meant, and the weights' card; None where there are none.

    Raises CheckpointError for weights that cannot be read, or are not called ``name``.
    """
    meant = weights if weights is not None else Path(DEFAULT if name is None else name)
    if weights is None and str(meant) not in bundled():
        return None
    card, _ = read_header(meant)
    if name not in (None, card.name):
        raise CheckpointError(f"{weights} holds {card.name}, not {name}; leave --model out")
    named = weights_named(meant)
    try:
        graphs = graphs_of(meant if named is None else named.file)
    except CheckpointError as error:
        log.warning("%s", error)
        return None
    return None if graphs is None else (graphs, card)


def _check_known(name: str | None, weights: Path | None) -> None:
    """Raises CheckpointError or ConfigError, as ``open_model`` does, for what PyTorch would not help with."""
    if weights is not None or name in bundled():
        return
    if name in (None, DEFAULT) and DEFAULT not in bundled():
        raise CheckpointError(f"the bundled weights {DEFAULT} are not installed; name others with --weights")
    if name is not None:
        variant(name)


def _what_for(name: str | None, weights: Path | None, device: DeviceName, runtime: str, precision: str) -> str:
    """What was asked for that only PyTorch does, as the beginning of a sentence."""
    if runtime not in ("auto", "onnx"):
        return f"--runtime {runtime} is PyTorch's. "
    if device.type == "cuda":
        return f"A model on {device} is run by PyTorch. "
    if precision not in ("auto", "fp32"):
        return f"--precision {precision} is PyTorch's. "
    of = str(weights) if weights is not None else f"--model {name or DEFAULT}"
    return f"{of} has no ONNX graphs, which ONNX Runtime would run, and is then run by PyTorch. "
