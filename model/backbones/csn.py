"""Interaction-reduced channel-separated network (Tran et al., ICCV 2019): space and time meet in depthwise layers only.

Unlike SlowOnly, every block strides in time where it strides in space, so that the four maps have 1, 1/2, 1/4 and 1/8
of the clip's frames; ``PooledFeatureSpace`` brings them to one T.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.config import CsnConfig


class SeparatedBlock(nn.Module):
    """1 x 1 x 1 -> depthwise 3 x 3 x 3, which strides -> 1 x 1 x 1, each with BN; shortcut as in ResNet."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(channels_in, inner, 1, bias=False)
        self.norm_a = nn.BatchNorm3d(inner, eps=eps)
        self.conv_b = nn.Conv3d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.norm_b = nn.BatchNorm3d(inner, eps=eps)
        self.conv_c = nn.Conv3d(inner, channels_out, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(channels_out, eps=eps)
        self.shortcut: nn.Conv3d | None = None
        self.shortcut_norm: nn.BatchNorm3d | None = None
        if channels_in != channels_out or stride != 1:
            self.shortcut = nn.Conv3d(channels_in, channels_out, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm3d(channels_out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        if self.shortcut is not None and self.shortcut_norm is not None:
            identity = self.shortcut_norm(self.shortcut(x))
        x = F.relu(self.norm_a(self.conv_a(x)))
        x = F.relu(self.norm_b(self.conv_b(x)))
        return F.relu(self.norm_c(self.conv_c(x)) + identity)


class Csn(nn.Module):
    """(B, 3, frames, H, W) -> (B, C_k, frames / 2^k, H / s, W / s), k = 0..3, at strides s = 4, 8, 16, 32."""

    def __init__(self, config: CsnConfig) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.stem = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.stem_norm = nn.BatchNorm3d(width, eps=eps)
        self.stages = nn.ModuleList()
        channels = width
        for i, depth in enumerate(config.depths):
            inner, out = width * 2**i, 4 * width * 2**i
            blocks = nn.Sequential()
            for j in range(depth):
                blocks.append(SeparatedBlock(channels, inner, out, 2 if i and j == 0 else 1, eps))
                channels = out
            self.stages.append(blocks)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool3d(F.relu(self.stem_norm(self.stem(clip))), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)
