"""The other rows of Table 1: decoders and stages that the paper compares its own with; ``model.detector`` chooses.

``model.decoder`` and ``model.stage`` have the paper's own, ``model.sampling`` and ``model.mixing`` the other points and
weights. What a row leaves open is decided by its cost (docs/detector.md, Cost); docs/paper.md says how.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stmixer.model.box_tensors import cxcyzr_to_xyxy
from stmixer.model.classifiers import BankWindow
from stmixer.model.config import DecoderConfig
from stmixer.model.decoder import run_stages, whole_frames
from stmixer.model.mixing import AdaptiveMixing
from stmixer.model.outputs import DecoderOutput, StageOutput
from stmixer.model.sampling import Sampler, WholeSampler, make_sampler
from stmixer.model.stage import Branch, SelfAttention, Stage, StageBase, at_keyframe, starting_queries


class OneBranchStage(StageBase):
    """Spatial or temporal mixing alone (Table 1d): one query for box, person and action."""

    def __init__(self, config: DecoderConfig, *, actions: bool = True) -> None:
        super().__init__(config)
        self.over_points = config.mixing == "temporal"
        rows, rows_out = (config.frames, config.frames_out) if self.over_points else (config.points, config.points_out)
        self.branch = Branch(config, rows, rows_out)
        self.add_heads(config, config.dim, actions=actions)

    def forward(
        self, sampler: Sampler, boxes_cxcyzr: Tensor, query: Tensor, _: Tensor, bank: BankWindow | None = None
    ) -> tuple[StageOutput, Tensor, Tensor]:
        """As the paper's stage; both queries are the one."""
        query, points_xyz = self.mix(sampler, boxes_cxcyzr, query)
        return self.output(boxes_cxcyzr, query, query, points_xyz, bank), query, query

    def mix(self, sampler: Sampler, boxes_cxcyzr: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """The stage without its heads: the next query (B, N, D), and where it looked (B, N, G, P, 3)."""
        position, bias = self.guidance(boxes_cxcyzr, query.shape[-1])
        query = self.branch.attention(query + position, bias)
        points_xyz = self.point_generator(query, boxes_cxcyzr)
        sampled = sampler(points_xyz)[self.over_points]
        return self.branch.mix(query, sampled), at_keyframe(points_xyz)


class SequentialStage(StageBase):
    """Spatial mixing, then temporal mixing, on one query (Table 1d); one attention and one FFN."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        dim, groups = config.dim, config.groups
        self.attention = SelfAttention(dim, config.heads)
        self.spatial_mixing = AdaptiveMixing(dim, groups, config.points, config.points_out)
        self.spatial_norm = nn.LayerNorm(dim)
        self.temporal_mixing = AdaptiveMixing(dim, groups, config.frames, config.frames_out)
        self.temporal_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.ReLU(), nn.Linear(config.ffn_dim, dim))
        self.ffn_norm = nn.LayerNorm(dim)
        self.add_heads(config, dim)

    def forward(
        self, sampler: Sampler, boxes_cxcyzr: Tensor, query: Tensor, _: Tensor, bank: BankWindow | None = None
    ) -> tuple[StageOutput, Tensor, Tensor]:
        """As the paper's stage; both queries are the one."""
        position, bias = self.guidance(boxes_cxcyzr, query.shape[-1])
        query = self.attention(query + position, bias)
        points_xyz = self.point_generator(query, boxes_cxcyzr)
        over_time, over_points = sampler(points_xyz)
        query = self.spatial_norm(query + self.spatial_mixing(over_time, query))
        query = self.temporal_norm(query + self.temporal_mixing(over_points, query))
        query = self.ffn_norm(query + self.ffn(query))
        return self.output(boxes_cxcyzr, query, query, at_keyframe(points_xyz), bank), query, query


class CoupledStage(StageBase):
    """All frames' points at once (Table 1d): T P_in rows, frame-major, mixed to T P_out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.branch = Branch(config, config.frames * config.points, config.frames * config.points_out)
        self.add_heads(config, config.dim)

    def forward(
        self, sampler: WholeSampler, boxes_cxcyzr: Tensor, query: Tensor, _: Tensor, bank: BankWindow | None = None
    ) -> tuple[StageOutput, Tensor, Tensor]:
        """As the paper's stage; both queries are the one."""
        position, bias = self.guidance(boxes_cxcyzr, query.shape[-1])
        query = self.branch.attention(query + position, bias)
        points_xyz = self.point_generator(query, boxes_cxcyzr)
        query = self.branch.mix(query, sampler.values(points_xyz).flatten(3, 4))
        return self.output(boxes_cxcyzr, query, query, at_keyframe(points_xyz), bank), query, query


class OneStreamDecoder(nn.Module):
    """N queries for box, person and action alike (Table 1d), through M stages; they stand for both in the output.

    Of ``spatial_queries`` and ``temporal_queries`` the one is there that the mixing is called after, else the former.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        queries = nn.Parameter(torch.empty(config.queries, config.dim))
        temporal = config.mixing == "temporal"
        self.spatial_queries = None if temporal else queries
        self.temporal_queries = queries if temporal else None
        self.stages = nn.ModuleList(_one_stream_stage(config) for _ in range(config.stages))

    def forward(
        self, space: Sequence[Tensor], strides: Sequence[int], sizes_wh: Tensor, bank: BankWindow | None = None
    ) -> DecoderOutput:
        """As ``Decoder``."""
        embeddings = self.temporal_queries if self.spatial_queries is None else self.spatial_queries
        assert embeddings is not None
        query = starting_queries(embeddings, sizes_wh.shape[0])
        boxes = whole_frames(sizes_wh, query.shape[1])
        return run_stages(self.stages, make_sampler(self.config, space, strides), boxes, query, query, bank)


def _one_stream_stage(config: DecoderConfig) -> StageBase:
    match config.mixing:
        case "spatial" | "temporal":
            return OneBranchStage(config)
        case "sequential":
            return SequentialStage(config)
        case "coupled":
            return CoupledStage(config)
        case "dual" | "fixed":
            raise AssertionError(f"{config.mixing} mixing has two streams: model.decoder")


class KeyframeDecoder(nn.Module):
    """Two decoders (Table 1a): people on the keyframe's four maps, then their actions on all frames of res5.

    The first has the spatial branch alone and the box and human heads. The second starts from its last queries and
    boxes, which it does not move, and has both branches and the action head. Stage i of the output is the first's
    stage i with the second's actions.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.spatial_queries = nn.Parameter(torch.empty(config.queries, config.dim))
        self.temporal_queries = nn.Parameter(torch.empty(config.queries, config.dim))
        self.people = nn.ModuleList(OneBranchStage(config, actions=False) for _ in range(config.stages))
        self.actions = nn.ModuleList(Stage(config, people=False) for _ in range(config.stages))

    def forward(
        self, space: Sequence[Tensor], strides: Sequence[int], sizes_wh: Tensor, bank: BankWindow | None = None
    ) -> DecoderOutput:
        """As ``Decoder``; ``space`` is four maps (B, D, 1, H_k, W_k), then res5's (B, D, T, H_4, W_4)."""
        assert bank is None  # DetectorConfig allows no long-term model here
        batch = sizes_wh.shape[0]
        spatial, temporal = (
            starting_queries(self.spatial_queries, batch),
            starting_queries(self.temporal_queries, batch),
        )
        boxes = whole_frames(sizes_wh, spatial.shape[1])
        keyframe = make_sampler(self.config, space[:4], strides)
        found = []
        for stage in self.people:
            assert isinstance(stage, OneBranchStage)
            spatial, points_xyz = stage.mix(keyframe, boxes, spatial)
            human_logits, boxes = stage.people(boxes, spatial)
            found.append((human_logits, boxes, points_xyz))
        coarse = make_sampler(self.config, space[4:], strides[3:])
        outputs = []
        for stage, (human_logits, their_boxes, points_xyz) in zip(self.actions, found, strict=True):
            assert isinstance(stage, Stage)
            spatial, temporal, _ = stage.mix(coarse, boxes, spatial, temporal)
            action_logits = stage.actions(torch.cat((spatial, temporal), -1), None)
            corners = cxcyzr_to_xyxy(their_boxes)
            outputs.append(StageOutput(human_logits, action_logits, their_boxes, corners, points_xyz))
        return DecoderOutput(tuple(outputs), spatial, temporal)
