"""The variants, as one plain table. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from stmixer.model.config import (
    BackboneConfig,
    ClipConfig,
    ConfigError,
    CsnConfig,
    DecoderConfig,
    DetectorConfig,
    FrameConfig,
    PreprocessConfig,
    ResNetConfig,
    VitConfig,
)

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Samples lie on the grid of the stride, so that all clips of a stream share their frames.
_REALTIME_CLIP = ClipConfig(frames=8, stride=4, grid=4)
_REALTIME_DECODER = DecoderConfig(
    frames=8,
    frames_out=16,
    queries=24,
    dim=96,
    stages=4,
    groups=4,
    points=16,
    points_out=32,
    heads=4,
    ffn_dim=384,
)

# Frames x stride, in 1/30 s, as pre-trained (docs/detector.md, Clip). Look-ahead 0.53 s, 1.0 s and 0.93 s.
_SLOW, _FAST, _VIDEOMAE = ClipConfig(4, 16), ClipConfig(32, 2), ClipConfig(16, 4)
_R101 = (3, 4, 23, 3)


def _paper(name: str, clip: ClipConfig, backbone: BackboneConfig) -> DetectorConfig:
    """The paper's decoder on a backbone: T is the backbone's, T_out four times that."""
    frames = backbone.temporal_points(clip.frames)
    return DetectorConfig(name, clip, backbone, DecoderConfig(frames, 4 * frames))


VARIANTS: dict[str, DetectorConfig] = {
    config.name: config
    for config in (
        _paper("slowonly_r50", _SLOW, ResNetConfig("slowonly")),
        _paper("slowfast_r50", _FAST, ResNetConfig("slowfast")),
        _paper("slowfast_r101", _FAST, ResNetConfig("slowfast", _R101, fusion_kernel=5)),
        _paper("slowfast_r101_nl", _FAST, ResNetConfig("slowfast", _R101, fusion_kernel=5, nonlocal_after=(6, 13, 20))),
        _paper("csn_152", _FAST, CsnConfig()),
        _paper("vit_b", _VIDEOMAE, VitConfig()),
        _paper("vit_l", _VIDEOMAE, VitConfig(width=1024, depth=24, heads=16)),
        # The realtime family: a frame is computed once, time is mixed by the decoder alone. Sees 0.4 s ahead.
        DetectorConfig(
            name="rt_lite0",
            clip=_REALTIME_CLIP,
            preprocess=PreprocessConfig(224, antialias=True, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            backbone=FrameConfig("tf_efficientnet_lite0"),
            decoder=_REALTIME_DECODER,
        ),
        DetectorConfig(
            name="rt_resnet18",
            clip=_REALTIME_CLIP,
            preprocess=PreprocessConfig(224, antialias=True, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
            backbone=FrameConfig("resnet18"),
            decoder=_REALTIME_DECODER,
        ),
        # Its frame stage can start from a detector of people, and its queries start at the cells where those are.
        DetectorConfig(
            name="rt_nano",
            clip=_REALTIME_CLIP,
            preprocess=PreprocessConfig(320, antialias=True, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
            backbone=FrameConfig("yolox_nano"),
            decoder=replace(_REALTIME_DECODER, queries=40, cells=40, dim=64, stages=3, ffn_dim=256),
        ),
        # The same code, narrow and shallow: milliseconds on a CPU, for tests of everything around the model.
        DetectorConfig(
            name="tiny",
            clip=ClipConfig(frames=4, stride=16),
            preprocess=PreprocessConfig(short_side=128),
            backbone=ResNetConfig(kind="slowonly", depths=(1, 1, 1, 1), width=8),
            decoder=DecoderConfig(
                frames=4,
                frames_out=8,
                queries=20,
                dim=32,
                stages=2,
                groups=2,
                points=8,
                points_out=16,
                heads=4,
                ffn_dim=64,
            ),
        ),
    )
}


def variant(name: str, *, classes: int | None = None) -> DetectorConfig:
    """The named variant, with another number of action classes if given. Raises ConfigError for an unknown name."""
    try:
        config = VARIANTS[name]
    except KeyError:
        raise ConfigError(f"unknown model variant {name!r}; known: {', '.join(VARIANTS)}") from None
    if classes is None:
        return config
    return replace(config, decoder=replace(config.decoder, classes=classes))
