"""Queries to actors (paper §3.3, inference): threshold on the person score; no NMS, no product of the scores.

On numpy arrays of the last stage's output, whatever ran the network. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stmixer.model.boxes import xyxy_px_to_xyxy
from stmixer.model.labels import PERSON

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClipDetections:
    """The kept queries of one clip, in query order.

    ``queries`` (K,) int64 indices, ``boxes_xyxy`` (K, 4) as fractions of width and height, ``person_scores`` (K,),
    ``action_scores`` (K, C), all float32 in 0..1.
    """

    queries: NDArray[np.int64]
    boxes_xyxy: Floats
    person_scores: Floats
    action_scores: Floats


@dataclass(frozen=True, slots=True)
class PostProcess:
    """Last stage to detections per clip.

    A query is kept where its person score reaches ``score_threshold``. ``keep_top3`` is the official evaluation's
    way with a clip in which none does (its best three, best first); serving leaves it off.
    """

    score_threshold: float = 0.6
    keep_top3: bool = False

    def __call__(
        self, human_logits: Floats, action_logits: Floats, boxes_xyxy_px: Floats, sizes_wh: Floats
    ) -> list[ClipDetections]:
        """Detections of every clip.

        Args:
            human_logits: (B, N, 2).
            action_logits: (B, N, C).
            boxes_xyxy_px: (B, N, 4) corners in px of the unpadded clip.
            sizes_wh: (B, 2) unpadded sizes, px.

        Returns:
            B detections.
        """
        person, action = person_scores(human_logits), sigmoid(action_logits)
        boxes = xyxy_px_to_xyxy(boxes_xyxy_px, sizes_wh)
        results = []
        for b in range(len(person)):
            kept = np.flatnonzero(person[b] >= self.score_threshold)
            if self.keep_top3 and not len(kept):
                kept = np.argsort(-person[b], kind="stable")[:3]
            results.append(ClipDetections(kept, boxes[b, kept], person[b, kept], action[b, kept]))
        return results


def looks_of(spatial: Floats, temporal: Floats, queries: NDArray[np.int64]) -> NDArray[np.float16]:
    """What the decoder knows of people, to tell them apart by: their last queries, as unit vectors.

    Args:
        spatial, temporal: (N, D) queries of a clip after the last stage.
        queries: (K,) those that are kept.

    Returns:
        (K, 2D), zero of a person whose queries are not finite.
    """
    both = np.concatenate((spatial[queries], temporal[queries]), 1).astype(np.float64)
    both[~np.isfinite(both).all(1)] = 0.0
    return np.asarray(both / np.maximum(np.sqrt((both * both).sum(1, keepdims=True)), 1e-9), np.float16)


def person_scores(human_logits: Floats) -> Floats:
    """(..., 2) human logits -> (...,) the person's share of their softmax."""
    powers = np.exp(human_logits - human_logits.max(-1, keepdims=True))
    return np.asarray(powers[..., PERSON] / powers.sum(-1))


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e^-x), without an overflow for large -x."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1, small) / (1 + small))
