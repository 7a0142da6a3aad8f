"""The backbone and neck of YOLOX-nano (Ge et al. 2021, arXiv 2107.08430): every frame by itself, four maps.

CSPDarknet of depth 0.33 and width 0.25 with depthwise convolutions, and a path aggregation network (PAN) above it, SiLU
throughout. It can start from weights that were trained to find people (``model.foreign.yolox``). Those come with their
batch norms folded into the convolutions, so there are none here: every convolution has a bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.config import FrameConfig
from stmixer.model.float32 import in_float32


class ConvSilu(nn.Module):
    """A convolution with bias, padded by half its kernel, then SiLU."""

    def __init__(self, channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, (kernel - 1) // 2, groups=groups)

    def reset_parameters(self) -> None:
        """Kaiming's scale: without norms the signal of forty layers would vanish with Xavier's."""
        assert self.conv.bias is not None
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


class SeparableConv(nn.Module):
    """3 x 3 on each channel by itself, then 1 x 1 over channels, each with SiLU."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvSilu(channels_in, channels_in, 3, stride, groups=channels_in)
        self.pointwise = ConvSilu(channels_in, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class SeparableBottleneck(nn.Module):
    """1 x 1, then a separable convolution, of the same width; ``residual`` adds the input."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.first = ConvSilu(channels, channels)
        self.second = SeparableConv(channels, channels)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out + x if self.residual else out


class CrossStage(nn.Module):
    """Cross-stage partial network: ``depth`` bottlenecks on half of the channels, the other half led around them."""

    def __init__(self, channels_in: int, channels: int, depth: int = 1, *, residual: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main = ConvSilu(channels_in, half)
        self.around = ConvSilu(channels_in, half)
        self.bottlenecks = nn.Sequential(*(SeparableBottleneck(half, residual=residual) for _ in range(depth)))
        self.join = ConvSilu(2 * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.join(torch.cat((self.bottlenecks(self.main(x)), self.around(x)), 1))
        return out


class PoolPyramid(nn.Module):
    """Spatial pyramid pooling: a map beside its own maxima over 5 x 5, 9 x 9 and 13 x 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvSilu(channels, channels // 2)
        self.join = ConvSilu(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.reduce(x)]
        for _ in range(3):  # the maximum over 9 x 9 is the one over 5 x 5 of those over 5 x 5, and so on
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        out: Tensor = self.join(torch.cat(levels, 1))
        return out


class YoloxBackbone(nn.Module):
    """(F, 3, H, W) frames, RGB in 0..1 -> four maps (F, C_k, H / s, W / s) at strides s = 4, 8, 16, 32.

    That of stride 4 is the darknet's second stage, the others are the neck's outputs. In float32 also under autocast,
    as all backbones of the realtime family. Modules stand in the order in which they run.
    """

    def __init__(self, config: FrameConfig) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = config.map_channels
        c4, c8, c16, c32 = config.map_channels
        # published as "Focus", the four pixels of each 2 x 2 square as channels and then 3 x 3: the same product
        self.stem = ConvSilu(3, c4 // 2, kernel=6, stride=2)
        self.dark2 = nn.Sequential(SeparableConv(c4 // 2, c4, 2), CrossStage(c4, c4, 1, residual=True))
        self.dark3 = nn.Sequential(SeparableConv(c4, c8, 2), CrossStage(c8, c8, 3, residual=True))
        self.dark4 = nn.Sequential(SeparableConv(c8, c16, 2), CrossStage(c16, c16, 3, residual=True))
        self.dark5 = nn.Sequential(
            SeparableConv(c16, c32, 2), PoolPyramid(c32), CrossStage(c32, c32, 1, residual=False)
        )
        self.lateral5 = ConvSilu(c32, c16)
        self.top_down4 = CrossStage(2 * c16, c16, residual=False)
        self.lateral4 = ConvSilu(c16, c8)
        self.top_down3 = CrossStage(2 * c8, c8, residual=False)
        self.down3 = SeparableConv(c8, c8, 2)
        self.bottom_up4 = CrossStage(2 * c8, c16, residual=False)
        self.down4 = SeparableConv(c16, c16, 2)
        self.bottom_up5 = CrossStage(2 * c16, c32, residual=False)

    @in_float32
    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        # depthwise convolutions run twice as fast with channels last, on CPU and GPU
        map4 = self.dark2(self.stem(frames.contiguous(memory_format=torch.channels_last)))
        dark3 = self.dark3(map4)
        dark4 = self.dark4(dark3)
        lateral5 = self.lateral5(self.dark5(dark4))
        lateral4 = self.lateral4(self.top_down4(torch.cat((_doubled(lateral5), dark4), 1)))
        map8 = self.top_down3(torch.cat((_doubled(lateral4), dark3), 1))
        map16 = self.bottom_up4(torch.cat((self.down3(map8), lateral4), 1))
        map32 = self.bottom_up5(torch.cat((self.down4(map16), lateral5), 1))
        return map4, map8, map16, map32


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
