"""SlowOnly and SlowFast: 3-D ResNets of bottleneck blocks (Feichtenhofer et al., ICCV 2019).

The temporal kernel sits on a block's first 1 x 1 convolution, the spatial stride on its 3 x 3; nothing pools over time
inside a pathway, and res5 strides like the others, so that the maps lie at strides 4, 8, 16 and 32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip import slow_indices
from model.config import BackboneConfig


class Bottleneck(nn.Module):
    """k x 1 x 1 -> 1 x 3 x 3 -> 1 x 1 x 1, each with batch norm, and a projected shortcut where the shape changes."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, kernel_t: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(channels_in, inner, (kernel_t, 1, 1), padding=(kernel_t // 2, 0, 0), bias=False)
        self.norm_a = nn.BatchNorm3d(inner, eps=eps)
        self.conv_b = nn.Conv3d(inner, inner, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
        self.norm_b = nn.BatchNorm3d(inner, eps=eps)
        self.conv_c = nn.Conv3d(inner, channels_out, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(channels_out, eps=eps)
        self.shortcut: nn.Conv3d | None = None
        self.shortcut_norm: nn.BatchNorm3d | None = None
        if channels_in != channels_out or stride != 1:
            self.shortcut = nn.Conv3d(channels_in, channels_out, 1, stride=(1, stride, stride), bias=False)
            self.shortcut_norm = nn.BatchNorm3d(channels_out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        if self.shortcut is not None and self.shortcut_norm is not None:
            identity = self.shortcut_norm(self.shortcut(x))
        x = F.relu(self.norm_a(self.conv_a(x)))
        x = F.relu(self.norm_b(self.conv_b(x)))
        return F.relu(self.norm_c(self.conv_c(x)) + identity)


class Pathway(nn.Module):
    """Stem and res2 .. res5 of one pathway. ``extra`` channels join the input of each stage (SlowFast's fusion)."""

    def __init__(
        self,
        width: int,
        depths: tuple[int, ...],
        kernels: tuple[int, ...],
        eps: float,
        extra: tuple[int, ...] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, width, (kernels[0], 7, 7), (1, 2, 2), (kernels[0] // 2, 3, 3), bias=False)
        self.stem_norm = nn.BatchNorm3d(width, eps=eps)
        self.stages = nn.ModuleList()
        channels = width
        for i, depth in enumerate(depths):
            inner, out = width * 2**i, 4 * width * 2**i
            blocks = nn.Sequential()
            for j in range(depth):
                channels_in = channels + extra[i] if j == 0 else out
                blocks.append(Bottleneck(channels_in, inner, out, kernels[i + 1], 2 if i and j == 0 else 1, eps))
            self.stages.append(blocks)
            channels = out

    def start(self, x: Tensor) -> Tensor:
        """Stem and its 1 x 3 x 3 max-pool: (B, 3, T, H, W) -> (B, width, T, H / 4, W / 4)."""
        return F.max_pool3d(F.relu(self.stem_norm(self.stem(x))), (1, 3, 3), (1, 2, 2), (0, 1, 1))


class SlowOnly(nn.Module):
    """The slow pathway alone. Every frame it is given is kept: T of the maps is the clip's."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.slow = Pathway(config.width, config.depths, config.temporal_kernels, config.norm_eps)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        x = self.slow.start(clip)
        maps = []
        for stage in self.slow.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class Fusion(nn.Module):
    """Fast to slow: a [k, 1, 1] convolution of temporal stride alpha to twice the channels, BN, ReLU, concatenated."""

    def __init__(self, channels: int, kernel: int, alpha: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(2 * channels, eps=eps)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat((slow, F.relu(self.norm(self.conv(fast)))), 1)


class SlowFast(nn.Module):
    """Both pathways. A map is the slow stage's output before fusion beside the fast one's, max-pooled alpha in time."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        fast_width = config.width // config.fast_ratio
        fast_out = (fast_width, *(4 * fast_width * 2**i for i in range(3)))
        extra = tuple(2 * c for c in fast_out)
        self.alpha = config.alpha
        self.slow = Pathway(config.width, config.depths, config.temporal_kernels, config.norm_eps, extra)
        self.fast = Pathway(fast_width, config.depths, config.fast_temporal_kernels, config.norm_eps)
        self.fusions = nn.ModuleList(Fusion(c, config.fusion_kernel, config.alpha, config.norm_eps) for c in fast_out)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        indices = torch.tensor(slow_indices(clip.shape[2], self.alpha), device=clip.device)
        slow, fast = self.slow.start(clip.index_select(2, indices)), self.fast.start(clip)
        maps = []
        for fusion, slow_stage, fast_stage in zip(self.fusions, self.slow.stages, self.fast.stages, strict=True):
            slow, fast = slow_stage(fusion(slow, fast)), fast_stage(fast)
            pooled = F.max_pool3d(fast, (self.alpha, 1, 1))
            maps.append(torch.cat((slow, pooled), 1))
        return tuple(maps)
