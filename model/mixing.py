"""Adaptive mixing (paper §3.4): each query generates the weights that mix its own sampled features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
        x = features @ m.unflatten(-1, (self.channels, self.channels))
        x = F.relu(F.layer_norm(x, x.shape[-2:]))
        x = s.unflatten(-1, (self.rows_out, self.rows)) @ x
        x = F.relu(F.layer_norm(x, x.shape[-2:]))
        mixed: Tensor = self.out_proj(x.flatten(2))
        return mixed
