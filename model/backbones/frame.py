"""Image networks from timm as backbones of the realtime family: every frame by itself, four maps.

timm builds the network; what is ours is the padding. TensorFlow's "same" padding depends on a layer's input size, but
clips are padded to multiples of 32, so every layer of stride 2 sees even sizes and its padding is a constant. Constant,
it exports with dynamic height and width.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from stmixer.model.config import FrameConfig
from stmixer.model.float32 import in_float32


class EvenSameConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's "same" padding for inputs of even size: the odd column goes right."""

    def forward(self, x: Tensor) -> Tensor:
        k, stride = self.kernel_size[0], self.stride[0]
        before = (k - stride) // 2
        after = k - stride - before
        padded = F.pad(x, (before, after, before, after))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class FrameBackbone(nn.Module):
    """(F, 3, H, W) frames -> four maps (F, C_k, H / s, W / s) at strides s = 4, 8, 16, 32.

    In float32 also under autocast: in bf16 the maps of a trained Lite0 are 5 to 7 % off in the mean, and the detector
    loses up to 0.03 mAP. A clip reads the maps of many frames, but a frame is computed once.
    """

    def __init__(self, config: FrameConfig) -> None:
        super().__init__()
        # no download here: weights come from a file (model.foreign.image_pretrained) or a checkpoint
        self.network = timm.create_model(config.network, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))
        _fix_padding(self.network)

    @property
    def channels(self) -> tuple[int, ...]:
        """C_k of the four maps."""
        info: Any = self.network.feature_info
        return tuple(info.channels())

    @in_float32
    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        # depthwise convolutions run twice as fast with channels last, on CPU and GPU
        return tuple(self.network(frames.contiguous(memory_format=torch.channels_last)))


def _fix_padding(network: nn.Module) -> None:
    """Replace timm's convolutions that look at their input's size, keeping names and weights."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Conv2dSame):
                conv = EvenSameConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    child.stride,  # type: ignore[arg-type]
                    groups=child.groups,
                    bias=child.bias is not None,
                    device=child.weight.device,
                )
                conv.load_state_dict(child.state_dict())
                setattr(parent, name, conv)
