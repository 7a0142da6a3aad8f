"""Window tables, input sizes and padded shapes: which moments a clip takes, how large its frames and its tensor are.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from stmixer.media.errors import MediaError
from stmixer.model.config import RAW_FPS, ClipConfig, PreprocessConfig

MAX_ASPECT = 3
"""Long over short side up to which a frame is accepted: 768 px at the published input size of 256."""


@dataclass(frozen=True, slots=True)
class Window:
    """A clip's samples around its keyframe, in steps of the sampling grid. ``offsets[frames // 2]`` is 0."""

    offsets: tuple[int, ...]
    grid_s: Fraction

    @property
    def lookahead_s(self) -> Fraction:
        """What the model wants to see after the keyframe, seconds."""
        return self.offsets[-1] * self.grid_s

    @property
    def before_s(self) -> Fraction:
        """From the first sample to the keyframe, seconds."""
        return -self.offsets[0] * self.grid_s

    @property
    def span(self) -> int:
        """Grid steps from the first to the last sample, both counted."""
        return self.offsets[-1] - self.offsets[0] + 1


def window(clip: ClipConfig) -> Window:
    """The window table of a clip: raw frames c - frames * stride / 2 + i * stride (docs/detector.md, Clip)."""
    step = clip.stride // clip.grid
    half = clip.frames // 2
    return Window(tuple((i - half) * step for i in range(clip.frames)), Fraction(clip.grid, RAW_FPS))


def slow_indices(fast_frames: int, alpha: int) -> tuple[int, ...]:
    """Frames of the fast pathway that the slow one sees: ``linspace(0, fast - 1, fast // alpha)`` truncated.

    For 32 and 4 that is 0 4 8 13 17 22 26 31, as the published checkpoints were trained, not every fourth.
    """
    n = fast_frames // alpha
    if n == 1:
        return (0,)
    return tuple(i * (fast_frames - 1) // (n - 1) for i in range(n))


def padded_size(width: int, height: int, preprocess: PreprocessConfig) -> tuple[int, int]:
    """Input size (width, height) px -> tensor size (width, height): each side up to the next multiple of 32.

    A function of the frame's aspect alone, never of its batch mates, so that a clip's result does not depend on them.
    """
    d = preprocess.size_divisor
    return -(-width // d) * d, -(-height // d) * d


def input_size(width: int, height: int, short_side: int, max_long_side: int | None = None) -> tuple[int, int]:
    """(width, height) with the short side at ``short_side`` and the long one in proportion, rounded half up.

    Raises:
        MediaError: ``aspect_unsupported`` when the long side would be over ``max_long_side``.
    """
    short, long = min(width, height), max(width, height)
    # Integers throughout: (2·long·short_side + short) // (2·short) is int(long·short_side/short + 0.5), exactly.
    scaled = (2 * long * short_side + short) // (2 * short)
    if max_long_side is not None and scaled > max_long_side:
        raise MediaError(
            "aspect_unsupported",
            f"a {width} × {height} picture is too elongated (over {max_long_side}:{short_side}); crop it",
        )
    return (short_side, scaled) if width <= height else (scaled, short_side)
