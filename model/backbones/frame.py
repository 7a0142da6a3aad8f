"""Image networks from timm as backbones of the realtime family: every frame by itself, four maps.

timm builds the network; what is ours is the padding, and float32 where half precision would cost too much. TensorFlow's
"same" padding depends on a layer's input size, but clips are padded to multiples of 32, so every layer of stride 2 sees
even sizes and its padding is a constant. Constant, it exports with dynamic height and width.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from model.config import FrameConfig
from model.float32 import InFloat32

_IN_FLOAT32 = {"tf_efficientnet_lite0": ("conv_stem", "blocks.0.", "blocks.1.", "blocks.2."), "resnet18": ()}
"""The layers (prefixes) of each network that autocast leaves alone.

In bf16 the four maps of a trained Lite0 are 5 to 7 % off in the mean, with these in float32 0.3 to 1.5 %. They hold 2 % of
its weights.
"""


class EvenSameConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's "same" padding for inputs of even size: the odd column goes right."""

    def forward(self, x: Tensor) -> Tensor:
        k, stride = self.kernel_size[0], self.stride[0]
        before = (k - stride) // 2
        after = k - stride - before
        return super().forward(F.pad(x, (before, after, before, after)))


class Float32Conv2d(InFloat32, nn.Conv2d):
    """A convolution that autocast does not shorten."""


class Float32EvenSameConv2d(InFloat32, EvenSameConv2d):
    """The same of ours."""


class FrameBackbone(nn.Module):
    """(F, 3, H, W) frames -> four maps (F, C_k, H / s, W / s) at strides s = 4, 8, 16, 32."""

    def __init__(self, config: FrameConfig) -> None:
        super().__init__()
        # no download here: weights come from a file (model.imagenet) or a checkpoint
        self.network = timm.create_model(config.network, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))
        _replace_convolutions(self.network, _IN_FLOAT32[config.network])

    @property
    def channels(self) -> tuple[int, ...]:
        """C_k of the four maps."""
        info: Any = self.network.feature_info
        return tuple(info.channels())

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        # depthwise convolutions run twice as fast with channels last, on CPU and GPU
        return tuple(self.network(frames.contiguous(memory_format=torch.channels_last)))


def _replace_convolutions(network: nn.Module, in_float32: tuple[str, ...]) -> None:
    """Ours for timm's that look at their input's size, and for those that stay in float32. Names and weights stay."""
    for name, child in list(network.named_modules()):
        if not isinstance(child, nn.Conv2d):
            continue
        same, wide = isinstance(child, Conv2dSame), name.startswith(in_float32)
        if not (same or wide):
            continue
        kind = (Float32EvenSameConv2d if wide else EvenSameConv2d) if same else Float32Conv2d
        conv = kind(
            child.in_channels,
            child.out_channels,
            child.kernel_size,  # type: ignore[arg-type]
            child.stride,  # type: ignore[arg-type]
            child.padding,  # type: ignore[arg-type]
            groups=child.groups,
            bias=child.bias is not None,
            device="meta",
        )
        conv.weight, conv.bias = child.weight, child.bias
        network.set_submodule(name, conv)
