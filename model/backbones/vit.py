"""The plain video transformer of VideoMAE (Tong et al., NeurIPS 2022): one map at stride 16, attention over all tokens.

Pre-norm blocks, exact GELU, no key bias, a fixed sinusoid table instead of learned positions, and a final norm. The one
map stands for all four levels; ``PyramidFeatureSpace`` rescales it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.config import VitConfig


class QkvLinear(nn.Module):
    """Queries, keys and values from one matrix; keys have no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3D)."""
        return F.linear(x, self.weight, torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias)))


class TokenAttention(nn.Module):
    """Multi-head self-attention over all tokens of a clip."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = QkvLinear(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, D) -> (B, tokens, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class TransformerBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        dim, eps = config.width, config.norm_eps
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.attention = TokenAttention(dim, config.heads)
        self.mlp_norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


def sinusoid_table(positions: int, dim: int, device: torch.device) -> Tensor:
    """(positions, dim) float32: position / 10000^(2 floor(j / 2) / dim), sine on even j, cosine on odd j."""
    j = torch.arange(0, dim, 2, dtype=torch.float64, device=device)
    angles = torch.arange(positions, dtype=torch.float64, device=device)[:, None] / 10000.0 ** (j / dim)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1).float()


class Vit(nn.Module):
    """(B, 3, frames, H, W) -> four times the same (B, width, frames / tubelet, H / 16, W / 16)."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.grid = config.table_grid
        cell = (config.tubelet, config.patch, config.patch)
        self.patches = nn.Conv3d(3, config.width, cell, cell)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        x = self.patches(clip)
        x = x + self._positions(x)
        shape = x.shape
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).transpose(1, 2).reshape(shape)
        return x, x, x, x

    def _positions(self, x: Tensor) -> Tensor:
        """The pre-training grid's table, every time slice resized to the map: (D, T, h, w).

        Computed, not stored: a constant is no weight, and a skeleton on the meta device could not carry it.
        """
        dim, frames, height, width = x.shape[1:]
        table = sinusoid_table(frames * self.grid**2, dim, x.device)
        slices = table.view(frames, self.grid, self.grid, dim).permute(0, 3, 1, 2)
        resized = F.interpolate(slices, (height, width), mode="bicubic", align_corners=False)
        return resized.transpose(0, 1).to(x.dtype)
