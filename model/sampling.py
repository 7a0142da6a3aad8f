"""Adaptive feature sampling (paper §3.3): P points per group and query in the 4-D feature space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.boxes import box_sizes


class PointGenerator(nn.Module):
    """Spatial queries to sampling points, relative to each query's box (paper §3.3, eq. 2-3).

    One linear layer gives offsets laid out (G, P, 3), (dx, dy, dz) fastest; a point is the centre + (dx w, dy h), its
    level z + dz. The same points serve every frame (temporal copying).
    """

    def __init__(self, dim: int, groups: int, points: int) -> None:
        super().__init__()
        self.groups, self.points = groups, points
        self.offsets = nn.Linear(dim, groups * points * 3)

    def reset_parameters(self) -> None:
        """Weight 0; bias xy uniform in +-1/2 of the box, or for a perfect square P a grid over it; z at 0."""
        bias = torch.zeros(self.groups, self.points, 3)
        side = math.isqrt(self.points)
        if side * side == self.points:
            ticks = (torch.arange(side) + 0.5) / side - 0.5
            y, x = torch.meshgrid(ticks, ticks, indexing="ij")
            bias[..., :2] = torch.stack((x, y), -1).reshape(self.points, 2)
        else:
            bias[..., :2].uniform_(-0.5, 0.5)
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(bias.flatten())

    def forward(self, queries: Tensor, boxes_cxcyzr: Tensor) -> Tensor:
        """(B, N, D) and (B, N, 4) -> (B, N, G, P, 3): x px, y px, level z (log2 px, like the box's)."""
        offsets = self.offsets(queries).unflatten(-1, (self.groups, self.points, 3))
        scale = F.pad(box_sizes(boxes_cxcyzr), (0, 1), value=1.0)
        points: Tensor = boxes_cxcyzr[..., None, None, :3] + offsets * scale[..., None, None, :]
        return points


def level_weights(z: Tensor, levels: int) -> Tensor:
    """(...) level z -> (levels, ...): softmax over k of -(z - 3 - k)^2 / 2, the interpolation along z."""
    k = torch.arange(levels, dtype=z.dtype, device=z.device).view(-1, *([1] * z.dim()))
    return torch.softmax(-((z - 3 - k) ** 2) / 2, 0)


def sample(space: Sequence[Tensor], points_xyz: Tensor, strides: Sequence[int]) -> Tensor:
    """Values of the feature space at the points (paper §3.3, eq. 4), bilinear in x and y, zero outside the maps.

    Channel group g is read at group g's points; a coordinate is normalised by its map's size times its stride.

    Args:
        space: four maps (B, D, T, H_k, W_k).
        points_xyz: (B, N, G, P, 3), px and level.
        strides: px per cell of each map.

    Returns:
        (B, G, D / G, T, N, P).
    """
    b, n, g, p, _ = points_xyz.shape
    dim, frames = space[0].shape[1:3]
    points = points_xyz.transpose(1, 2).reshape(b * g, n, p, 3)
    weights = level_weights(points[..., 2], len(space)).unsqueeze(2)  # levels, B G, 1, N, P
    out: Tensor | None = None
    for level, (x, stride) in enumerate(zip(space, strides, strict=True)):
        height, width = x.shape[-2:]
        extent = points.new_tensor((width * stride, height * stride))
        grid = points[..., :2] * (2 / extent) - 1
        # time rides along as channels: one read per point serves all frames
        values = F.grid_sample(x.reshape(b * g, dim // g * frames, height, width), grid, align_corners=False)
        out = values * weights[level] if out is None else torch.addcmul(out, values, weights[level])
    assert out is not None
    return out.view(b, g, dim // g, frames, n, p)
