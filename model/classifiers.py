"""Action classifiers: the short-term head of every stage, and the long-term one of the last (paper §3.5).

The long-term classifier is in no released code; what the paper leaves open is decided so: it stands in the last stage,
a layer is x + attention, LN, with the heads of the decoder, and where a clip has no neighbour at all S' is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.float32 import in_float32


class Head(nn.Sequential):
    """linear - LN - ReLU - linear, in float32: a logit rounded to 8 bits may stand on the other side of a threshold."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out))

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the logits."""
        layer = self[3]
        assert isinstance(layer, nn.Linear)
        return layer


@dataclass(frozen=True, slots=True)
class BankWindow:
    """The stacked queries around a batch of clips: ``queries`` (B, K, 2D) and ``mask`` (B, K) bool, True where known.

    They are inputs: no gradient goes into them, and what is masked may hold anything.
    """

    queries: Tensor
    mask: Tensor


class CrossAttention(nn.Module):
    """One layer of the query operator: the current clip's queries look at the bank (paper §3.5)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, bank: Tensor, visible: Tensor) -> Tensor:
        """(B, N, F), (B, K, F) and (B, K) bool, one True at least in each row -> (B, N, F)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(bank).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :])
        out: Tensor = self.norm(x + self.out_proj(attended.transpose(1, 2).flatten(2)))
        return out


class LongTermClassifier(nn.Module):
    """Three cross-attention layers from the N queries to the K entries of the bank; S' beside S for the action head."""

    def __init__(self, dim: int, heads: int, layers: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttention(dim, heads) for _ in range(layers))
        self.head = Head(2 * dim, classes)

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.head.last

    def forward(self, queries: Tensor, bank: BankWindow) -> Tensor:
        """S (B, N, 2D) -> action logits (B, N, C)."""
        logits: Tensor = self.head(torch.cat((queries, self.look_back(queries, bank)), -1))
        return logits

    def look_back(self, queries: Tensor, bank: BankWindow) -> Tensor:
        """S (B, N, 2D) -> S' (B, N, 2D): zero for a clip whose bank is masked altogether."""
        known = bank.mask.any(1, keepdim=True)
        entries = torch.where(bank.mask.unsqueeze(-1), bank.queries.detach(), 0.0)
        visible = bank.mask | ~known  # a softmax over nothing is no number
        x = queries
        for layer in self.layers:
            x = layer(x, entries, visible)
        return torch.where(known.unsqueeze(-1), x, 0.0)
