"""The decoder: M stages of adaptive sampling and adaptive mixing (ASAM, paper §3.3-3.4, Figure 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from stmixer.model.box_tensors import whole_frame_cxcyzr
from stmixer.model.classifiers import BankWindow
from stmixer.model.config import DecoderConfig, LongTermConfig
from stmixer.model.labels import PERSON
from stmixer.model.sampling import Sampler, make_sampler
from stmixer.model.stage import DecoderOutput, Stage, StageOutput, last_arrays, starting_queries

__all__ = ["PERSON", "Decoder", "DecoderOutput", "StageOutput", "last_arrays", "run_stages"]


class Decoder(nn.Module):
    """N spatial and N temporal queries, each starting with the whole frame as its box, through M stages."""

    def __init__(self, config: DecoderConfig, long_term: LongTermConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.spatial_queries = nn.Parameter(torch.empty(config.queries, config.dim))
        self.temporal_queries = nn.Parameter(torch.empty(config.queries, config.dim))
        last = config.stages - 1
        self.stages = nn.ModuleList(
            Stage(config, long_term=long_term if i == last else None) for i in range(config.stages)
        )

    def forward(
        self, space: Sequence[Tensor], strides: Sequence[int], sizes_wh: Tensor, bank: BankWindow | None = None
    ) -> DecoderOutput:
        """Decode.

        Args:
            space: four maps (B, D, T, H_k, W_k).
            strides: px per cell of each.
            sizes_wh: (B, 2) unpadded sizes, px.
            bank: for a long-term model.

        Returns:
            Every stage's output.
        """
        batch = sizes_wh.shape[0]
        spatial = starting_queries(self.spatial_queries, batch)
        temporal = starting_queries(self.temporal_queries, batch)
        return run_stages(self.stages, make_sampler(self.config, space, strides), spatial, temporal, sizes_wh, bank)


def run_stages(
    stages: Iterable[nn.Module],
    sampler: Sampler,
    spatial: Tensor,
    temporal: Tensor,
    sizes_wh: Tensor,
    bank: BankWindow | None,
) -> DecoderOutput:
    """Starting queries (B, N, D) and whole-frame boxes through the stages, each taking what the last one gave."""
    batch, queries = spatial.shape[:2]
    boxes = whole_frame_cxcyzr(sizes_wh).unsqueeze(1).expand(batch, queries, 4)
    outputs: list[StageOutput] = []
    for stage in stages:
        output, spatial, temporal = stage(sampler, boxes, spatial, temporal, bank)
        boxes = output.boxes_cxcyzr
        outputs.append(output)
    return DecoderOutput(tuple(outputs), spatial, temporal)
