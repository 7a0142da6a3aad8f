"""Overlap of boxes for matching and loss; the generalised one is that of Rezatofighi et al., CVPR 2019."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(..., 4) and (..., 4) corners with broadcasting leading dimensions -> (...) in (-1, 1].

    IoU less the share of the enclosing box that neither covers. The unit does not matter, nor does its being the same
    in x and y. Every box needs a positive area, which those of the decoder have (model/box_tensors.py) and the data
    checks ask for.
    """
    overlap, union = _overlap_and_union(a_xyxy, b_xyxy)
    hull = _area(torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]))
    return overlap / union - (hull - union) / hull


def share_inside(boxes_xyxy: Tensor, areas_xyxy: Tensor) -> Tensor:
    """(B, N, 4) boxes of positive area and (B, M, 4) areas -> (B, N, M): how much of a box lies in an area, 0–1."""
    own = _area(boxes_xyxy[..., :2], boxes_xyxy[..., 2:]).unsqueeze(2)
    return _overlap(boxes_xyxy.unsqueeze(2), areas_xyxy.unsqueeze(1)) / own


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(..., 4) and (..., 4) corners with broadcasting leading dimensions, of positive area -> (...) in [0, 1]."""
    overlap, union = _overlap_and_union(a_xyxy, b_xyxy)
    return overlap / union


def _overlap_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    overlap = _overlap(a_xyxy, b_xyxy)
    return overlap, _area(a_xyxy[..., :2], a_xyxy[..., 2:]) + _area(b_xyxy[..., :2], b_xyxy[..., 2:]) - overlap


def _overlap(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    return _area(torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]))


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0).prod(-1)
