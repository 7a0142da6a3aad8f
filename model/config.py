"""What a detector is, as plain frozen data. Imports no torch.

Symbols as in the paper: N queries, D channels, G groups, M stages, T frames of the feature space, P_in / P_out sampled
points before / after spatial mixing, T_out frames after temporal mixing, C action classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

RAW_FPS = 30
"""Raw frame rate, per second, that window tables are written in (AVA's own)."""


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names the field."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Which raw frames (1/30 s each) a clip takes: ``frames`` of them, ``stride`` apart, from c - before on.

    The keyframe c is the sample with index ``frames // 2``. ``grid`` is the spacing, in raw frames, of the absolute
    grid on which a stream's samples are kept; it divides ``stride``. SERVICE.md asks for the stride itself; where
    frame features are not cached we keep a finer grid (2), else SlowOnly's keyframe would be up to 0.27 s off.
    """

    frames: int
    stride: int
    grid: int = 2

    def __post_init__(self) -> None:
        _require(self.frames >= 1, f"clip.frames must be at least 1, got {self.frames}")
        _require(self.stride >= 1, f"clip.stride must be at least 1, got {self.stride}")
        _require(
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
        _require(self.short_side >= 32, f"preprocess.short_side must be at least 32 px, got {self.short_side}")
        _require(self.size_divisor == 32, "preprocess.size_divisor must be 32, the stride of the coarsest map")
        _require(all(s > 0 for s in self.std), f"preprocess.std must be positive, got {self.std}")


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """A 3-D ResNet of bottleneck blocks, alone (``slowonly``) or with a fast pathway (``slowfast``).

    ``temporal_kernels`` and ``fast_temporal_kernels`` are those of stem, res2 .. res5. ``width`` is the slow stem's
    channels (res5 ends in 32 x width); the fast pathway has width / ``fast_ratio`` and ``alpha`` times the frames.
    """

    kind: Literal["slowonly", "slowfast"]
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    temporal_kernels: tuple[int, int, int, int, int] = (1, 1, 1, 3, 3)
    alpha: int = 4
    fast_ratio: int = 8
    fast_temporal_kernels: tuple[int, int, int, int, int] = (5, 3, 3, 3, 3)
    fusion_kernel: int = 7
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _require(
            all(1 <= d <= 128 for d in self.depths),
            f"backbone.depths must be positive and at most 128, got {self.depths}",
        )
        _require(self.width >= 1, f"backbone.width must be positive, got {self.width}")
        kernels = (*self.temporal_kernels, *self.fast_temporal_kernels, self.fusion_kernel)
        _require(all(k % 2 == 1 for k in kernels), f"backbone temporal kernels must be odd, got {kernels}")
        if self.kind == "slowfast":
            _require(self.width % self.fast_ratio == 0, "backbone.fast_ratio must divide backbone.width")

    def temporal_points(self, frames: int) -> int:
        """T of the four maps for a clip of ``frames`` frames."""
        if self.kind == "slowonly":
            return frames
        _require(frames % self.alpha == 0, f"backbone.alpha {self.alpha} must divide clip.frames {frames}")
        return frames // self.alpha

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at strides 4, 8, 16, 32."""
        slow = tuple(4 * self.width * 2**i for i in range(4))
        fast = tuple(c // self.fast_ratio for c in slow) if self.kind == "slowfast" else (0, 0, 0, 0)
        a, b, c, d = (s + f for s, f in zip(slow, fast, strict=True))
        return a, b, c, d


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Queries and ASAM stages. ``frames`` is T, ``frames_out`` T_out, ``points`` P_in and ``points_out`` P_out."""

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

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, most = getattr(self, f.name), 64 if f.name == "stages" else 65536
            _require(value >= 1, f"decoder.{f.name} must be at least 1, got {value}")
            # a damaged or hostile header must not make us build for hours
            _require(value <= most, f"decoder.{f.name} may be at most {most}, got {value}")
        _require(self.dim % self.groups == 0, f"decoder.groups {self.groups} must divide decoder.dim {self.dim}")
        _require(self.dim % self.heads == 0, f"decoder.heads {self.heads} must divide decoder.dim {self.dim}")
        _require(self.dim % 8 == 0, f"decoder.dim must be a multiple of 8 (sine and cosine of 4 numbers): {self.dim}")


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """One variant, whole. ``strides`` of the feature space are fixed at 4, 8, 16, 32."""

    name: str
    clip: ClipConfig
    backbone: BackboneConfig
    decoder: DecoderConfig
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def __post_init__(self) -> None:
        points = self.backbone.temporal_points(self.clip.frames)
        _require(
            points == self.decoder.frames,
            f"decoder.frames is {self.decoder.frames} but a clip of {self.clip.frames} frames has T = {points} "
            f"in the {self.backbone.kind} backbone",
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DetectorConfig:
        """Strict inverse of ``to_dict``. Raises ConfigError on unknown or missing keys and on values out of range."""
        return _build(cls, data, "config")


def _build(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    _require(isinstance(data, Mapping), f"{where} must be a mapping")
    hints = get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    _require(not unknown, f"{where} has unknown keys: {', '.join(map(str, unknown))}")
    values: dict[str, Any] = {}
    for key, value in data.items():
        if dataclasses.is_dataclass(hints[key]):
            value = _build(hints[key], value, f"{where}.{key}")
        value = tuple(value) if isinstance(value, list) else value
        _require(_is_a(value, hints[key]), f"{where}.{key} must be {_shown(hints[key])}, got {value!r}")
        values[key] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value read from JSON has the annotated type; an int is a float, a bool is no number."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        items = get_args(hint)
        return (
            isinstance(value, tuple)
            and len(value) == len(items)
            and all(_is_a(v, i) for v, i in zip(value, items, strict=True))
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _shown(hint: Any) -> str:
    return (
        " or ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
    )
