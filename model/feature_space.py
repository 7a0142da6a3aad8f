"""The 4-D feature space (paper §3.2): four maps at their own strides, projected to D channels each.

Deviation from the paper, as in the published checkpoints: the maps are not rescaled to one size; the sampler
normalises coordinates per level instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class LateralFeatureSpace(nn.Module):
    """A 1 x 1 x 1 convolution with bias per level: (B, C_k, T, H_k, W_k) -> (B, D, T, H_k, W_k)."""

    def __init__(self, map_channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv3d(c, dim, 1) for c in map_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(conv(x) for conv, x in zip(self.lateral, maps, strict=True))
