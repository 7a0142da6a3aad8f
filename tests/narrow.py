"""Each backbone's and each ablation's own code, narrow and shallow: milliseconds on a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stmixer.model.config import ClipConfig, CsnConfig, DetectorConfig, LongTermConfig, ResNetConfig, VitConfig
from stmixer.model.zoo import variant

TINY = variant("tiny")

BACKBONES: dict[str, tuple[ClipConfig, Any]] = {
    "slowonly": (ClipConfig(4, 16), TINY.backbone),
    "slowfast": (ClipConfig(16, 2), ResNetConfig("slowfast", (1, 1, 1, 1), 16)),
    "slowfast_nl": (
        ClipConfig(16, 2),
        ResNetConfig("slowfast", (1, 1, 3, 1), 16, temporal_blocks=(1, 1, 2, 1), fusion_kernel=5, nonlocal_after=(1,)),
    ),
    "csn": (ClipConfig(16, 2), CsnConfig(depths=(1, 1, 2, 1), width=8)),
    "vit": (ClipConfig(8, 4), VitConfig(width=32, depth=2, heads=4)),
}

ABLATIONS: dict[str, dict[str, Any]] = {
    "fpn": {"feature_space": "fpn"},
    "keyframe_res5": {"feature_space": "keyframe_res5"},
    "grid": {"sampling": "grid", "points": 9},
    "moving": {"sampling": "moving"},
    "fixed": {"mixing": "fixed"},
    "spatial": {"mixing": "spatial"},
    "temporal": {"mixing": "temporal"},
    "sequential": {"mixing": "sequential"},
    "coupled": {"mixing": "coupled"},
    "coupled_moving": {"mixing": "coupled", "sampling": "moving"},
    "stages": {"stages": 3},
    "queries": {"queries": 7},
    "points": {"points": 16, "points_out": 8, "frames_out": 4},
}

LONG_TERM: dict[str, LongTermConfig] = {
    "offline": LongTermConfig("offline", clips=6, best=2),
    "online": LongTermConfig("online", clips=3, best=2),
}


def narrow(name: str) -> DetectorConfig:
    """A backbone, an ablation or a long-term model of ``tiny``'s size, named so."""
    if name in LONG_TERM:
        return replace(TINY, name=name, long_term=LONG_TERM[name])
    if name in ABLATIONS:
        changes = dict(ABLATIONS[name])
        space = changes.pop("feature_space", "lateral")
        return replace(TINY, name=name, feature_space=space, decoder=replace(TINY.decoder, **changes))
    clip, backbone = BACKBONES[name]
    frames = backbone.temporal_points(clip.frames)
    return replace(TINY, name=name, clip=clip, backbone=backbone, decoder=replace(TINY.decoder, frames=frames))
