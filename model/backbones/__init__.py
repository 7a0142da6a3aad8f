"""Backbones: a clip (B, 3, frames, H, W) to four maps (B, C_k, T, H / s, W / s) at strides s = 4, 8, 16, 32.

ViT gives one map at stride 16 four times; CSN's maps have 8 T, 4 T, 2 T and T frames: ``model.feature_space`` makes
them even. Those of the realtime family take frames (F, 3, H, W) one by one instead (``config.per_frame``).
"""

from __future__ import annotations

from torch import nn

from stmixer.model.backbones.csn import Csn
from stmixer.model.backbones.resnet3d import SlowFast, SlowOnly
from stmixer.model.backbones.vit import Vit
from stmixer.model.backbones.yolox import YoloxBackbone
from stmixer.model.config import BackboneConfig, CsnConfig, FrameConfig, ResNetConfig, VitConfig


def build_backbone(config: BackboneConfig) -> nn.Module:
    """The backbone a configuration names."""
    match config:
        case FrameConfig(network="yolox_nano"):
            return YoloxBackbone(config)
        case FrameConfig():
            # imported late: timm brings torchvision, and both take longer to import than a small network to start
            from stmixer.model.backbones.frame import FrameBackbone

            return FrameBackbone(config)
        case CsnConfig():
            return Csn(config)
        case VitConfig():
            return Vit(config)
        case ResNetConfig(kind="slowonly"):
            return SlowOnly(config)
        case ResNetConfig():
            return SlowFast(config)
