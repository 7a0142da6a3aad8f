"""Where queries start: a frame's best cells instead of the whole frame (cf. DINO's query selection, arXiv 2203.03605).

Not in the paper. Starts of a frame are a map of their own, (F, 5, K, 1): four numbers of a box (cxcyzr) and its person
logit, K places in a column. So laid out they are kept, gathered and stacked like the four maps that they go with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stmixer.model.box_tensors import cxcyzr_to_xyxy, pairwise_iou
from stmixer.model.frame_maps import START_NUMBERS
from stmixer.model.person_head import Cells

MAX_LOGIT = 12.0
"""A start's logit is kept within this on both sides."""
ABSENT_LOGIT = -20.0
"""The logit of a place for which the frame had no cell; its box is four zeros and means nothing."""
SAME_PERSON_IOU = 0.7
"""From which overlap on the weaker of two cells stands for the same person."""
_CANDIDATES = 6
"""Cells looked at for each that is taken: about as many as a clear person fills."""
_NO_CELL = -1e4


def best_cells(cells: Cells, count: int) -> Tensor:
    """The best cells of each frame, best first, without duplicates.

    The best ``_CANDIDATES`` x ``count`` cells lose those that overlap a better one of them by more than
    ``SAME_PERSON_IOU``, whether that one stays or not (Fast NMS, arXiv 1904.02689): no loop, so it can be exported.

    Args:
        cells: of F frames.
        count: K.

    Returns:
        Starts (F, 5, K, 1), boxes without gradient, logits with it. Where fewer than K cells are left the last places
        have ``ABSENT_LOGIT``.
    """
    candidates = _CANDIDATES * count
    # as many cells that are none behind them: a small picture has fewer than are asked for
    padded = F.pad(cells.logits, (0, candidates), value=_NO_CELL)
    logits, places = padded.topk(candidates, dim=1)
    boxes = _rows(F.pad(cells.boxes_cxcyzr.detach(), (0, 0, 0, candidates)), places)
    # of each pair, row i and column j, the better one is i < j
    overlap = pairwise_iou(cxcyzr_to_xyxy(boxes)).triu(1).amax(1)
    logits, places = logits.masked_fill(overlap > SAME_PERSON_IOU, _NO_CELL).topk(count, dim=1)
    absent = logits <= _NO_CELL
    kept = logits.clamp(-MAX_LOGIT, MAX_LOGIT).masked_fill(absent, ABSENT_LOGIT)
    # which of the cells that are none comes first differs between runtimes
    boxes = _rows(boxes, places).masked_fill(absent.unsqueeze(-1), 0.0)
    return torch.cat((boxes, kept.unsqueeze(-1)), -1).transpose(1, 2).unsqueeze(-1)


def keyframe_starts(starts: Tensor, whole_cxcyzr: Tensor) -> tuple[Tensor, Tensor]:
    """The starts of each clip's keyframe.

    Args:
        starts: (B, T, 5, K, 1) of a clip's frames in time, T // 2 is the keyframe; or (B, 1, 5, K, 1), the keyframe's.
        whole_cxcyzr: (B, 4) the frame itself, which takes places without a cell.

    Returns:
        Boxes (B, K, 4) cxcyzr, and logits (B, K, 1) within ``MAX_LOGIT``.
    """
    of_keyframe = starts[:, starts.shape[1] // 2].squeeze(-1).transpose(1, 2)
    boxes, logits = of_keyframe[..., : START_NUMBERS - 1], of_keyframe[..., START_NUMBERS - 1 :]
    absent = logits < (ABSENT_LOGIT - MAX_LOGIT) / 2
    return torch.where(absent, whole_cxcyzr.unsqueeze(1), boxes).detach(), logits.clamp(min=-MAX_LOGIT)


def _rows(table: Tensor, places: Tensor) -> Tensor:
    """(F, n, C) and (F, k) numbers of rows -> (F, k, C)."""
    return table.gather(1, places.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
