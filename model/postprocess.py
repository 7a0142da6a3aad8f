"""Queries to actors (paper §3.3, inference): threshold on the person score; no NMS, no product of the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stmixer.model.decoder import PERSON, DecoderOutput


@dataclass(frozen=True, slots=True)
class ClipDetections:
    """The kept queries of one clip, in query order.

    ``queries`` (K,) indices, ``boxes_xyxy`` (K, 4) as fractions of width and height, ``person_scores`` (K,),
    ``action_scores`` (K, C).
    """

    queries: Tensor
    boxes_xyxy: Tensor
    person_scores: Tensor
    action_scores: Tensor


@dataclass(frozen=True, slots=True)
class PostProcess:
    """Last stage to detections per clip.

    A query is kept where its person score reaches ``score_threshold``. ``keep_top3`` is the official evaluation's
    way with a clip in which none does (its best three, best first); serving leaves it off.
    """

    score_threshold: float = 0.6
    keep_top3: bool = False

    @torch.no_grad()
    def __call__(self, output: DecoderOutput, sizes_wh: Tensor) -> list[ClipDetections]:
        """Decoder output and (B, 2) unpadded sizes in px -> B detections."""
        last = output.stages[-1]
        person = last.human_logits.softmax(-1)[..., PERSON]
        action = last.action_logits.sigmoid()
        # as published: x to [0, w - 1] and y to [0, h - 1], then divided by w and h
        limits = (sizes_wh - 1).repeat(1, 2).unsqueeze(1)
        boxes = last.boxes_xyxy_px.clamp(min=0).minimum(limits) / sizes_wh.repeat(1, 2).unsqueeze(1)
        results = []
        for b in range(person.shape[0]):
            kept = (person[b] >= self.score_threshold).nonzero().flatten()
            if self.keep_top3 and kept.numel() == 0:
                kept = person[b].topk(min(3, person.shape[1])).indices
            results.append(ClipDetections(kept, boxes[b, kept], person[b, kept], action[b, kept]))
        return results
