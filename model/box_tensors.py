"""Boxes inside the network, as tensors: what gradients and exported graphs pass through. ``model.boxes`` is the rest.

``cxcyzr``: centre in pixels, z = log2 sqrt(w h), r = log2(h / w) (paper §3.3). ``xyxy_px``: corners in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def whole_frame_cxcyzr(sizes_wh: Tensor) -> Tensor:
    """(B, 2) frame sizes (width, height) px -> (B, 4) cxcyzr of the whole frame."""
    w, h = sizes_wh.unbind(-1)
    return torch.stack((w / 2, h / 2, torch.log2(w * h) / 2, torch.log2(h / w)), -1)


def box_sizes(boxes_cxcyzr: Tensor) -> Tensor:
    """(..., 4) cxcyzr -> (..., 2) width and height in px: w = 2^(z - r/2), h = 2^(z + r/2)."""
    z, r = boxes_cxcyzr[..., 2], boxes_cxcyzr[..., 3]
    return torch.stack((torch.exp2(z - r / 2), torch.exp2(z + r / 2)), -1)


def cxcyzr_to_xyxy(boxes_cxcyzr: Tensor) -> Tensor:
    """(..., 4) cxcyzr -> (..., 4) corners x1 y1 x2 y2 in px."""
    centre, half = boxes_cxcyzr[..., :2], box_sizes(boxes_cxcyzr) / 2
    return torch.cat((centre - half, centre + half), -1)


def refine_cxcyzr(boxes_cxcyzr: Tensor, deltas: Tensor) -> Tensor:
    """One refinement (paper §3.3): the centre moves by deltas x 2^z (z before the update), then z and r add."""
    z = boxes_cxcyzr[..., 2:3]
    centre = boxes_cxcyzr[..., :2] + deltas[..., :2] * torch.exp2(z)
    return torch.cat((centre, boxes_cxcyzr[..., 2:] + deltas[..., 2:]), -1)


def pairwise_iof(boxes_xyxy_px: Tensor) -> Tensor:
    """(B, N, 4) corners -> (B, N, N): overlap of row and column over the area of the row's box."""
    top_left = torch.maximum(boxes_xyxy_px[:, :, None, :2], boxes_xyxy_px[:, None, :, :2])
    bottom_right = torch.minimum(boxes_xyxy_px[:, :, None, 2:], boxes_xyxy_px[:, None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    area = (boxes_xyxy_px[..., 2:] - boxes_xyxy_px[..., :2]).prod(-1)
    return overlap / area.unsqueeze(-1)


def pairwise_iou(boxes_xyxy_px: Tensor) -> Tensor:
    """(B, N, 4) corners -> (B, N, N): intersection over union of row and column, 0..1.

    Side by side, not with x and y in a last dimension of two, which costs runtimes five times as much.
    """
    x1, y1, x2, y2 = boxes_xyxy_px.unbind(-1)
    overlap = _pairwise_overlap(x1, x2) * _pairwise_overlap(y1, y2)
    area = (x2 - x1) * (y2 - y1)
    return overlap / (area.unsqueeze(-1) + area.unsqueeze(-2) - overlap)


def _pairwise_overlap(starts: Tensor, ends: Tensor) -> Tensor:
    """(B, N) intervals -> (B, N, N): length of what row and column have in common."""
    first = torch.maximum(starts.unsqueeze(-1), starts.unsqueeze(-2))
    last = torch.minimum(ends.unsqueeze(-1), ends.unsqueeze(-2))
    return (last - first).clamp(min=0)
