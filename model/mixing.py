"""Adaptive mixing (paper §3.4): each query generates the weights that mix its own sampled features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CACHED_BYTES = 2 * 2**20
"""Of mixed features at a time, on a CPU."""


class FixedMixing(nn.Module):
    """The same with M and S as weights of the network, the same for every query (Table 1c, fixed parameters)."""

    def __init__(self, dim: int, groups: int, rows: int, rows_out: int) -> None:
        super().__init__()
        self.rows, channels = rows, dim // groups
        self.m = nn.Parameter(torch.empty(groups, channels, channels))
        self.s = nn.Parameter(torch.empty(groups, rows_out, rows))
        self.out_proj = nn.Linear(groups * rows_out * channels, dim)

    def reset_parameters(self) -> None:
        """Xavier, each group by itself."""
        for matrix in (*self.m, *self.s):
            nn.init.xavier_uniform_(matrix)

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        """(B, N, G, rows, D / G), and queries of which nothing is used -> (B, N, D), without the residual."""
        return mix(features, self.m, self.s, self.out_proj)


def mix(features: Tensor, m: Tensor, s: Tensor, out_proj: nn.Linear) -> Tensor:
    """(B, N, G, rows, C) X -> X M, LN, ReLU -> S X, LN, ReLU -> flattened (group, row, channel) -> (B, N, D)."""
    mixed: Tensor = out_proj(_mixed_in_cache(features, m, s) if _fits_a_cpu(m) else _mixed(features, m, s).flatten(2))
    return mixed


def _mixed(features: Tensor, m: Tensor, s: Tensor, out: Tensor | None = None) -> Tensor:
    x = features @ m
    x = F.relu(F.layer_norm(x, x.shape[-2:]), inplace=True)
    x = s @ x
    return torch.clamp_min(F.layer_norm(x, x.shape[-2:]), 0, out=out)


def _fits_a_cpu(m: Tensor) -> bool:
    plain = not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
    return plain and m.device.type == "cpu" and m.dim() == 5


def _mixed_in_cache(features: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """The same numbers, some queries at a time: what goes from step to step stays in a core's cache.

    10 to 30 % less time than all queries at once (two runs), for SlowOnly's hundred of 128 x 64 in four groups.
    """
    b, n, g, rows_out, _ = s.shape
    out = features.new_empty(b * n, g, rows_out, features.shape[-1])
    step = max(1, _CACHED_BYTES // out[0].nbytes)
    parts = (torch.split(x.flatten(0, 1), step) for x in (features, m, s, out.unsqueeze(0)))
    for x, m_part, s_part, place in zip(*parts, strict=True):
        _mixed(x, m_part, s_part, out=place)
    return out.view(b, n, -1)


class AdaptiveMixing(nn.Module):
    """Per group X M -> LN -> ReLU, then S X -> LN -> ReLU, flattened and projected back onto the query (eq. 5-8).

    The spatial branch mixes points (rows = P_in, rows_out = P_out), the temporal one frames (T, T_out). One linear
    layer on the query generates, group by group, M (channels in x out, row-major) and then S (rows_out x rows).
    """

    def __init__(self, dim: int, groups: int, rows: int, rows_out: int) -> None:
        super().__init__()
        self.groups, self.rows, self.rows_out, self.channels = groups, rows, rows_out, dim // groups
        self.generator = nn.Linear(dim, groups * (self.channels**2 + rows_out * rows))
        self.out_proj = nn.Linear(groups * rows_out * self.channels, dim)

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        """(B, N, G, rows, D / G) and (B, N, D) -> (B, N, D), without the residual."""
        weights = self.generator(queries).unflatten(-1, (self.groups, -1))
        m, s = weights.split((self.channels**2, self.rows_out * self.rows), -1)
        m, s = m.unflatten(-1, (self.channels, self.channels)), s.unflatten(-1, (self.rows_out, self.rows))
        return mix(features, m, s, self.out_proj)
