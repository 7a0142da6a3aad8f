"""The decoder: M stages of adaptive sampling and adaptive mixing (ASAM, paper §3.3-3.4, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.boxes import cxcyzr_to_xyxy, pairwise_iof, refine_cxcyzr, whole_frame_cxcyzr
from model.config import DecoderConfig
from model.mixing import AdaptiveMixing
from model.sampling import PointGenerator, sample

PERSON = 0
"""Index of the person in the two human logits; 1 is the background."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """What one stage says of its B x N queries.

    ``human_logits`` (B, N, 2), ``action_logits`` (B, N, C), the refined boxes as ``boxes_cxcyzr`` and
    ``boxes_xyxy_px`` (B, N, 4), and ``points_xyz`` (B, N, G, P, 3), where it looked (px, level).
    """

    human_logits: Tensor
    action_logits: Tensor
    boxes_cxcyzr: Tensor
    boxes_xyxy_px: Tensor
    points_xyz: Tensor


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """All stages, first to last, and the last stage's queries (B, N, D)."""

    stages: tuple[StageOutput, ...]
    spatial_queries: Tensor
    temporal_queries: Tensor


def box_position_encoding(boxes_cxcyzr: Tensor, dim: int) -> Tensor:
    """(B, N, 4) -> (B, N, dim): dim / 4 sines and cosines for each of x / 1000, y / 1000, z, r, in that order.

    v / 10000^(2 floor(j / 2) / (dim / 4)), sine on even j, cosine on odd j.
    """
    quarter = dim // 4
    values = boxes_cxcyzr * boxes_cxcyzr.new_tensor((1e-3, 1e-3, 1.0, 1.0))
    exponents = torch.arange(0, quarter, 2, dtype=values.dtype, device=values.device) / quarter
    angles = values.unsqueeze(-1) * 10000.0**-exponents
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-3)


class SelfAttention(nn.Module):
    """Multi-head self-attention with an additive bias; the residual adds to the input (paper §3.4)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) with (B, heads, N, N) added to the attention logits -> (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.norm(x + self.out_proj(attended.transpose(1, 2).flatten(2)))
        return out


class Branch(nn.Module):
    """The spatial or the temporal half of a stage: attention, mixing, FFN, each with residual and LN."""

    def __init__(self, config: DecoderConfig, rows: int, rows_out: int) -> None:
        super().__init__()
        dim = config.dim
        self.attention = SelfAttention(dim, config.heads)
        self.mixing = AdaptiveMixing(dim, config.groups, rows, rows_out)
        self.mixing_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.ReLU(), nn.Linear(config.ffn_dim, dim))
        self.ffn_norm = nn.LayerNorm(dim)

    def mix(self, queries: Tensor, features: Tensor) -> Tensor:
        """(B, N, D) queries and (B, N, G, rows, D / G) features -> (B, N, D)."""
        queries = self.mixing_norm(queries + self.mixing(features, queries))
        out: Tensor = self.ffn_norm(queries + self.ffn(queries))
        return out


class Head(nn.Sequential):
    """linear - LN - ReLU - linear."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out))

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the logits."""
        layer = self[3]
        assert isinstance(layer, nn.Linear)
        return layer


class Stage(nn.Module):
    """One ASAM stage. Weights are not shared between stages."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.iof_tau = nn.Parameter(torch.empty(config.heads))
        self.spatial = Branch(config, config.points, config.points_out)
        self.temporal = Branch(config, config.frames, config.frames_out)
        self.point_generator = PointGenerator(config.dim, config.groups, config.points)
        self.human_head = Head(config.dim, 2)
        self.box_head = Head(config.dim, 4)
        self.action_head = Head(2 * config.dim, config.classes)

    def forward(
        self, space: Sequence[Tensor], strides: Sequence[int], boxes_cxcyzr: Tensor, spatial: Tensor, temporal: Tensor
    ) -> tuple[StageOutput, Tensor, Tensor]:
        """Four maps, (B, N, 4) boxes and two (B, N, D) queries -> the stage's output and the next queries."""
        # positions guide the attention but take no gradient from it; tau does
        fixed_boxes = boxes_cxcyzr.detach()
        position = box_position_encoding(fixed_boxes, spatial.shape[-1])
        log_iof = torch.log(pairwise_iof(cxcyzr_to_xyxy(fixed_boxes)) + 1e-7)
        bias = self.iof_tau.view(-1, 1, 1) * log_iof.unsqueeze(1)
        # the attention's residual adds to query + position: the encoding stays in the content (as published)
        spatial = self.spatial.attention(spatial + position, bias)
        temporal = self.temporal.attention(temporal + position, bias)

        points_xyz = self.point_generator(spatial, boxes_cxcyzr)
        sampled = sample(space, points_xyz, strides)  # B, G, D/G, T, N, P
        spatial = self.spatial.mix(spatial, sampled.mean(3).permute(0, 3, 1, 4, 2))
        temporal = self.temporal.mix(temporal, sampled.mean(5).permute(0, 4, 1, 3, 2))

        boxes_cxcyzr = refine_cxcyzr(boxes_cxcyzr, self.box_head(spatial))
        output = StageOutput(
            human_logits=self.human_head(spatial),
            action_logits=self.action_head(torch.cat((spatial, temporal), -1)),
            boxes_cxcyzr=boxes_cxcyzr,
            boxes_xyxy_px=cxcyzr_to_xyxy(boxes_cxcyzr),
            points_xyz=points_xyz,
        )
        return output, spatial, temporal


class Decoder(nn.Module):
    """N spatial and N temporal queries, each starting with the whole frame as its box, through M stages."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.spatial_queries = nn.Parameter(torch.empty(config.queries, config.dim))
        self.temporal_queries = nn.Parameter(torch.empty(config.queries, config.dim))
        self.stages = nn.ModuleList(Stage(config) for _ in range(config.stages))

    def forward(self, space: Sequence[Tensor], strides: Sequence[int], sizes_wh: Tensor) -> DecoderOutput:
        """Four maps (B, D, T, H_k, W_k) and (B, 2) unpadded sizes in px -> every stage's output."""
        batch, (n, dim) = sizes_wh.shape[0], self.spatial_queries.shape
        spatial = F.layer_norm(self.spatial_queries, (dim,)).expand(batch, n, dim)
        temporal = F.layer_norm(self.temporal_queries, (dim,)).expand(batch, n, dim)
        boxes = whole_frame_cxcyzr(sizes_wh).unsqueeze(1).expand(batch, n, 4)
        outputs = []
        for stage in self.stages:
            output, spatial, temporal = stage(space, strides, boxes, spatial, temporal)
            boxes = output.boxes_cxcyzr
            outputs.append(output)
        return DecoderOutput(tuple(outputs), spatial, temporal)
