"""Boxes that the network gave, as numpy arrays. Imports no torch. The format and the unit stand in every name.

``xyxy_px``: corners x1 y1 x2 y2 in pixels. ``xyxy``: the same as fractions of the frame's width and height, 0..1.
``model.box_tensors`` has the network's own format.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]


def xyxy_px_to_xyxy(boxes_xyxy_px: Boxes, sizes_wh: Boxes) -> Boxes:
    """Corners in px, cut to the frame's pixels, as fractions of the frame.

    As published: x is cut to [0, w - 1] and y to [0, h - 1], then they are divided by w and h.

    Args:
        boxes_xyxy_px: (..., N, 4).
        sizes_wh: (..., 2) width and height, px.

    Returns:
        (..., N, 4), in [0, 1).
    """
    sizes = np.concatenate((sizes_wh, sizes_wh), -1)[..., None, :]
    return np.asarray(np.minimum(np.maximum(boxes_xyxy_px, 0), sizes - 1) / sizes)


def pairwise_iou(boxes_xyxy: Boxes, others_xyxy: Boxes) -> Boxes:
    """(N, 4) and (M, 4) corners, both in the same unit -> (N, M) intersection over union, 0..1."""
    top_left = np.maximum(boxes_xyxy[:, None, :2], others_xyxy[None, :, :2])
    bottom_right = np.minimum(boxes_xyxy[:, None, 2:], others_xyxy[None, :, 2:])
    overlap = np.maximum(bottom_right - top_left, 0).prod(-1)
    union = areas(boxes_xyxy)[:, None] + areas(others_xyxy) - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def areas(boxes_xyxy: Boxes) -> Boxes:
    """(..., 4) corners -> (...,) areas, in the unit squared."""
    return np.asarray((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1))
