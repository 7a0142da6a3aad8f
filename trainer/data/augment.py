"""What is done to a training clip and its boxes. Every choice comes from the generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stmixer.media.resize import resize
from stmixer.model.boxes import areas
from stmixer.model.clip import MAX_ASPECT, input_size

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_PX = 8
"""A person smaller than this on a side is too little to be taught."""

MOST_PEOPLE = 40
"""Of a crowd in one picture that are taught."""

LEAST_VISIBLE_SHARE = 0.5
"""Of a person's box that a zoom leaves in the picture, with the centre; else the person must be gone."""

GONE_SHARE = 0.1
"""Of a person's box that may show where the person counts as gone: no half person is taught as background."""

_ATTEMPTS = 10
_GREY = np.array((0.299, 0.587, 0.114), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """A clip's frames (T, H, W, 3) uint8 RGB, and the people on its keyframe: (n, 4) corners 0–1, their rows apart.

    Rows with ``crowd`` (n,) are no people but areas to ignore, in which nobody is taught to be absent. Where several of
    the frames have people of their own, ``at`` (n,) is the frame that each stands on.
    """

    frames: Pixels
    boxes_xyxy: NDArray[np.float64]
    actions: NDArray[np.bool_]
    annotated: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    at: NDArray[np.int64] | None = None

    @property
    def people(self) -> int:
        """How many they are, areas to ignore left out."""
        return int((~self.crowd).sum())

    def take(self, rows: Mask) -> AnnotatedClip:
        """With some of the rows."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[rows],
            actions=self.actions[rows],
            annotated=self.annotated[rows],
            crowd=self.crowd[rows],
            at=None if self.at is None else self.at[rows],
        )


def joined(frames: Pixels, clips: Sequence[AnnotatedClip], boxes_xyxy: Floats) -> AnnotatedClip:
    """Other frames with the people of all these clips in turn, who have these boxes there."""
    at = [clip.at for clip in clips if clip.at is not None]
    return AnnotatedClip(
        frames,
        boxes_xyxy,
        np.concatenate([clip.actions for clip in clips]),
        np.concatenate([clip.annotated for clip in clips]),
        np.concatenate([clip.crowd for clip in clips]),
        np.concatenate(at) if at else None,
    )


def flip(clip: AnnotatedClip) -> AnnotatedClip:
    """Left and right changed, boxes too."""
    x1, y1, x2, y2 = clip.boxes_xyxy.T
    return replace(clip, frames=clip.frames[:, :, ::-1], boxes_xyxy=np.stack((1 - x2, y1, 1 - x1, y2), 1))


def jitter_colour(clip: AnnotatedClip, strength: float, rng: Generator) -> AnnotatedClip:
    """Brightness, contrast and saturation each times 1 ± ``strength``, the same on every frame."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    pixels = clip.frames.astype(np.float32) * brightness
    mean = float(pixels[len(pixels) // 2].mean())
    pixels = mean + (pixels - mean) * contrast
    grey = (pixels @ _GREY)[..., None]
    pixels = grey + (pixels - grey) * saturation
    return replace(clip, frames=np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def tile(left: AnnotatedClip, right: AnnotatedClip) -> AnnotatedClip | None:
    """Two clips of one height side by side as one; None where the picture would be too long and thin for the model.

    Both are scaled to the lower one's height, so nothing grows.
    """
    height = min(left.frames.shape[1], right.frames.shape[1])
    parts = [_to_height(clip.frames, height) for clip in (left, right)]
    width = sum(part.shape[2] for part in parts)
    if max(width, height) > MAX_ASPECT * min(width, height):
        return None
    share = parts[0].shape[2] / width
    boxes = np.concatenate(
        (left.boxes_xyxy * (share, 1, share, 1), right.boxes_xyxy * (1 - share, 1, 1 - share, 1) + (share, 0, share, 0))
    )
    return joined(np.concatenate(parts, axis=2), (left, right), boxes)


def zoom(clip: AnnotatedClip, low: float, high: float, rng: Generator, *, ignore_small: bool = False) -> AnnotatedClip:
    """The picture's content ``low`` to ``high`` times as large (drawn evenly on a log scale), its size as it was.

    Over 1 a random part is enlarged; under 1 the picture shrinks and stands somewhere on one random colour. People, and
    areas to ignore, keep what of their boxes is inside. A view that cuts somebody in half, makes somebody smaller than
    LEAST_PX or shows nobody of those who are there is drawn anew; after some attempts the clip stays as it is. With
    ``ignore_small`` people may become small: `small_ignored`.
    """
    height, width = clip.frames.shape[1:3]
    size = np.array((width, height))
    for _ in range(_ATTEMPTS):
        scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        origin = rng.random(2) * (size - size / scale)
        whole = (clip.boxes_xyxy * np.tile(size, 2) - np.tile(origin, 2)) * scale
        boxes, kept = in_view(whole, clip.crowd, size, 0 if ignore_small else LEAST_PX)
        if kept is None:
            continue
        view = replace(clip.take(kept), boxes_xyxy=boxes / np.tile(size, 2))
        view = small_ignored(view) if ignore_small else view
        if view.people or not clip.people:
            break
    else:
        return clip
    # output pixel centres u + ½ lie over input x + ½, times the scale, from the origin on
    shift = scale * (0.5 - origin) - 0.5
    matrix = np.array(((scale, 0, shift[0]), (0, scale, shift[1])))
    colour = tuple(int(level) for level in rng.integers(0, 256, 3))
    pictures = [_softened(f, scale) for f in clip.frames]
    frames = [cv2.warpAffine(f, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=colour) for f in pictures]
    return replace(view, frames=np.stack(frames))


def small_ignored(clip: AnnotatedClip) -> AnnotatedClip:
    """People whose longer side is below LEAST_PX become areas to ignore: too little to be taught, and not nobody."""
    height, width = clip.frames.shape[1:3]
    sides = (clip.boxes_xyxy[:, 2:] - clip.boxes_xyxy[:, :2]) * (width, height)
    return ignoring(clip, np.asarray((sides < LEAST_PX).all(1)))


def ignoring(clip: AnnotatedClip, rows: Mask) -> AnnotatedClip:
    """Some of its people as areas to ignore, of which nothing is annotated."""
    known = ~rows[:, None]
    return replace(clip, crowd=clip.crowd | rows, actions=clip.actions & known, annotated=clip.annotated & known)


def _softened(frame: Pixels, scale: float) -> Pixels:
    """Without what a shrunk picture cannot show: four neighbours are too few below half the size."""
    return frame if scale >= 0.5 else np.asarray(cv2.GaussianBlur(frame, (0, 0), 0.35 / scale), dtype=np.uint8)


def in_view(
    whole: Floats, crowd: Mask, size: NDArray[np.int64], least_px: float = LEAST_PX
) -> tuple[Floats, Mask | None]:
    """What of boxes is inside a picture, and which rows are kept; None for a view that is not to be.

    Args:
        whole: (n, 4) corners, px, wherever they lie.
        crowd: (n,) which of them are areas to ignore.
        size: (2,) the picture's width and height, px.
        least_px: nobody may be smaller on a side.

    Returns:
        The kept rows' corners, cut to the picture, and the mask (n,) of these rows.
    """
    cut = np.clip(whole, 0, np.tile(size, 2))
    share = np.asarray(areas(cut) / areas(whole), dtype=np.float64)
    centre = (whole[:, :2] + whole[:, 2:]) / 2
    inside = ((centre >= 0) & (centre < size)).all(1) & (share >= LEAST_VISIBLE_SHARE)
    sides = cut[:, 2:] - cut[:, :2]
    good = np.where(inside, (sides >= least_px).all(1), share <= GONE_SHARE)
    people = ~crowd
    wanted = bool(good[people].all()) and (bool(inside[people].any()) or not people.any())
    # an area to ignore may be cut anywhere: what of it can be seen is ignored
    kept = np.where(crowd, (sides > 0).all(1), inside)
    return cut[kept], kept if wanted else None


def mosaic(clips: Sequence[AnnotatedClip], rng: Generator, *, ignore_small: bool = False) -> AnnotatedClip | None:
    """k² clips at a k-th of their scale as one of the first one's size, row by row, each in its cell on one random
    colour.

    None where somebody would become smaller than LEAST_PX; with ``ignore_small`` such people are `small_ignored`, and
    so are those beyond the MOST_PEOPLE largest.
    """
    count, height, width = clips[0].frames.shape[:3]
    side = math.isqrt(len(clips))
    assert side * side == len(clips), len(clips)
    cell = np.array((width // side, height // side))
    canvas = np.empty_like(clips[0].frames)
    canvas[:] = rng.integers(0, 256, 3)
    boxes = []
    for place, clip in enumerate(clips):
        own = np.array(clip.frames.shape[2:0:-1])
        inner = np.maximum(1, np.rint(own * (cell / own).min()).astype(int))
        left, top = cell * (place % side, place // side) + (cell - inner) // 2
        for frame in range(count):
            shrunk = resize(clip.frames[frame], int(inner[0]), int(inner[1]), antialias=True)
            canvas[frame, top : top + inner[1], left : left + inner[0]] = shrunk
        boxes.append(clip.boxes_xyxy * np.tile(inner, 2) + (left, top, left, top))
    boxes_px = np.concatenate(boxes)
    together = joined(canvas, clips, boxes_px / (width, height, width, height))
    if ignore_small:
        together = small_ignored(together)
        largest = np.argsort(-areas(boxes_px) * ~together.crowd, kind="stable")
        beyond = np.isin(np.arange(len(boxes_px)), largest[MOST_PEOPLE:]) & ~together.crowd
        return ignoring(together, beyond)
    small = (boxes_px[:, 2:] - boxes_px[:, :2] < LEAST_PX).any(1)
    return None if (small & ~together.crowd).any() else together


def to_short_side(clip: AnnotatedClip, short_side: int) -> AnnotatedClip:
    """Resized so that the short side has this many px."""
    height, width = clip.frames.shape[1:3]
    size = input_size(width, height, short_side)
    return replace(clip, frames=np.stack([resize(frame, *size) for frame in clip.frames]))


def within(clip: AnnotatedClip, width: int, height: int) -> AnnotatedClip:
    """Shrunk, where it has to be, to fit into a picture of this size; smaller ones stay."""
    own_height, own_width = clip.frames.shape[1:3]
    scale = min(width / own_width, height / own_height)
    if scale >= 1:
        return clip
    size = max(1, int(own_width * scale)), max(1, int(own_height * scale))
    return replace(clip, frames=np.stack([resize(frame, *size, antialias=True) for frame in clip.frames]))


def _to_height(frames: Pixels, height: int) -> Pixels:
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    return np.stack([resize(frame, width, height) for frame in frames])
