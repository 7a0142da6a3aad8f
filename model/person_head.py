"""A dense person detector on a frame's maps: one logit and one box per cell (YOLOX, arXiv 2107.08430, §2).

Its best cells are where queries start (``model.starts``). Not in the paper, whose queries all start with the whole
frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stmixer.model.backbones.yolox import ConvSilu, SeparableConv
from stmixer.model.box_tensors import cxcyzr_to_xyxy
from stmixer.model.float32 import in_float32

HEAD_STRIDES = (8, 16, 32)
"""px per cell of the maps that it reads: the last three of a backbone's four."""
HEAD_WIDTH = 64
"""Channels inside the head; YOLOX-nano's."""
PERSON_PRIOR = 0.01
"""What objectness and person probability start from, each, when the head is trained from nothing."""
_MAX_LOG_SIZE = 8.0
"""ln of a box's side in cells is kept within this on both sides: 95,000 px at stride 32, so that nothing overflows."""

_MAX_LOGIT = 40.0
"""Its exponential and the square of that are still float32."""


@dataclass(frozen=True, slots=True)
class Cells:
    """What the head says of every cell of F frames, level by level, row by row.

    ``logits`` (F, cells): sigmoid gives the score, objectness x person probability. ``boxes_cxcyzr`` and
    ``boxes_xyxy_px`` (F, cells, 4), not cut to the frame. ``centres_xy_px`` (cells, 2) of the cells themselves. All
    float32.
    """

    logits: Tensor
    boxes_cxcyzr: Tensor
    boxes_xyxy_px: Tensor
    centres_xy_px: Tensor


class PersonHeadLevel(nn.Module):
    """YOLOX's decoupled head on one level, with the person as its only class."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stem = ConvSilu(channels, width)
        self.person_tower = nn.Sequential(SeparableConv(width, width), SeparableConv(width, width))
        self.person = nn.Conv2d(width, 1, 1)
        self.box_tower = nn.Sequential(SeparableConv(width, width), SeparableConv(width, width))
        self.box = nn.Conv2d(width, 4, 1)
        self.objectness = nn.Conv2d(width, 1, 1)

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        """(F, C, h, w) -> (F, 6, h, w): x, y, ln width, ln height (in cells, from the cell's corner), two logits."""
        stem = self.stem(x)
        of_box = self.box_tower(stem)
        return torch.cat((self.box(of_box), self.objectness(of_box), self.person(self.person_tower(stem))), 1)


class PersonHead(nn.Module):
    """A level of the head for each map from stride 8 on. Float32, also under autocast."""

    def __init__(self, map_channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(PersonHeadLevel(channels, HEAD_WIDTH) for channels in map_channels[1:])

    def reset_parameters(self) -> None:
        """Biases of both logits to ``PERSON_PRIOR``; the rest is the detector's to draw."""
        for level in self.levels:
            assert isinstance(level, PersonHeadLevel)
            for layer in (level.person, level.objectness):
                assert layer.bias is not None
                nn.init.constant_(layer.bias, -math.log((1 - PERSON_PRIOR) / PERSON_PRIOR))

    def forward(self, maps: Sequence[Tensor]) -> Cells:
        """The backbone's four maps (F, C_k, H / s, W / s), of which the first is not read -> what its cells say."""
        said, corners, strides = [], [], []
        for level, x, stride in zip(self.levels, maps[1:], HEAD_STRIDES, strict=True):
            height, width = x.shape[-2:]
            said.append(level(x).flatten(2))
            corners.append(_corners(height, width, said[-1]))
            strides.append(said[-1].new_full((height * width,), stride))
        x, y, log_width, log_height, objectness, person = torch.cat(said, 2).unbind(1)
        corner, px = torch.cat(corners), torch.cat(strides)
        log_width, log_height = (v.clamp(-_MAX_LOG_SIZE, _MAX_LOG_SIZE) / math.log(2) for v in (log_width, log_height))
        boxes = torch.stack(
            (
                (x + corner[:, 0]) * px,
                (y + corner[:, 1]) * px,
                (log_width + log_height) / 2 + torch.log2(px),
                log_height - log_width,
            ),
            -1,
        )
        return Cells(
            product_logit(objectness, person),
            boxes,
            cxcyzr_to_xyxy(boxes),
            (corner + 0.5) * px.unsqueeze(-1),
        )


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigmoid(a) sigmoid(b): 1 / p - 1 is e^-a + e^-b + e^(-a - b). Each counts within ``_MAX_LOGIT``."""
    of_a, of_b = ((-logit.clamp(-_MAX_LOGIT, _MAX_LOGIT)).exp() for logit in (a, b))
    return -torch.log(of_a + of_b + of_a * of_b)


def _corners(height: int, width: int, like: Tensor) -> Tensor:
    """(height width, 2) x and y of the cells' upper left corners, in cells, row by row."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack((x, y), -1).flatten(0, 1)
