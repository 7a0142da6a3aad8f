"""The decoder: M stages of adaptive sampling and adaptive mixing (ASAM, paper §3.3-3.4, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stmixer.model.ablations import make_stage
from stmixer.model.box_tensors import whole_frame_cxcyzr
from stmixer.model.classifiers import BankWindow
from stmixer.model.config import DecoderConfig, LongTermConfig
from stmixer.model.labels import PERSON
from stmixer.model.sampling import Sampler, WholeSampler, make_sampler
from stmixer.model.stage import DecoderOutput, StageOutput, last_arrays, starting_queries

__all__ = ["PERSON", "Decoder", "DecoderOutput", "StageOutput", "last_arrays"]


class Decoder(nn.Module):
    """N spatial and N temporal queries, each starting with the whole frame as its box, through M stages.

    Ablations with one stream of queries have embeddings for that one alone; it stands for both in the output.
    """

    def __init__(self, config: DecoderConfig, long_term: LongTermConfig | None = None) -> None:
        super().__init__()
        self.groups = config.groups
        # a mean over frames or points is not enough where points differ between frames, or all are mixed at once
        self.whole = config.sampling == "moving" or config.mixing == "coupled"
        embeddings = (config.queries, config.dim)
        two = config.mixing in ("dual", "fixed")
        self.spatial_queries = nn.Parameter(torch.empty(embeddings)) if two or config.mixing != "temporal" else None
        self.temporal_queries = nn.Parameter(torch.empty(embeddings)) if two or config.mixing == "temporal" else None
        last = config.stages - 1
        self.stages = nn.ModuleList(make_stage(config, long_term if i == last else None) for i in range(config.stages))

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
        spatial, temporal = (
            None if e is None else starting_queries(e, batch) for e in (self.spatial_queries, self.temporal_queries)
        )
        spatial, temporal = temporal if spatial is None else spatial, spatial if temporal is None else temporal
        assert spatial is not None
        boxes = whole_frame_cxcyzr(sizes_wh).unsqueeze(1).expand(batch, spatial.shape[1], 4)
        sampler = self._sampler(space, strides)
        outputs = []
        for stage in self.stages:
            output, spatial, temporal = stage(sampler, boxes, spatial, temporal, bank)
            boxes = output.boxes_cxcyzr
            outputs.append(output)
        assert spatial is not None
        assert temporal is not None
        return DecoderOutput(tuple(outputs), spatial, temporal)

    def _sampler(self, space: Sequence[Tensor], strides: Sequence[int]) -> Sampler:
        return WholeSampler(space, strides) if self.whole else make_sampler(space, strides, self.groups)
