"""ONNX: the forward of training, as a graph for other runtimes, checked against the original before it is kept.

Opset 18: GridSample of opset 20 is wrong in TensorRT 10. Batch, height and width are free (height and width in
multiples of 32). A family whose frames are computed once gets three files, each self-contained: ``x.onnx``, the whole
model for anyone's runtime, and ``x.frame.onnx`` and ``x.clip.onnx``, its two stages, which the service runs. Each
carries the model card (configuration, labels, licence) of its weights file, under ``stmixer`` in ``metadata_props``.
``export_beside`` writes graphs that hold no weights, but read those of the file beside them (``model.shared_weights``).
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir
import onnx_ir.passes.common as common
import torch
from onnxscript import optimizer
from safetensors import safe_open
from torch import Tensor, nn
from torch.export import Dim

from stmixer.model.card import FORMAT, CheckpointError
from stmixer.model.checkpoint import Model, digest, load
from stmixer.model.detector import Detector
from stmixer.model.frame_maps import STRIDES, frame_outputs
from stmixer.model.onnx_files import BESIDE_KEY, HEADER_KEY, graphs_beside, header_digest, stage_path
from stmixer.model.outputs import OUTPUTS, last_stage
from stmixer.model.runtimes.deviation import deviation
from stmixer.model.runtimes.onnx import OnnxRuntime
from stmixer.model.runtimes.prepare import prepared
from stmixer.model.runtimes.runtime import Runtime
from stmixer.model.runtimes.tensors import TensorArrays
from stmixer.model.shared_weights import point_into
from stmixer.model.starts import ABSENT_LOGIT

OPSET = 18
TOLERANCE = 1e-3
"""Of each output's largest value: what a file may differ from eager by."""
MAX_BYTES = 2**31 - 2**24
"""Of weights in one file: protobuf's limit of 2 GiB, less room for the graph."""
_EXPORTED = (2, 64, 96)
"""Batch, height and width of the example that is traced."""
_CHECKED = (3, 96, 64)
"""... and of the one that is compared: another batch, another size."""


class ExportError(CheckpointError):
    """A model that cannot be exported, or whose file does not compute what it computes."""


class Whole(nn.Module):
    """``Detector.forward``, the last stage as a tuple."""

    inputs, outputs = ("clip", "sizes_wh"), OUTPUTS

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, clip: Tensor, sizes_wh: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, frames, H, W) and (B, 2) -> ``OUTPUTS``."""
        return last_stage(self.detector(clip, sizes_wh))

    def example(self, batch: int, height: int, width: int) -> tuple[Any, ...]:
        """Inputs of this shape, the same every time."""
        shape = (batch, 3, self.detector.config.clip.frames, height, width)
        return _example_values(shape), _example_sizes(batch, height, width)

    def dynamic(self) -> tuple[Any, ...]:
        """The free dimensions of the inputs."""
        batch, h, w = Dim("batch"), Dim("h"), Dim("w")
        return {0: batch, 3: 32 * h, 4: 32 * w}, {0: batch}

    def run(self, runtime: Runtime, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The same by a runtime."""
        return last_stage(runtime.detect(*inputs))


class FrameStage(nn.Module):
    """``Detector.frame_stage``."""

    inputs = ("frames",)

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.outputs = frame_outputs(detector.config)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(F, 3, H, W) -> four maps (F, D, H / s, W / s), and starts (F, 5, K, 1)."""
        return self.detector.frame_stage(frames)

    def example(self, batch: int, height: int, width: int) -> tuple[Any, ...]:
        """Inputs of this shape, the same every time."""
        return (_example_values((batch, 3, height, width)),)

    def dynamic(self) -> tuple[Any, ...]:
        """The free dimensions of the inputs."""
        return ({0: Dim("frames"), 2: 32 * Dim("h"), 3: 32 * Dim("w")},)

    def run(self, runtime: Runtime, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The same by a runtime."""
        return runtime.frame_stage(*inputs)


class ClipStage(nn.Module):
    """``Detector.clip_stage``, the last stage of the decoder as a tuple."""

    outputs = OUTPUTS

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.inputs = (*frame_outputs(detector.config), "sizes_wh")

    def forward(self, maps: Sequence[Tensor], sizes_wh: Tensor) -> tuple[Tensor, ...]:
        """Four maps (B, T, D, H / s, W / s), starts (B, T, 5, K, 1) where there are any, and (B, 2) -> ``OUTPUTS``."""
        return last_stage(self.detector.clip_stage(maps, sizes_wh))

    def example(self, batch: int, height: int, width: int) -> tuple[Any, ...]:
        """Inputs of this shape, the same every time."""
        c = self.detector.config.decoder
        maps = [_example_values((batch, c.frames, c.dim, height // s, width // s)) for s in STRIDES]
        if c.cells:
            maps.append(_example_starts((batch, c.frames), c.cells, height, width))
        return maps, _example_sizes(batch, height, width)

    def dynamic(self) -> tuple[Any, ...]:
        """The free dimensions of the inputs."""
        batch, h, w = Dim("batch"), Dim("h"), Dim("w")
        maps = [{0: batch, 3: k * h, 4: k * w} if k > 1 else {0: batch, 3: h, 4: w} for k in (32 // s for s in STRIDES)]
        starts = [{0: batch}] if self.detector.config.decoder.cells else []
        return [*maps, *starts], {0: batch}

    def run(self, runtime: Runtime, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The same by a runtime."""
        return last_stage(runtime.clip_stage(*inputs))


Graph = Whole | FrameStage | ClipStage


def graphs(detector: Detector) -> dict[str, Graph]:
    """What a model is exported as, by stage: whole, and frame and clip where the family has them."""
    if detector.config.backbone.per_frame:
        return {"whole": Whole(detector), "frame": FrameStage(detector), "clip": ClipStage(detector)}
    return {"whole": Whole(detector)}


def export(model: Model, path: Path, stated: str | None = None) -> dict[Path, float]:
    """Write the model's graphs: each file's path, and the worst of its outputs' deviations from eager.

    ``stated``: the digest that the model's own file states, of its tensors as they are stored there; by it the graphs
    are told to be that file's.
    The deviation is of an output's largest value, at another batch and size than exported. Raises ExportError for a
    long-term model, for one over 2 GiB and for a deviation over ``TOLERANCE``; no file is left behind then.
    """
    _check_exportable(model)
    weights = model.detector.state_dict()
    if (size := sum(t.numel() * t.element_size() for t in weights.values())) > MAX_BYTES:
        raise ExportError(f"{model.card.name} has {size / 2**30:.1f} GiB of weights; an ONNX file holds less than 2")
    original = _frozen(model.detector)
    header = json.dumps({"format": FORMAT, "card": model.card.to_dict(), "digest": stated or digest(weights)})
    with _folder_in(path.parent) as folder:
        partial = folder / path.name
        # norms folded, so that every runtime has less to do and the trace less to say
        for stage, graph in graphs(_with_biases(prepared(original, pack=False))).items():
            _write(graph, stage_path(partial, stage), header)
        return _checked(original, partial, path)


def export_beside(weights: Path) -> dict[Path, float]:
    """Write the graphs of a weights file beside it, x.onnx and stages of x.safetensors; they read its tensors there.

    Returns and raises as ``export`` does. The graphs go with this very file: after any change of it they are made anew.
    """
    if weights.is_symlink():
        raise ExportError(f"{weights} is a link, through which no graph may read: name {weights.resolve()}")
    model = load(weights)
    _check_exportable(model)
    original = _frozen(model.detector)
    with safe_open(weights, "np") as file:
        header = file.metadata()["stmixer"]
    properties = {HEADER_KEY: header, BESIDE_KEY: f"{weights.name} {header_digest(weights)}"}
    path = graphs_beside(weights)
    with _folder_in(path.parent) as folder:
        shutil.copy(weights, folder)
        partial = folder / path.name
        # norms stay, since folded weights are not the file's: runtimes fold them when they load the graph
        for stage, graph in graphs(_with_biases(copy.deepcopy(original))).items():
            traced = _traced(graph)
            point_into(traced, folder / weights.name)
            _save(traced, stage_path(partial, stage), properties)
        return _checked(original, partial, path)


def _check_exportable(model: Model) -> None:
    if model.card.config.long_term is not None:
        raise ExportError(f"{model.card.name} is a long-term model: those run eager, there is no graph with a bank yet")


def _frozen(detector: Detector) -> Detector:
    return copy.deepcopy(detector).cpu().eval().requires_grad_(False)


def _with_biases(detector: Detector) -> Detector:
    """The detector itself, every convolution with a bias.

    The exporter makes up one of its own where there is none, and for some kernels one of the wrong shape.
    """
    for conv in detector.modules():
        if isinstance(conv, (nn.Conv2d, nn.Conv3d)) and conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
    return detector


@contextmanager
def _folder_in(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent, prefix=".export-") as folder:
        yield Path(folder)


def _checked(original: Detector, partial: Path, path: Path) -> dict[Path, float]:
    """Compare the files of ``partial`` with the network, and let them be those of ``path``. Raises ExportError."""
    worst: dict[Path, float] = {}
    runtime = OnnxRuntime(partial, TensorArrays(torch.device("cpu"), cells=False))
    for stage, reference in graphs(original).items():
        inputs = reference.example(*_CHECKED)
        with torch.inference_mode():
            worst[stage_path(path, stage)] = deviation(reference.run(runtime, inputs), reference(*inputs))
    if bad := {target.name: f"{value:.1e}" for target, value in worst.items() if not value <= TOLERANCE}:
        raise ExportError(f"the graph does not compute what the model does; deviations over {TOLERANCE:.0e}: {bad}")
    for target in worst:
        partial.with_name(target.name).replace(target)
    return worst


def _write(graph: Graph, path: Path, header: str) -> None:
    _save(_traced(graph), path, {HEADER_KEY: header})


def _traced(graph: Graph) -> onnx_ir.Model:
    with _quiet_exporter():
        program = torch.onnx.export(
            graph,
            graph.example(*_EXPORTED),
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=graph.dynamic(),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        _simplify(program.model)
    for node in program.model.graph:
        node.metadata_props.clear()  # where in our code each comes from: half of a graph's size
    return program.model


def _save(graph: onnx_ir.Model, path: Path, properties: dict[str, str]) -> None:
    graph.metadata_props.update(properties)
    onnx_ir.save(graph, path)  # the exporter itself would move what is over 1.5 GiB into a second file


def _simplify(graph: onnx_ir.Model) -> None:
    """What the exporter's own optimiser does, but for its rewriting rules: those look at every node once for every
    other, minutes for a hundred layers, and runtimes fuse by themselves."""
    optimizer.fold_constants(graph)
    onnx_ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(graph)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's advice to its developers; what matters is checked on the file itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _example_values(shape: tuple[int, ...]) -> Tensor:
    """A smooth deterministic picture, within what normalised frames reach."""
    return torch.linspace(-40, 40, torch.Size(shape).numel()).sin().mul(2).view(shape)


def _example_starts(frames: tuple[int, int], count: int, height: int, width: int) -> Tensor:
    """(B, T, 5, K, 1) of which the last has no cell; boxes within the frame, best first."""
    share = torch.linspace(0.1, 0.9, torch.Size(frames).numel() * count).view(*frames, count)
    logits = torch.linspace(3.0, -3.0, count).repeat(*frames, 1)
    logits[..., -1] = ABSENT_LOGIT
    numbers = (width * share, height * (1 - share), 3 + 2 * share, 1 - share, logits)
    return torch.stack(numbers, 2).unsqueeze(-1)


def _example_sizes(batch: int, height: int, width: int) -> Tensor:
    return torch.tensor([[width - 7.0 * i, height - 3.0 * i] for i in range(batch)])
