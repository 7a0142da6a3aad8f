"""A detector made ready to run and never to train again: norms folded into convolutions, wide layers packed.

Same numbers to rounding (1e-6 of the largest). The detector that it is made from is left as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stmixer.model.detector import Detector
from stmixer.model.float32 import stays_in_float32
from stmixer.model.runtimes.precision import DTYPES

_WORTH_PACKING = 2**16
"""Weights of a linear layer from which packing them is measurable."""


@torch.no_grad()
def prepared(detector: Detector, precision: str = "fp32", *, pack: bool = True) -> Detector:
    """A copy for inference on the detector's device. Tensors that need no change are shared with the original.

    In half precisions (for autocast) products keep their weights in 16 bits, but for layers that stay in float32.
    ``pack`` lays out those of linear layers anew, on a CPU in fp32; a compiler wants them as they are.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*detector.parameters(), *detector.buffers())}
    ready = copy.deepcopy(detector, shared).eval()
    _fold_norms(ready)
    if precision != "fp32":
        _convert_to_16_bits(ready, DTYPES[precision])
    elif pack and next(ready.parameters()).device.type == "cpu" and _has_onednn():
        _pack_linears(ready.decoder, rows=ready.config.decoder.queries)
    return ready


def _fold_norms(detector: Detector) -> None:
    """Every batch norm's scale and shift into the convolution that it reads."""
    parents = {child: (parent, name) for parent in detector.modules() for name, child in parent.named_children()}
    for convolution, norm in _convolutions_with_norms(detector):
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # new parameters: the old ones are the original's too
        convolution.weight, convolution.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        parent, name = parents[norm]
        setattr(parent, name, getattr(norm, "act", nn.Identity()))  # a timm norm holds the activation too


def _convolutions_with_norms(detector: Detector) -> list[tuple[Any, Any]]:
    """Pairs of a convolution and the batch norm that reads its output, told by running the smallest clip."""
    made: list[tuple[Tensor, nn.Module]] = []
    pairs: list[tuple[Any, Any]] = []

    def note_output(module: nn.Module, _: Any, output: Tensor) -> None:
        made.append((output, module))

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pairs.extend((convolution, module) for output, convolution in made if output is inputs[0])

    handles = []
    for module in detector.backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            handles.append(module.register_forward_hook(note_output))
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            handles.append(module.register_forward_pre_hook(note_input))
    try:
        config, device = detector.config, next(detector.parameters()).device
        shape = (1, 3, 32, 32) if config.backbone.per_frame else (1, 3, config.clip.frames, 32, 32)
        detector.backbone(torch.zeros(shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _convert_to_16_bits(detector: Detector, dtype: torch.dtype) -> None:
    """Weights of products in 16 bits: autocast would shorten them anew in every forward."""
    wide = {part for module in detector.modules() if stays_in_float32(module) for part in module.modules()}
    for module in detector.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)) and module not in wide:
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to(dtype), False))


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in memory as oneDNN's kernels read it.

    A generator of mixing parameters (32768 x 256) meets a hundred queries at a time: half of the product's time would
    go into laying out its weight anew. The operators are those that torch.compile uses for frozen weights.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out


def _pack_linears(module: nn.Module, rows: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and child.weight.numel() >= _WORTH_PACKING:
            setattr(module, name, PackedLinear(child, rows))
        else:
            _pack_linears(child, rows)
