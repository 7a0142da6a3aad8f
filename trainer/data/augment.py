"""What is done to a training clip and its boxes. Every choice comes from the generator that is passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from media.resize import input_size, resize
from model.clip import MAX_ASPECT

Pixels = NDArray[np.uint8]
_GREY = np.array((0.299, 0.587, 0.114), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Shot:
    """A clip's frames (T, H, W, 3) uint8 RGB, and the people on its keyframe: (n, 4) corners 0–1, their rows apart."""

    frames: Pixels
    boxes_xyxy: NDArray[np.float64]
    actions: NDArray[np.bool_]
    annotated: NDArray[np.bool_]


def flip(shot: Shot) -> Shot:
    """Left and right changed, boxes too."""
    x1, y1, x2, y2 = shot.boxes_xyxy.T
    return replace(shot, frames=shot.frames[:, :, ::-1], boxes_xyxy=np.stack((1 - x2, y1, 1 - x1, y2), 1))


def jitter_colour(shot: Shot, strength: float, rng: Generator) -> Shot:
    """Brightness, contrast and saturation each times 1 ± ``strength``, the same on every frame."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    pixels = shot.frames.astype(np.float32) * brightness
    mean = float(pixels[len(pixels) // 2].mean())
    pixels = mean + (pixels - mean) * contrast
    grey = (pixels @ _GREY)[..., None]
    pixels = grey + (pixels - grey) * saturation
    return replace(shot, frames=np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def tile(left: Shot, right: Shot) -> Shot | None:
    """Two clips of one height side by side as one; None where the picture would be too long and thin for the model.

    Both are scaled to the lower one's height, so nothing grows.
    """
    height = min(left.frames.shape[1], right.frames.shape[1])
    parts = [_to_height(shot.frames, height) for shot in (left, right)]
    width = sum(part.shape[2] for part in parts)
    if max(width, height) > MAX_ASPECT * min(width, height):
        return None
    share = parts[0].shape[2] / width
    boxes = np.concatenate(
        (left.boxes_xyxy * (share, 1, share, 1), right.boxes_xyxy * (1 - share, 1, 1 - share, 1) + (share, 0, share, 0))
    )
    return Shot(
        np.concatenate(parts, axis=2),
        boxes,
        np.concatenate((left.actions, right.actions)),
        np.concatenate((left.annotated, right.annotated)),
    )


def to_short_side(shot: Shot, short_side: int) -> Shot:
    """Resized so that the short side has this many px."""
    height, width = shot.frames.shape[1:3]
    size = input_size(width, height, short_side)
    return replace(shot, frames=np.stack([resize(frame, *size) for frame in shot.frames]))


def _to_height(frames: Pixels, height: int) -> Pixels:
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    return np.stack([resize(frame, width, height) for frame in frames])
