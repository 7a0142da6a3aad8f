"""STMixer: backbone, feature space, decoder. One forward, in training as in evaluation; no state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.backbones import STRIDES, build_backbone
from model.config import DetectorConfig
from model.decoder import Decoder, DecoderOutput, Head, Stage
from model.feature_space import LateralFeatureSpace
from model.mixing import AdaptiveMixing
from model.sampling import PointGenerator

ACTION_PRIOR = 0.01


class Detector(nn.Module):
    """A clip of normalised, padded RGB frames to boxes, human logits and action logits of N queries per stage."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.feature_space = LateralFeatureSpace(config.backbone.map_channels, config.decoder.dim)
        self.decoder = Decoder(config.decoder)

    def forward(self, clip: Tensor, sizes_wh: Tensor) -> DecoderOutput:
        """Detect.

        Args:
            clip: (B, 3, frames, H, W) float, normalised, zero-padded to multiples of 32.
            sizes_wh: (B, 2) float, width and height of each clip before padding, px.

        Returns:
            Every stage's output, boxes in pixels of the unpadded clip.
        """
        output: DecoderOutput = self.decoder(self.feature_space(self.backbone(clip)), STRIDES, sizes_wh)
        return output

    @torch.no_grad()
    def initialise(self) -> None:
        """Initial weights of training (DETECTOR.md, Training), drawn from torch's current generator."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "queries" not in name:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.decoder.spatial_queries)
        nn.init.normal_(self.decoder.temporal_queries)
        for module in self.modules():
            match module:
                case PointGenerator():
                    module.reset_parameters()
                case AdaptiveMixing():
                    nn.init.zeros_(module.generator.weight)
                case Stage():
                    nn.init.uniform_(module.iof_tau, 0.0, 4.0)
                    _zero(module.box_head)
                    nn.init.constant_(module.action_head.last.bias, -math.log((1 - ACTION_PRIOR) / ACTION_PRIOR))


def _zero(head: Head) -> None:
    nn.init.zeros_(head.last.weight)
    nn.init.zeros_(head.last.bias)


def build(config: DetectorConfig, *, seed: int = 0) -> Detector:
    """An untrained detector with the initial weights of training, the same for the same seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(config)
        detector.initialise()
    return detector.eval()


def skeleton(config: DetectorConfig) -> Detector:
    """A detector on the meta device: shapes without memory, for loading into and for counting."""
    with torch.device("meta"):
        return Detector(config).eval()
