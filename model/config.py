"""What a detector is, as plain frozen data. Imports no torch.

Symbols as in the paper: N queries, D channels, G groups, M stages, T frames of the feature space, P_in / P_out sampled
points before / after spatial mixing, T_out frames after temporal mixing, C action classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from stmixer.model.backbone_config import BackboneConfig, CsnConfig, FrameConfig, ResNetConfig, VitConfig
from stmixer.model.config_reading import ConfigError, build, require

__all__ = [
    "RAW_FPS",
    "BackboneConfig",
    "ClipConfig",
    "ConfigError",
    "CsnConfig",
    "DecoderConfig",
    "DetectorConfig",
    "FrameConfig",
    "LongTermConfig",
    "PreprocessConfig",
    "ResNetConfig",
    "VitConfig",
]

RAW_FPS = 30
"""Raw frame rate, per second, that window tables are written in (AVA's own)."""


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Which raw frames (1/30 s each) a clip takes: ``frames`` of them, ``stride`` apart, from c - before on.

    The keyframe c is the sample with index ``frames // 2``. ``grid`` is the spacing, in raw frames, of the absolute
    grid on which a stream's samples are kept; it divides ``stride``. docs/protocol.md asks for the stride itself; where
    frame features are not cached we keep a finer grid (2), else SlowOnly's keyframe would be up to 0.27 s off.
    """

    frames: int
    stride: int
    grid: int = 2

    def __post_init__(self) -> None:
        require(self.frames >= 1, f"clip.frames must be at least 1, got {self.frames}")
        require(self.stride >= 1, f"clip.stride must be at least 1, got {self.stride}")
        require(
            self.grid >= 1 and self.stride % self.grid == 0,
            f"clip.grid must divide clip.stride {self.stride}, got {self.grid}",
        )

    @property
    def grid_s(self) -> Fraction:
        """Spacing of the sampling grid, seconds."""
        return Fraction(self.grid, RAW_FPS)


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """Pixels to network input: short side (px), antialiasing of the resize, per-channel mean and std in 0..1."""

    short_side: int = 256
    antialias: bool = False
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    size_divisor: int = 32

    def __post_init__(self) -> None:
        require(self.short_side >= 32, f"preprocess.short_side must be at least 32 px, got {self.short_side}")
        require(self.size_divisor == 32, "preprocess.size_divisor must be 32, the stride of the coarsest map")
        require(all(s > 0 for s in self.std), f"preprocess.std must be positive, got {self.std}")


FeatureSpace = Literal["lateral", "fpn", "keyframe_res5"]
"""Where queries sample (Table 1a). ``fpn`` adds a top-down path. ``keyframe_res5`` has two decoders: people are found
on the keyframe's maps alone, their actions then on all frames of the coarsest map. The paper's is ``lateral``."""

Sampling = Literal["copying", "moving", "grid"]
"""How points serve frames (Table 1b): the same on each, offsets of its own for each, or a fixed grid over the box
instead of offsets. The paper's is ``copying``."""

Mixing = Literal["dual", "fixed", "spatial", "temporal", "sequential", "coupled"]
"""How samples are mixed (Table 1c, d): two branches, the same with learned instead of generated weights, one branch
alone, space then time on one query, or all frames' points at once. The paper's is ``dual``."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Queries and ASAM stages. ``frames`` is T, ``frames_out`` T_out, ``points`` P_in and ``points_out`` P_out.

    ``sampling`` and ``mixing`` other than the first are ablations; coupled mixing takes T P_in rows to T P_out.
    ``cells``: how many queries start at the best cells of a dense person head (``model.starts``); the others, in the
    paper all of them, start with the whole frame.
    """

    frames: int
    frames_out: int
    classes: int = 80
    queries: int = 100
    dim: int = 256
    stages: int = 6
    groups: int = 4
    points: int = 32
    points_out: int = 128
    heads: int = 8
    ffn_dim: int = 2048
    sampling: Sampling = "copying"
    mixing: Mixing = "dual"
    cells: int = 0

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            if f.name in ("sampling", "mixing", "cells"):
                continue
            value, most = getattr(self, f.name), 64 if f.name == "stages" else 65536
            require(value >= 1, f"decoder.{f.name} must be at least 1, got {value}")
            # a damaged or hostile header must not make us build for hours
            require(value <= most, f"decoder.{f.name} may be at most {most}, got {value}")
        require(
            0 <= self.cells <= self.queries,
            f"decoder.cells must be 0 to decoder.queries {self.queries}, got {self.cells}",
        )
        require(self.dim % self.groups == 0, f"decoder.groups {self.groups} must divide decoder.dim {self.dim}")
        require(self.dim % self.heads == 0, f"decoder.heads {self.heads} must divide decoder.dim {self.dim}")
        require(self.dim % 8 == 0, f"decoder.dim must be a multiple of 8 (sine and cosine of 4 numbers): {self.dim}")
        side = math.isqrt(self.points)
        require(
            self.sampling != "grid" or side * side == self.points,
            f"decoder.points must be a square for a fixed grid, got {self.points}",
        )


@dataclass(frozen=True, slots=True)
class LongTermConfig:
    """The long-term classifier (paper §3.5): ``layers`` of cross-attention from the queries to a bank of ``clips`` x k.

    ``offline``: w = ``clips``, one a second, centred on the keyframe, out of the bank of another, short-term model.
    ``online``, the paper's future work: the ``clips`` before the keyframe, out of the model's own queries.
    """

    kind: Literal["offline", "online"]
    clips: int = 60
    best: int = 5
    layers: int = 3

    def __post_init__(self) -> None:
        for f in ("clips", "best", "layers"):
            require(1 <= getattr(self, f) <= 1024, f"long_term.{f} must be 1 to 1024, got {getattr(self, f)}")

    @property
    def clips_before(self) -> int:
        """How many of the window's clips lie before the keyframe's own."""
        return self.clips if self.kind == "online" else self.clips // 2

    @property
    def entries(self) -> int:
        """K: rows of the stacked window."""
        return self.clips * self.best


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """One variant, whole. ``strides`` of the feature space are fixed at 4, 8, 16, 32."""

    name: str
    clip: ClipConfig
    backbone: BackboneConfig
    decoder: DecoderConfig
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    feature_space: FeatureSpace = "lateral"
    long_term: LongTermConfig | None = None

    def __post_init__(self) -> None:
        points = self.backbone.temporal_points(self.clip.frames)
        require(
            points == self.decoder.frames,
            f"decoder.frames is {self.decoder.frames} but a clip of {self.clip.frames} frames has T = {points} "
            f"in the {self.backbone.kind} backbone",
        )
        require(
            self.feature_space == "lateral" or isinstance(self.backbone, ResNetConfig),
            f"feature_space {self.feature_space} is an ablation of the slowonly and slowfast backbones, "
            f"not of {self.backbone.kind}",
        )
        require(
            self.feature_space != "keyframe_res5"
            or (self.decoder.mixing, self.decoder.sampling) == ("dual", "copying"),
            "feature_space keyframe_res5 goes with the paper's own sampling and mixing",
        )
        require(
            self.decoder.cells == 0 or (self.backbone.per_frame and self.decoder.mixing in ("dual", "fixed")),
            "decoder.cells wants a backbone that sees frames one by one, and decoder.mixing dual or fixed",
        )
        if self.long_term is not None:
            require(
                self.decoder.mixing in ("dual", "fixed") and self.feature_space != "keyframe_res5",
                "long_term wants both spatial and temporal queries: decoder.mixing dual or fixed, one decoder",
            )
            require(
                self.long_term.best <= self.decoder.queries,
                f"long_term.best may be at most decoder.queries {self.decoder.queries}, got {self.long_term.best}",
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DetectorConfig:
        """Strict inverse of ``to_dict``. Raises ConfigError on unknown or missing keys and on values out of range."""
        return build(cls, data, "config")
