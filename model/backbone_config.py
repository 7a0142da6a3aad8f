"""What a backbone is, as plain frozen data. Imports no torch.

Each says the T and the channels of its maps, and whether it sees frames one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stmixer.model.config_reading import require


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """A 3-D ResNet of bottleneck blocks, alone (``slowonly``) or with a fast pathway (``slowfast``).

    ``temporal_kernels`` and ``fast_temporal_kernels`` are those of stem, res2 .. res5. ``width`` is the slow stem's
    channels (res5 ends in 32 x width); the fast pathway has width / ``fast_ratio`` and ``alpha`` times the frames.
    A stage's first ``temporal_blocks`` blocks have its temporal kernel, later ones (of R101) 1. Non-local blocks follow
    those blocks of the slow res4, counted from 0, that ``nonlocal_after`` names.
    """

    kind: Literal["slowonly", "slowfast"]
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    temporal_kernels: tuple[int, int, int, int, int] = (1, 1, 1, 3, 3)
    temporal_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    nonlocal_after: tuple[int, ...] = ()
    alpha: int = 4
    fast_ratio: int = 8
    fast_temporal_kernels: tuple[int, int, int, int, int] = (5, 3, 3, 3, 3)
    fusion_kernel: int = 7
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        require(
            all(1 <= d <= 128 for d in self.depths),
            f"backbone.depths must be positive and at most 128, got {self.depths}",
        )
        require(self.width >= 1, f"backbone.width must be positive, got {self.width}")
        kernels = (*self.temporal_kernels, *self.fast_temporal_kernels, self.fusion_kernel)
        require(all(k % 2 == 1 for k in kernels), f"backbone temporal kernels must be odd, got {kernels}")
        require(
            all(0 <= block < self.depths[2] for block in self.nonlocal_after),
            f"backbone.nonlocal_after names blocks of the {self.depths[2]} of res4, got {self.nonlocal_after}",
        )
        if self.kind == "slowfast":
            require(self.width % self.fast_ratio == 0, "backbone.fast_ratio must divide backbone.width")

    def temporal_points(self, frames: int) -> int:
        """T of the four maps for a clip of ``frames`` frames."""
        if self.kind == "slowonly":
            return frames
        require(frames % self.alpha == 0, f"backbone.alpha {self.alpha} must divide clip.frames {frames}")
        return frames // self.alpha

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at strides 4, 8, 16, 32."""
        slow = tuple(4 * self.width * 2**i for i in range(4))
        fast = tuple(c // self.fast_ratio for c in slow) if self.kind == "slowfast" else (0, 0, 0, 0)
        a, b, c, d = (s + f for s, f in zip(slow, fast, strict=True))
        return a, b, c, d

    @property
    def per_frame(self) -> bool:
        """Whether a frame's maps depend on that frame alone, so that they can be computed once and kept."""
        return False


@dataclass(frozen=True, slots=True)
class CsnConfig:
    """An interaction-reduced channel-separated network. ``width`` is the stem's channels (res5 ends in 32 x width).

    Its maps have 1, 1/2, 1/4 and 1/8 of the clip's frames; the feature space pools them all to the last.
    """

    kind: Literal["csn"] = "csn"
    depths: tuple[int, int, int, int] = (3, 8, 36, 3)
    width: int = 64
    norm_eps: float = 1e-3

    def __post_init__(self) -> None:
        require(
            all(1 <= d <= 128 for d in self.depths),
            f"backbone.depths must be positive and at most 128, got {self.depths}",
        )
        require(self.width >= 1, f"backbone.width must be positive, got {self.width}")

    def temporal_points(self, frames: int) -> int:
        """T of the feature space for a clip of ``frames`` frames."""
        require(frames % 8 == 0, f"clip.frames must be a multiple of 8 for the csn backbone, got {frames}")
        return frames // 8

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at strides 4, 8, 16, 32."""
        return 4 * self.width, 8 * self.width, 16 * self.width, 32 * self.width

    @property
    def per_frame(self) -> bool:
        """Whether a frame's maps depend on that frame alone, so that they can be computed once and kept."""
        return False


@dataclass(frozen=True, slots=True)
class VitConfig:
    """VideoMAE's plain transformer: patches of ``tubelet`` frames x ``patch`` x ``patch`` px, ``depth`` blocks.

    Its positions are a fixed table for a square of ``table_grid`` cells (pre-training: 224 px), resized to the map.
    """

    kind: Literal["vit"] = "vit"
    width: int = 768
    depth: int = 12
    heads: int = 12
    tubelet: int = 2
    patch: int = 16
    table_grid: int = 14
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "tubelet", "table_grid"):
            value = getattr(self, name)
            require(1 <= value <= 8192, f"backbone.{name} must be at least 1 and at most 8192, got {value}")
        require(self.depth <= 128, f"backbone.depth may be at most 128, got {self.depth}")
        require(self.patch == 16, f"backbone.patch must be 16: the map lies at that stride, got {self.patch}")
        require(self.width % 4 == 0, f"backbone.width must be a multiple of 4, got {self.width}")
        require(self.width % self.heads == 0, f"backbone.heads {self.heads} must divide backbone.width {self.width}")

    def temporal_points(self, frames: int) -> int:
        """T of the map for a clip of ``frames`` frames."""
        require(frames % self.tubelet == 0, f"backbone.tubelet {self.tubelet} must divide clip.frames {frames}")
        return frames // self.tubelet

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the one map that stands for all four."""
        return self.width, self.width, self.width, self.width

    @property
    def per_frame(self) -> bool:
        """Whether a frame's maps depend on that frame alone, so that they can be computed once and kept."""
        return False


FRAME_CHANNELS: dict[str, tuple[int, int, int, int]] = {
    "tf_efficientnet_lite0": (24, 40, 112, 320),
    "resnet18": (64, 128, 256, 512),
    "yolox_nano": (32, 64, 128, 256),
}
"""Channels of the maps at strides 4, 8, 16, 32 of the image networks that can be a backbone: classifiers by their names
in timm, and the backbone and neck of a detector (``model.backbones.yolox``)."""


@dataclass(frozen=True, slots=True)
class FrameConfig:
    """An image network that sees every frame by itself. Time is mixed by the decoder alone (paper §3.4).

    Not in the paper: the price of being live without a GPU. A frame's maps are computed once, however many clips it
    is in.
    """

    network: Literal["tf_efficientnet_lite0", "resnet18", "yolox_nano"]
    kind: Literal["frame"] = "frame"

    def temporal_points(self, frames: int) -> int:
        """T of the four maps for a clip of ``frames`` frames."""
        return frames

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at strides 4, 8, 16, 32."""
        return FRAME_CHANNELS[self.network]

    @property
    def per_frame(self) -> bool:
        """Whether a frame's maps depend on that frame alone, so that they can be computed once and kept."""
        return True


BackboneConfig = ResNetConfig | CsnConfig | VitConfig | FrameConfig
"""Told apart by ``kind``."""
