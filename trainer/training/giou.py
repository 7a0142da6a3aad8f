"""Overlap of boxes for matching and loss (Rezatofighi et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(..., 4) and (..., 4) corners with broadcasting leading dimensions -> (...) in (-1, 1].

    IoU less the share of the enclosing box that neither covers. The unit does not matter, nor does its being the same
    in x and y. Every box needs a positive area, which those of the decoder have (model/box_tensors.py) and the data
    checks ask for.
    """
    overlap = _area(torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]))
    union = _area(a_xyxy[..., :2], a_xyxy[..., 2:]) + _area(b_xyxy[..., :2], b_xyxy[..., 2:]) - overlap
    hull = _area(torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]))
    return overlap / union - (hull - union) / hull


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0).prod(-1)
