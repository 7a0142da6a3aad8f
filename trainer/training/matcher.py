"""Which query answers for which person: Hungarian matching, stage by stage (paper §3.5; docs/detector.md, Training)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stmixer.model.decoder import PERSON, StageOutput
from stmixer.trainer.data.targets import Target
from stmixer.trainer.errors import DivergedError
from stmixer.trainer.training.overlap import generalised_iou


@dataclass(frozen=True, slots=True)
class Match:
    """Pairs of one stage: clip, query and person have (k,) int64 each, clips ascending.

    ``wanted`` pairs were looked for: one per person, times the copies of one-to-many stages. More than k where people
    outnumber the queries.
    """

    clips: Tensor
    queries: Tensor
    people: Tensor
    wanted: int


@dataclass(frozen=True, slots=True)
class Matcher:
    """cost = l1 · L1(corners over width and height) − person · p_person − giou · GIoU, its sum the least possible.

    A clip with more people than queries leaves the dearest people unmatched.

    Beyond the paper: in every stage but the last a person may be matched ``one_to_many`` times (fewer where a clip has
    not the queries for it), so that more queries learn to find people; the last stage alone must choose. The idea is
    that of H-DETR (CVPR 2023, §3.2) and MS-DETR (CVPR 2024).
    """

    l1: float = 2.0
    person: float = 2.0
    giou: float = 2.0
    one_to_many: int = 1

    @torch.no_grad()
    def __call__(self, stages: Sequence[StageOutput], targets: Sequence[Target], sizes_wh: Tensor) -> list[Match]:
        """Match every stage by itself.

        Args:
            stages: the decoder's outputs for B clips.
            targets: B targets.
            sizes_wh: (B, 2) unpadded width and height, px.

        Returns:
            One match per stage, its tensors on the device of the outputs.

        Raises:
            DivergedError: an output that is no number.
        """
        device = sizes_wh.device
        counts = [len(target.boxes_xyxy_px) for target in targets]
        if not any(counts):
            none = torch.zeros(0, dtype=torch.int64, device=device)
            return [Match(none, none, none, 0) for _ in stages]
        boxes = torch.nn.utils.rnn.pad_sequence([target.boxes_xyxy_px for target in targets], batch_first=True)
        # one transfer for all stages: solving on the CPU is what the device would wait for
        costs = torch.stack([self.cost(stage, boxes, sizes_wh) for stage in stages]).cpu().double().numpy()
        copies = [self.one_to_many] * (len(stages) - 1) + [1]
        return [_solve(c, counts, k, device) for c, k in zip(costs, copies, strict=True)]

    def cost(self, stage: StageOutput, boxes_xyxy_px: Tensor, sizes_wh: Tensor) -> Tensor:
        """B x N queries against (B, M, 4) boxes, padded with anything -> (B, N, M)."""
        extent = sizes_wh.repeat(1, 2)[:, None, None]
        queries, people = stage.boxes_xyxy_px.float().unsqueeze(2), boxes_xyxy_px.float().unsqueeze(1)
        distance = ((queries - people) / extent).abs().sum(-1)
        person = stage.human_logits.float().softmax(-1)[..., PERSON].unsqueeze(2)
        return self.l1 * distance - self.person * person - self.giou * generalised_iou(queries, people)


def _solve(costs: np.ndarray, counts: Sequence[int], copies: int, device: torch.device) -> Match:
    clips, queries, people = [], [], []
    wanted = 0
    for clip, count in enumerate(counts):
        repeats = max(1, min(copies, costs.shape[1] // max(count, 1)))
        wanted += count * repeats
        own = np.tile(costs[clip, :, :count], (1, repeats))
        if not np.isfinite(own).all():
            raise DivergedError("the network's boxes or logits are no longer finite; lower the learning rate or clip")
        rows, columns = linear_sum_assignment(own)
        clips.append(np.full(len(rows), clip))
        queries.append(rows)
        people.append(columns % max(count, 1))
    clip_ids, query_ids, person_ids = (
        torch.from_numpy(np.concatenate(part).astype(np.int64)).to(device) for part in (clips, queries, people)
    )
    return Match(clip_ids, query_ids, person_ids, wanted)
