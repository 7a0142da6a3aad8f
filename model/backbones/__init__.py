"""Backbones: a clip (B, 3, frames, H, W) to four maps (B, C_k, T, H / s, W / s) at strides s = 4, 8, 16, 32."""

from __future__ import annotations

from torch import Tensor, nn

from model.backbones.resnet3d import SlowFast, SlowOnly
from model.config import BackboneConfig

STRIDES = (4, 8, 16, 32)

Maps = tuple[Tensor, Tensor, Tensor, Tensor]


def build_backbone(config: BackboneConfig) -> nn.Module:
    """The backbone a configuration names."""
    return {"slowonly": SlowOnly, "slowfast": SlowFast}[config.kind](config)
