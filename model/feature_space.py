"""The 4-D feature space (paper §3.2): four maps at strides 4, 8, 16 and 32, of D channels and T frames each.

Deviation from the paper, as in the published checkpoints: the maps are not rescaled to one size; the sampler
normalises coordinates per level instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.backbones.factorised import FactorisedConv3d
from stmixer.model.config import CsnConfig, DetectorConfig, VitConfig


def build_feature_space(config: DetectorConfig) -> nn.Module:
    """The feature space that goes with a backbone."""
    channels, dim = config.backbone.map_channels, config.decoder.dim
    match config.feature_space:
        case "fpn":
            return FpnFeatureSpace(channels, dim)
        case "keyframe_res5":
            return KeyframeFeatureSpace(channels, dim)
    match config.backbone:
        case VitConfig():
            return PyramidFeatureSpace(channels[0], dim)
        case CsnConfig():
            return PooledFeatureSpace(channels, dim)
        case _:
            return LateralFeatureSpace(channels, dim)


class LateralFeatureSpace(nn.Module):
    """A 1 x 1 x 1 convolution with bias per level: (B, C_k, T, H_k, W_k) -> (B, D, T, H_k, W_k).

    Of frames by themselves (F, C_k, H_k, W_k) -> (F, D, H_k, W_k).
    """

    def __init__(self, map_channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(FactorisedConv3d(c, dim, 1) for c in map_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(conv(x) for conv, x in zip(self.lateral, maps, strict=True))


class PooledFeatureSpace(LateralFeatureSpace):
    """Lateral, for maps whose frames grow fewer with depth (CSN): then max-pooled in time to the last map's T.

    (B, C_k, 2^(3 - k) T, H_k, W_k) -> (B, D, T, H_k, W_k). No code of the authors says how; the paper's cost (126) lies
    2 % above convolving first and pooling then (123.3), which is what every other backbone's order suggests.
    """

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        frames = maps[-1].shape[2]
        space = super().forward(maps)
        return tuple(F.max_pool3d(x, (x.shape[2] // frames, 1, 1)) for x in space)


class FpnFeatureSpace(LateralFeatureSpace):
    """Full FPN, an ablation of Table 1: top-down sums of the lateral maps, then a 1 x 1 x 1 convolution per level."""

    def __init__(self, map_channels: Sequence[int], dim: int) -> None:
        super().__init__(map_channels, dim)
        self.output = nn.ModuleList(nn.Conv3d(dim, dim, 1) for _ in map_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        *finer, above = super().forward(maps)
        summed = [above]
        for x in reversed(finer):
            above = x + F.interpolate(above, size=x.shape[2:], mode="nearest")
            summed.insert(0, above)
        return tuple(conv(x) for conv, x in zip(self.output, summed, strict=True))


class KeyframeFeatureSpace(LateralFeatureSpace):
    """Two spaces, an ablation of Table 1: the keyframe of all four maps, and all frames of the coarsest.

    (B, C_k, T, H_k, W_k) -> four maps (B, D, 1, H_k, W_k), of frame T // 2, and one (B, D, T, H_4, W_4).
    """

    def __init__(self, map_channels: Sequence[int], dim: int) -> None:
        super().__init__(map_channels, dim)
        self.coarsest = nn.Conv3d(map_channels[-1], dim, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        middle = maps[0].shape[2] // 2
        keyframe = super().forward([x[:, :, middle : middle + 1] for x in maps])
        return *keyframe, self.coarsest(maps[-1])


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, T, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PyramidFeatureSpace(nn.Module):
    """One map at stride 16 to four levels (ViT): x4 and x2 by transposed convolutions, x1/2 by max-pool.

    (B, C, T, h, w), given four times -> (B, D, T, 4h, 4w), (.., 2h, 2w), (.., h, w), (.., h / 2, w / 2). After
    rescaling, each level has a 1 x 1 x 1 convolution, channel norm and a 3 x 3 x 3 convolution, without biases.
    Deviation from the paper, as published: the coarsest level is a max-pool, not a strided convolution.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.lateral = nn.ModuleList(
            (
                nn.Sequential(
                    _double_resolution(channels, half),
                    ChannelNorm(half),
                    nn.GELU(),
                    _double_resolution(half, quarter),
                    *_output_layers(quarter, dim),
                ),
                nn.Sequential(_double_resolution(channels, half), *_output_layers(half, dim)),
                nn.Sequential(*_output_layers(channels, dim)),
                nn.Sequential(nn.MaxPool3d((1, 2, 2)), *_output_layers(channels, dim)),
            )
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(level(x) for level, x in zip(self.lateral, maps, strict=True))


def _double_resolution(channels_in: int, channels_out: int) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(channels_in, channels_out, (1, 2, 2), (1, 2, 2))


def _output_layers(channels: int, dim: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv3d(channels, dim, 1, bias=False),
        ChannelNorm(dim),
        nn.Conv3d(dim, dim, 3, padding=1, bias=False),
    )
