"""Adaptive feature sampling (paper §3.3): P points per group and query in the 4-D feature space.

``sample`` is the paper's equation, one value per point, frame and channel. The decoder wants only two means of it, over
frames for spatial mixing and over points for temporal mixing, and a ``Sampler`` gives it just those: ``GridSampler``
from ``sample`` itself, on accelerators and in exported graphs; ``BagSampler`` on a CPU, eight times as fast there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.box_tensors import box_sizes
from stmixer.model.config import DecoderConfig
from stmixer.model.float32 import in_float32


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
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(self.first_offsets().flatten())

    def first_offsets(self) -> Tensor:
        """What a box's points are before training, (G, P, 3)."""
        offsets = torch.zeros(self.groups, self.points, 3)
        side = math.isqrt(self.points)
        if side * side == self.points:
            offsets[..., :2] = square_grid(side, offsets)
        else:
            offsets[..., :2].uniform_(-0.5, 0.5)
        return offsets

    @in_float32
    def forward(self, queries: Tensor, boxes_cxcyzr: Tensor) -> Tensor:
        """(B, N, D) and (B, N, 4) -> (B, N, G, P, 3): x px, y px, level z (log2 px, like the box's)."""
        offsets = self.offsets(queries).unflatten(-1, (self.groups, self.points, 3))
        scale = F.pad(box_sizes(boxes_cxcyzr), (0, 1), value=1.0)
        points: Tensor = boxes_cxcyzr[..., None, None, :3] + offsets * scale[..., None, None, :]
        return points


class GridPoints(nn.Module):
    """A fixed square grid over each box, at the box's own level (Table 1b, fixed grid): nothing is learned."""

    def __init__(self, groups: int, points: int) -> None:
        super().__init__()
        self.groups, self.side = groups, math.isqrt(points)

    @in_float32
    def forward(self, queries: Tensor, boxes_cxcyzr: Tensor) -> Tensor:
        """(B, N, D), of which nothing is used, and (B, N, 4) -> (B, N, G, P, 3)."""
        grid = square_grid(self.side, boxes_cxcyzr)
        xy = boxes_cxcyzr[..., None, :2] + grid * box_sizes(boxes_cxcyzr).unsqueeze(-2)
        z = boxes_cxcyzr[..., None, 2:3].expand_as(xy[..., :1])
        return torch.cat((xy, z), -1).unsqueeze(2).expand(-1, -1, self.groups, -1, -1)


class MovingPointGenerator(PointGenerator):
    """Offsets of their own for every frame (Table 1b, temporal moving): laid out (G, P, T, 3)."""

    def __init__(self, dim: int, groups: int, points: int, frames: int) -> None:
        super().__init__(dim, groups, points)
        self.frames = frames
        self.offsets = nn.Linear(dim, groups * points * frames * 3)

    def first_offsets(self) -> Tensor:
        """The same on every frame, (G, P, T, 3): training starts from temporal copying."""
        return super().first_offsets().unsqueeze(2).expand(-1, -1, self.frames, -1)

    @in_float32
    def forward(self, queries: Tensor, boxes_cxcyzr: Tensor) -> Tensor:
        """(B, N, D) and (B, N, 4) -> (B, N, G, P, T, 3)."""
        offsets = self.offsets(queries).unflatten(-1, (self.groups, self.points, self.frames, 3))
        scale = F.pad(box_sizes(boxes_cxcyzr), (0, 1), value=1.0)
        points: Tensor = boxes_cxcyzr[..., None, None, None, :3] + offsets * scale[..., None, None, None, :]
        return points


def make_points(config: DecoderConfig) -> PointGenerator | GridPoints:
    """Where queries look, by ``config.sampling``."""
    match config.sampling:
        case "grid":
            return GridPoints(config.groups, config.points)
        case "moving":
            return MovingPointGenerator(config.dim, config.groups, config.points, config.frames)
        case "copying":
            return PointGenerator(config.dim, config.groups, config.points)


def square_grid(side: int, like: Tensor) -> Tensor:
    """(side^2, 2) x and y, row by row: centres of a side x side grid over a box of size 1 around 0."""
    ticks = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side - 0.5
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack((x, y), -1).reshape(side * side, 2)


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
        # by plain numbers, not by a tensor of them, which an exported graph would keep for every size
        grid = 2 * torch.stack((points[..., 0] / (width * stride), points[..., 1] / (height * stride)), -1) - 1
        # time rides along as channels: one read per point serves all frames
        values = F.grid_sample(x.reshape(b * g, dim // g * frames, height, width), grid, align_corners=False)
        out = values * weights[level] if out is None else torch.addcmul(out, values, weights[level])
    assert out is not None
    return out.view(b, g, dim // g, frames, n, p)


class Sampler(Protocol):
    """The feature space of one forward, ready to be read by all of its stages."""

    def __call__(self, points_xyz: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, G, P, 3) -> ``sample``'s mean over frames (B, N, G, P, D / G), and over points (B, N, G, T, D / G)."""
        ...


def make_sampler(config: DecoderConfig, space: Sequence[Tensor], strides: Sequence[int]) -> Sampler:
    """The sampler for a decoder and the device that the maps (B, D, T, H_k, W_k) are on."""
    if config.sampling == "moving" or config.mixing == "coupled":
        # a mean over frames or points is not enough where points differ between frames, or all are mixed at once
        return WholeSampler(space, strides)
    if space[0].device.type == "cpu" and not torch.compiler.is_exporting():
        return BagSampler(space, strides, config.groups)
    return GridSampler(space, strides)


class GridSampler:
    """``sample``, then its means."""

    def __init__(self, space: Sequence[Tensor], strides: Sequence[int]) -> None:
        # time and channels are read together: laid out once, not in every stage
        self._space = [x.contiguous() for x in space]
        self._strides = strides

    def __call__(self, points_xyz: Tensor) -> tuple[Tensor, Tensor]:
        sampled = sample(self._space, points_xyz, self._strides)  # B, G, D/G, T, N, P
        return sampled.mean(3).permute(0, 3, 1, 4, 2), sampled.mean(5).permute(0, 4, 1, 3, 2)


class WholeSampler:
    """Every value, for ablations whose mixing or points need more than the two means; slow, on every device."""

    def __init__(self, space: Sequence[Tensor], strides: Sequence[int]) -> None:
        self._space = [x.contiguous() for x in space]
        self._strides = strides

    def __call__(self, points_xyz: Tensor) -> tuple[Tensor, Tensor]:
        sampled = self.values(points_xyz)
        return sampled.mean(3), sampled.mean(4)

    def values(self, points_xyz: Tensor) -> Tensor:
        """(B, N, G, P, 3), or (B, N, G, P, T, 3) of points that move -> (B, N, G, T, P, D / G)."""
        if points_xyz.dim() == 5:
            return sample(self._space, points_xyz, self._strides).permute(0, 4, 1, 3, 5, 2)
        b, frames = points_xyz.shape[0], points_xyz.shape[4]
        # a frame with its own points is a clip of one frame
        singles = [x.transpose(1, 2).flatten(0, 1).unsqueeze(2) for x in self._space]
        points = points_xyz.movedim(4, 1).flatten(0, 1)
        sampled = sample(singles, points, self._strides).squeeze(3)  # B T, G, D/G, N, P
        return sampled.view(b, frames, *sampled.shape[1:]).permute(0, 4, 2, 1, 5, 3)


class BagSampler:
    """The same means without the tensor that they are of.

    A bilinear read is a weighted sum of four cells, so a point is one of four cells on every level, and both means are
    sums: the spatial one of a point's cells in the maps' own mean over frames, the temporal one of the cells of all P
    points in every frame. Such sums over rows of a table are what ``embedding_bag`` computes: contiguous reads where
    ``grid_sample`` jumps from channel to channel. A row is what one group holds of one cell, T x D / G numbers, so that
    both sums name the same rows.
    """

    def __init__(self, space: Sequence[Tensor], strides: Sequence[int], groups: int) -> None:
        self._channels, self._frames = space[0].shape[1] // groups, space[0].shape[2]
        sizes = [(x.shape[-1], x.shape[-2]) for x in space]
        areas = [width * height for width, height in sizes]
        starts = [sum(areas[:k]) for k in range(len(areas))]
        batch, cells = space[0].shape[0], sum(areas)
        table = space[0].new_empty(batch, cells, groups, self._frames, self._channels)
        for x, start, area in zip(space, starts, areas, strict=True):
            by_cell = torch.unflatten(x, 1, (groups, -1)).permute(0, 4, 5, 1, 3, 2)  # B, H, W, G, T, D / G
            torch.unflatten(table.narrow(1, start, area), 1, by_cell.shape[1:3]).copy_(by_cell)
        self._table = table.flatten(0, 2).flatten(1)
        self._mean_table = table.mean(-2).flatten(0, 2)
        self._groups, self._cells = groups, cells
        self._sizes_wh = torch.tensor(sizes, dtype=torch.int32)
        self._starts = torch.tensor(starts, dtype=torch.int32)
        self._strides = torch.tensor(list(strides))

    def __call__(self, points_xyz: Tensor) -> tuple[Tensor, Tensor]:
        b, n, g, p, _ = points_xyz.shape
        rows, weights = self._taps(points_xyz)
        over_time = _bags(self._mean_table, rows.view(b * n * g * p, -1), weights)
        over_points = _bags(self._table, rows.view(b * n * g, -1), weights) / p
        return over_time.view(b, n, g, p, -1), over_points.view(b, n, g, self._frames, self._channels)

    def _taps(self, points_xyz: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B N G P, K * 4) of the tables and their weights, K levels of four cells a point.

        Worked out with levels and corners in front, so that every step runs along the points.
        """
        b, g = points_xyz.shape[0], self._groups
        x, y, z = (v.contiguous() for v in points_xyz.unbind(-1))  # B, N, G, P
        levels = len(self._strides)
        per_level = (levels, 1, 1, 1, 1)
        strides = self._strides.view(per_level)
        width, height = (v.view(per_level) for v in self._sizes_wh.unbind(-1))
        columns, of_columns = bilinear_taps(x / strides, width)  # 2, K, B, N, G, P
        lines, of_lines = bilinear_taps(y / strides, height)
        clip = torch.arange(b, dtype=torch.int32).view(b, 1, 1, 1) * self._cells
        first = (self._starts.view(per_level) + clip) * g + torch.arange(g, dtype=torch.int32).view(g, 1)
        rows = (lines * (width * g) + first).unsqueeze(1) + columns * g
        weights = (of_lines * level_weights(z, levels)).unsqueeze(1) * of_columns
        return rows.flatten(3).flatten(0, 2).t().contiguous(), weights.flatten(3).flatten(0, 2).t().contiguous()


def _bags(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(R, C) and (K, J) rows with their weights -> (K, C): J rows summed."""
    shares = weights.reshape(rows.shape).to(table.dtype)  # under autocast the maps are bf16, places are not
    summed: Tensor = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
    return summed


def bilinear_taps(places_cells: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each place along one side of a map, and their linear weights.

    (...) places in cells, the first cell's centre at 1/2, and the side's length in cells, int32, that broadcasts with
    them -> (2, ...) int32 cell numbers and (2, ...) weights, 0 for a cell outside (whose number is some cell inside).
    """
    places = places_cells - 0.5
    low = places.floor()
    share = places - low
    first = low.to(torch.int32)
    cells = torch.stack((first, first + 1))
    # of numbers, not of floats: what is no number must not become a cell that is not there
    inside = cells.clamp(min=0).minimum(sizes - 1)
    return inside, torch.stack((1 - share, share)) * (cells == inside)
