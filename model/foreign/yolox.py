"""The ONNX file of YOLOX-nano, trained on COCO (Apache-2.0), as a start for backbone and person head.

An export with its batch norms folded has no names for most of its tensors, but its convolutions stand in the order in
which they run, and so do ours: they are taken one by one, each checked by shape, stride and groups. Of the 80 classes
the person's row alone is taken. Nothing in the file is executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stmixer.model.card import CheckpointError
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import Detector, skeleton
from stmixer.model.foreign.backbone_tensors import Pretrained
from stmixer.model.foreign.file_kind import described

_CLASSES, _PERSON = 80, 0
_RGB_FROM_BGR = [2, 1, 0]
_WHITE = 255.0


@dataclass(frozen=True, slots=True)
class _FileConvolution:
    """A convolution of the file: its name there, its tensors, and what else must agree."""

    name: str
    weight: Tensor
    bias: Tensor
    stride: int
    groups: int


def read_yolox(path: Path, config: DetectorConfig) -> Pretrained:
    """The tensors of the backbone, and of the person head where the variant has one.

    Raises:
        CheckpointError: no such file, the package that reads it is missing, or a convolution that does not fit.
    """
    detector = skeleton(config)
    ours = list(_our_convolutions(detector))
    theirs = _file_convolutions(path)
    of_backbone = sum(isinstance(module, nn.Conv2d) for module in detector.backbone.modules())
    problems: list[str] = []
    tensors: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    left = [name for conv in theirs[len(ours) :] for name in (f"{conv.name}.weight", f"{conv.name}.bias")]
    if len(ours) > len(theirs) or (len(theirs) > len(ours) > of_backbone):
        problems.append(f"{len(theirs)} convolutions instead of {len(ours)}")
    for number, ((name, module), conv) in enumerate(zip(ours, theirs, strict=False)):
        weight, bias = conv.weight, conv.bias
        if number == 0:
            weight = _stem_for_rgb(weight)
            adapted[f"{name}.weight"] = "pixels of 2 x 2 as one kernel, for RGB in 0..1 instead of BGR in 0..255"
        elif name.endswith(".person") and len(weight) == _CLASSES:
            weight, bias = weight[_PERSON : _PERSON + 1], bias[_PERSON : _PERSON + 1]
            adapted |= dict.fromkeys((f"{name}.weight", f"{name}.bias"), f"the person's row of {conv.name}")
            left.append(f"{conv.name}: the rows of the other {_CLASSES - 1} classes")
        stride = module.stride[0] // (2 if number == 0 else 1)
        given = (tuple(weight.shape), tuple(bias.shape), conv.stride, conv.groups)
        wanted = (tuple(module.weight.shape), (module.out_channels,), stride, module.groups)
        if given != wanted:
            problems.append(f"{conv.name}: weight, bias, stride and groups are {given}, {name} wants {wanted}")
        tensors |= {f"{name}.weight": weight.contiguous(), f"{name}.bias": bias.contiguous()}
    if problems:
        raise CheckpointError(f"{path} does not fit {config.name}:\n  " + "\n  ".join(problems))
    return Pretrained(tensors, adapted, tuple(left))


def _our_convolutions(detector: Detector) -> Iterator[tuple[str, nn.Conv2d]]:
    """Names and modules of backbone and person head, in the order in which they run."""
    for name, module in detector.named_modules():
        if name.startswith(("backbone.", "person_head.")) and isinstance(module, nn.Conv2d):
            yield name, module


def _stem_for_rgb(weight: Tensor) -> Tensor:
    """(C, 12, 3, 3) on 2 x 2 pixels as channels (left column before right, top before bottom; BGR in 0..255 each).

    Returns (C, 3, 6, 6) of stride 2, for RGB in 0..1; a weight of another shape as it is.
    """
    if weight.shape[1:] != (12, 3, 3):
        return weight
    by_pixel = weight.view(-1, 2, 2, 3, 3, 3)[:, :, :, _RGB_FROM_BGR] * _WHITE  # C, column, row, colour, 3, 3
    return by_pixel.permute(0, 3, 4, 2, 5, 1).flatten(4, 5).flatten(2, 3)


def _file_convolutions(path: Path) -> list[_FileConvolution]:
    """Every convolution of the file, in its order. Raises CheckpointError."""
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: {error.name} is missing; pip install 'stmixer[torch]'") from None
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if path.is_file() and (kind := described(path)) is not None:
        raise CheckpointError(f"{path} cannot be read as an ONNX file with weights: it is {kind}")
    try:
        graph: Any = onnx.load(path, load_external_data=False).graph
        values = {value.name: torch.from_numpy(numpy_helper.to_array(value).copy()) for value in graph.initializer}
        return [_file_convolution(node, values) for node in graph.node if node.op_type == "Conv"]
    except Exception as error:  # noqa: BLE001 (protobuf's and onnx's errors share no base class)
        raise CheckpointError(f"{path} cannot be read as an ONNX file with weights: {error}") from None


def _file_convolution(node: Any, values: dict[str, Tensor]) -> _FileConvolution:
    strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])
    groups = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
    _, weight, bias = node.input
    name = weight.removesuffix(".weight") if weight.endswith(".weight") else node.name
    return _FileConvolution(name, values[weight], values[bias], strides[0], groups)
