"""The decoder: M stages of adaptive sampling and adaptive mixing (ASAM, paper §3.3-3.4, Figure 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.box_tensors import whole_frame_cxcyzr
from stmixer.model.classifiers import BankWindow
from stmixer.model.config import DecoderConfig, LongTermConfig
from stmixer.model.labels import PERSON
from stmixer.model.outputs import DecoderOutput, StageOutput
from stmixer.model.sampling import Sampler, make_sampler
from stmixer.model.stage import Stage, last_arrays, starting_queries
from stmixer.model.starts import keyframe_starts

__all__ = ["PERSON", "Decoder", "DecoderOutput", "StageOutput", "last_arrays", "run_stages"]


class Decoder(nn.Module):
    """N spatial and N temporal queries through M stages.

    Each starts with the whole frame as its box, but for the first K (``config.cells``), which start at the keyframe's
    best cells, best first.
    """

    def __init__(self, config: DecoderConfig, long_term: LongTermConfig | None = None) -> None:
        super().__init__()
        self.config = config
        # which cell comes first says nothing that its logit does not: all cells share the first row
        rows = config.queries - config.cells + bool(config.cells)
        self.spatial_queries = nn.Parameter(torch.empty(rows, config.dim))
        self.temporal_queries = nn.Parameter(torch.empty(rows, config.dim))
        self.cell_content = nn.Linear(config.dim + 1, 2 * config.dim) if config.cells else None
        self.start_weight = nn.Parameter(torch.ones(config.stages)) if config.cells else None
        last = config.stages - 1
        self.stages = nn.ModuleList(
            Stage(config, long_term=long_term if i == last else None) for i in range(config.stages)
        )

    def forward(
        self,
        space: Sequence[Tensor],
        strides: Sequence[int],
        sizes_wh: Tensor,
        bank: BankWindow | None = None,
        starts: Tensor | None = None,
    ) -> DecoderOutput:
        """Decode.

        Args:
            space: four maps (B, D, T, H_k, W_k).
            strides: px per cell of each.
            sizes_wh: (B, 2) unpadded sizes, px.
            bank: for a long-term model.
            starts: (B, T, 5, K, 1) of ``model.starts``, for a model that has them.

        Returns:
            Every stage's output.
        """
        batch = sizes_wh.shape[0]
        spatial = starting_queries(self.spatial_queries, batch)
        temporal = starting_queries(self.temporal_queries, batch)
        boxes = whole_frames(sizes_wh, spatial.shape[1])
        sampler = make_sampler(self.config, space, strides)
        if self.cell_content is not None:
            assert starts is not None
            at_cells, logits = keyframe_starts(starts, boxes[:, 0])
            boxes = torch.cat((at_cells, boxes[:, 1:]), 1)
            spatial, temporal = self._with_cells(sampler, at_cells, logits, spatial, temporal)
            output = run_stages(self.stages, sampler, boxes, spatial, temporal, bank)
            return self._from_starts(output, logits)
        return run_stages(self.stages, sampler, boxes, spatial, temporal, bank)

    def _with_cells(
        self, sampler: Sampler, at_cells: Tensor, logits: Tensor, spatial: Tensor, temporal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings, the first of which is the cells' -> those of all N queries, cells first.

        Each half of a cell's query is that embedding plus a linear map of what the keyframe's feature space holds at
        the box's centre and level (layer-normed without affine) and of the cell's logit.
        """
        assert self.cell_content is not None
        centres = at_cells[:, :, None, None, :3].expand(-1, -1, self.config.groups, -1, -1)
        _, over_time = sampler(centres)  # B, K, G, T, D / G: of one point each, so the mean over points is its value
        features = over_time[:, :, :, over_time.shape[3] // 2].flatten(2)
        seen = torch.cat((F.layer_norm(features, features.shape[-1:]), logits.to(features.dtype)), -1)
        of_spatial, of_temporal = self.cell_content(seen).chunk(2, -1)
        return (
            torch.cat((spatial[:, :1] + of_spatial, spatial[:, 1:]), 1),
            torch.cat((temporal[:, :1] + of_temporal, temporal[:, 1:]), 1),
        )

    def _from_starts(self, output: DecoderOutput, logits: Tensor) -> DecoderOutput:
        """Every stage's person logit as a correction of the start's (B, K, 1), where the query has one."""
        assert self.start_weight is not None
        person = F.pad(logits, (PERSON, 1 - PERSON, 0, self.config.queries - self.config.cells))  # B, N, 2
        corrected = (
            replace(stage, human_logits=stage.human_logits + weight * person.to(stage.human_logits.dtype))
            for stage, weight in zip(output.stages, self.start_weight.unbind(), strict=True)
        )
        return replace(output, stages=tuple(corrected), start_logits=logits)


def whole_frames(sizes_wh: Tensor, queries: int) -> Tensor:
    """(B, 2) sizes px -> (B, N, 4) cxcyzr: every query starts with the whole frame."""
    return whole_frame_cxcyzr(sizes_wh).unsqueeze(1).expand(-1, queries, 4)


def run_stages(
    stages: Iterable[nn.Module],
    sampler: Sampler,
    boxes: Tensor,
    spatial: Tensor,
    temporal: Tensor,
    bank: BankWindow | None,
) -> DecoderOutput:
    """Starting boxes (B, N, 4) and queries (B, N, D) through the stages, each taking what the last one gave."""
    outputs: list[StageOutput] = []
    for stage in stages:
        output, spatial, temporal = stage(sampler, boxes, spatial, temporal, bank)
        boxes = output.boxes_cxcyzr
        outputs.append(output)
    return DecoderOutput(tuple(outputs), spatial, temporal)
