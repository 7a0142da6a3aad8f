"""A camera that moves: a smooth pan, zoom and roll, and a shaking hand, laid over a clip's frames.

Where a camera moves, somebody stands elsewhere in every frame, and the keyframe alone says where: it stays as it is,
and so do the boxes of its people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from stmixer.trainer.data.augment import AnnotatedClip, Floats, in_view

PAN = 0.03
"""Most of the picture's short side that the view moves from one sample to the next."""
ZOOM = 0.03
"""Most that a sample's scale differs from the one before, on a log scale."""
ROLL = 0.6
"""Most degrees from one sample to the next."""
SHAKE = 0.01
"""Most of the short side that a sample jumps by itself."""
SLOWEST, FASTEST = 64.0, 12.0
"""Samples after which a movement is where it was."""

_ATTEMPTS = 5


def camera_motion(clip: AnnotatedClip, moments: Sequence[int], rng: Generator) -> AnnotatedClip:
    """The clip as a moving camera sees it.

    Each frame is moved by an affine map that follows a smooth random path. On the keyframe (T // 2) it is the identity.
    Where the clip's people stand on several frames (``at``), their boxes move with their own frames; a path that cuts
    somebody in half or moves somebody out of sight is drawn anew, and after some attempts the clip stays as it is. The
    edge of a picture is drawn out into what was outside. A clip of one frame stays as it is.

    Args:
        clip: T frames.
        moments: of each frame, in samples of the grid. Frames of one moment are moved alike, so that those that are
            repeated where the look-ahead ends stay the same.
        rng: draws the path.
    """
    count, height, width = clip.frames.shape[:3]
    assert len(moments) == count, (len(moments), count)
    if count == 1:
        return clip
    size = np.array((width, height))
    for _ in range(_ATTEMPTS):
        matrices = _path(np.asarray(moments, dtype=np.int64), size, rng)
        moved = _moved(clip, matrices, size)
        if moved is not None:
            break
    else:
        return clip
    # maps are of continuous coordinates, in which the first pixel's middle is ½
    shifts = matrices[:, :, :2].sum(2) / 2 - 0.5
    frames = np.empty_like(clip.frames)
    for i, frame in enumerate(clip.frames):
        matrix = matrices[i].copy()
        matrix[:, 2] += shifts[i]
        border = cv2.BORDER_REPLICATE
        frames[i] = cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    return replace(moved, frames=frames)


def _moved(clip: AnnotatedClip, matrices: Floats, size: np.ndarray) -> AnnotatedClip | None:
    """The people of several frames, moved with them; None where somebody would be cut in half or lost. People of the
    keyframe alone do not move."""
    if clip.at is None or not len(clip.at):
        return clip
    own = matrices[clip.at]
    boxes = clip.boxes_xyxy * np.tile(size, 2)
    half, centre = (boxes[:, 2:] - boxes[:, :2]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    centre = (own[:, :, :2] @ centre[:, :, None])[:, :, 0] + own[:, :, 2]
    half *= np.sqrt(np.linalg.det(own[:, :, :2]))[:, None]
    cut, kept = in_view(np.concatenate((centre - half, centre + half), 1), clip.crowd, size, least_px=0)
    if kept is None or not kept[~clip.crowd].all():
        return None
    return replace(clip.take(kept), boxes_xyxy=cut / np.tile(size, 2))


def _path(moments: np.ndarray, size: np.ndarray, rng: Generator) -> Floats:
    """(T, 2, 3) maps of continuous coordinates, px; that of the keyframe is the identity."""
    short, key = float(size.min()), len(moments) // 2
    x, y, zoom, roll = (_wave(moments, most, rng) for most in (PAN * short, PAN * short, ZOOM, np.deg2rad(ROLL)))
    samples, index = np.unique(moments, return_inverse=True)
    shake = rng.uniform(0, SHAKE * short) * rng.uniform(-1, 1, (len(samples), 2))[index.reshape(-1)]
    x, y = x + shake[:, 0], y + shake[:, 1]
    x, y, zoom, roll = (course - course[key] for course in (x, y, zoom, roll))
    c, s = np.exp(zoom) * np.cos(roll), np.exp(zoom) * np.sin(roll)
    turned = np.stack((np.stack((c, s), 1), np.stack((-s, c), 1)), 1)
    middle = size / 2
    return np.concatenate((turned, (middle - turned @ middle + np.stack((x, y), 1))[:, :, None]), 2)


def _wave(moments: np.ndarray, most: float, rng: Generator) -> Floats:
    """A course that changes by at most ``most`` from one sample to the next: a swing of random speed and length."""
    pace = 2 * np.pi / float(np.exp(rng.uniform(np.log(FASTEST), np.log(SLOWEST))))
    speed, phase = most * rng.uniform(-1, 1), rng.uniform(0, 2 * np.pi)
    return np.asarray(speed / pace * np.sin(pace * moments + phase), dtype=np.float64)
