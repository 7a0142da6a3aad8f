"""One ASAM stage (paper §3.3-3.4, Figure 3): self-attention, adaptive sampling, adaptive mixing, heads."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stmixer.model.box_tensors import cxcyzr_to_xyxy, pairwise_iof, refine_cxcyzr
from stmixer.model.classifiers import BankWindow, Head, LongTermClassifier
from stmixer.model.config import DecoderConfig, LongTermConfig
from stmixer.model.float32 import in_float32
from stmixer.model.labels import PERSON
from stmixer.model.mixing import AdaptiveMixing, FixedMixing
from stmixer.model.outputs import DecoderOutput, StageOutput
from stmixer.model.sampling import GridPoints, PointGenerator, Sampler, make_points


def last_arrays(output: DecoderOutput, sizes_wh: Tensor) -> tuple[NDArray[np.float32], ...]:
    """What ``model.postprocess.PostProcess`` is called with, as float32 arrays in the host's memory.

    ``sizes_wh`` (B, 2) are unpadded sizes, px. Returns the last stage's human logits (B, N, 2), action logits
    (B, N, C) and boxes_xyxy_px (B, N, 4), and the sizes.
    """
    last = output.stages[-1]
    tensors = (last.human_logits, last.action_logits, last.boxes_xyxy_px, sizes_wh)
    return tuple(tensor.detach().to("cpu", torch.float32).numpy() for tensor in tensors)


def best_queries(output: DecoderOutput, k: int) -> tuple[Tensor, Tensor]:
    """The last stage's (B, k, 2D) concat(spatial, temporal) queries and (B, k) scores of the k best people."""
    person = output.stages[-1].human_logits.softmax(-1)[..., PERSON]
    scores, best = person.topk(k, dim=1)
    both = torch.cat((output.spatial_queries, output.temporal_queries), -1)
    return both.gather(1, best.unsqueeze(-1).expand(-1, -1, both.shape[-1])), scores


def starting_queries(embeddings: Tensor, batch: int) -> Tensor:
    """(N, D) embeddings, layer-normed without affine -> (B, N, D)."""
    n, dim = embeddings.shape
    return F.layer_norm(embeddings, (dim,)).expand(batch, n, dim)


def box_position_encoding(boxes_cxcyzr: Tensor, dim: int) -> Tensor:
    """(B, N, 4) -> (B, N, dim): dim / 4 sines and cosines for each of x / 1000, y / 1000, z, r, in that order.

    v / 10000^(2 floor(j / 2) / (dim / 4)), sine on even j, cosine on odd j.
    """
    quarter = dim // 4
    values = torch.cat((boxes_cxcyzr[..., :2] * 1e-3, boxes_cxcyzr[..., 2:]), -1)
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

    @in_float32
    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) with (B, heads, N, N) added to the attention logits -> (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.norm(x + self.out_proj(attended.transpose(1, 2).flatten(2)))
        return out


def at_keyframe(points_xyz: Tensor) -> Tensor:
    """(B, N, G, P, 3) as they are; of moving points (B, N, G, P, T, 3) those of the keyframe, T // 2."""
    return points_xyz if points_xyz.dim() == 5 else points_xyz[..., points_xyz.shape[-2] // 2, :]


class Branch(nn.Module):
    """The spatial or the temporal half of a stage: attention, mixing, FFN, each with residual and LN."""

    def __init__(self, config: DecoderConfig, rows: int, rows_out: int) -> None:
        super().__init__()
        dim = config.dim
        self.attention = SelfAttention(dim, config.heads)
        mixing = FixedMixing if config.mixing == "fixed" else AdaptiveMixing
        self.mixing: AdaptiveMixing | FixedMixing = mixing(dim, config.groups, rows, rows_out)
        self.mixing_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.ReLU(), nn.Linear(config.ffn_dim, dim))
        self.ffn_norm = nn.LayerNorm(dim)

    def mix(self, queries: Tensor, features: Tensor) -> Tensor:
        """(B, N, D) queries and (B, N, G, rows, D / G) features -> (B, N, D)."""
        queries = self.mixing_norm(queries + self.mixing(features, queries))
        out: Tensor = self.ffn_norm(queries + self.ffn(queries))
        return out


class StageBase(nn.Module):
    """What all stages share, the paper's and the ablations': guidance of the attention by boxes, points and heads."""

    point_generator: PointGenerator | GridPoints
    human_head: Head | None
    box_head: Head | None
    action_head: Head | LongTermClassifier | None

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.iof_tau = nn.Parameter(torch.empty(config.heads))

    def add_heads(
        self,
        config: DecoderConfig,
        features: int,
        *,
        people: bool = True,
        actions: bool = True,
        long_term: LongTermConfig | None = None,
    ) -> None:
        """Points and heads, after the branches as in the published order of names.

        ``features`` is the width of what actions are told from. A stage that tells no actions, or finds no people, has
        no head for them. The last stage of a long-term model has the long-term classifier.
        """
        self.point_generator = make_points(config)
        self.human_head = Head(config.dim, 2) if people else None
        self.box_head = Head(config.dim, 4) if people else None
        self.action_head = None
        if actions and long_term is not None:
            self.action_head = LongTermClassifier(features, config.heads, long_term.layers, config.classes)
        elif actions:
            self.action_head = Head(features, config.classes)

    def guidance(self, boxes_cxcyzr: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """(B, N, 4) boxes -> (B, N, D) position encoding and (B, heads, N, N) attention bias, tau log IoF.

        Positions guide the attention but take no gradient from it; tau does.
        """
        fixed_boxes = boxes_cxcyzr.detach()
        log_iof = torch.log(pairwise_iof(cxcyzr_to_xyxy(fixed_boxes)) + 1e-7)
        return box_position_encoding(fixed_boxes, dim), self.iof_tau.view(-1, 1, 1) * log_iof.unsqueeze(1)

    def people(self, boxes_cxcyzr: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 4) boxes and (B, N, D) -> human logits (B, N, 2) and refined boxes (B, N, 4)."""
        assert self.human_head is not None
        assert self.box_head is not None
        return self.human_head(query), refine_cxcyzr(boxes_cxcyzr, self.box_head(query))

    def actions(self, features: Tensor, bank: BankWindow | None) -> Tensor:
        """(B, N, features), and the bank in the last stage of a long-term model -> action logits (B, N, C)."""
        if isinstance(self.action_head, LongTermClassifier):
            assert bank is not None
            logits: Tensor = self.action_head(features, bank)
            return logits
        assert self.action_head is not None
        logits = self.action_head(features)
        return logits

    def output(
        self, boxes_cxcyzr: Tensor, query: Tensor, features: Tensor, points_xyz: Tensor, bank: BankWindow | None
    ) -> StageOutput:
        """Both heads' word of the stage's queries."""
        human_logits, boxes_cxcyzr = self.people(boxes_cxcyzr, query)
        return StageOutput(
            human_logits=human_logits,
            action_logits=self.actions(features, bank),
            boxes_cxcyzr=boxes_cxcyzr,
            boxes_xyxy_px=cxcyzr_to_xyxy(boxes_cxcyzr),
            points_xyz=points_xyz,
        )


class Stage(StageBase):
    """The paper's stage: a spatial and a temporal branch side by side. Weights are not shared between stages."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        people: bool = True,
        long_term: LongTermConfig | None = None,
    ) -> None:
        super().__init__(config)
        self.spatial = Branch(config, config.points, config.points_out)
        self.temporal = Branch(config, config.frames, config.frames_out)
        self.add_heads(config, 2 * config.dim, people=people, long_term=long_term)

    def forward(
        self, sampler: Sampler, boxes_cxcyzr: Tensor, spatial: Tensor, temporal: Tensor, bank: BankWindow | None = None
    ) -> tuple[StageOutput, Tensor, Tensor]:
        """The feature space, (B, N, 4) boxes and two (B, N, D) queries -> the stage's output and the next queries."""
        spatial, temporal, points_xyz = self.mix(sampler, boxes_cxcyzr, spatial, temporal)
        both = torch.cat((spatial, temporal), -1)
        return self.output(boxes_cxcyzr, spatial, both, points_xyz, bank), spatial, temporal

    def mix(
        self, sampler: Sampler, boxes_cxcyzr: Tensor, spatial: Tensor, temporal: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The stage without its heads: the next queries (B, N, D), and where it looked (B, N, G, P, 3)."""
        position, bias = self.guidance(boxes_cxcyzr, spatial.shape[-1])
        # the attention's residual adds to query + position: the encoding stays in the content (as published)
        spatial = self.spatial.attention(spatial + position, bias)
        temporal = self.temporal.attention(temporal + position, bias)
        points_xyz = self.point_generator(spatial, boxes_cxcyzr)
        over_time, over_points = sampler(points_xyz)
        spatial = self.spatial.mix(spatial, over_time)
        # T = 1 is a clip that stands still
        temporal = self.temporal.mix(temporal, over_points.expand(-1, -1, -1, self.temporal.mixing.rows, -1))
        return spatial, temporal, at_keyframe(points_xyz)
