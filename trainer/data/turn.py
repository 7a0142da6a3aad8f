"""Pictures turned on their side: people who lie, out of people who stand.

What a turned person does is unknown: somebody who walked does not walk any more, and nobody has said that they lie.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from stmixer.trainer.data.augment import AnnotatedClip, Floats, Mask, Pixels, in_view

LEAST_DEGREES, MOST_DEGREES = 60.0, 120.0
QUARTER_SHARE = 0.5
"""Of turns that are of exactly 90°."""

_ATTEMPTS = 10


def quarter_turned(boxes_xyxy: Floats) -> Floats:
    """Boxes (n, 4), 0–1, of a picture that is turned by 90° anticlockwise."""
    x1, y1, x2, y2 = boxes_xyxy.T
    return np.stack((y1, 1 - x2, y2, 1 - x1), 1)


def turn(clip: AnnotatedClip, rng: Generator) -> AnnotatedClip:
    """The picture turned to the left or to the right, by 90° or by an angle of 60° to 120°, width and height exchanged.

    By other angles than 90° corners are lost, and what was outside has one random colour; a turn that cuts somebody in
    half or shows nobody of those who are there is drawn anew, and after some attempts it is one of 90°. People are
    people still, of unknown actions; their boxes are those of `turned_extent`.
    """
    height, width = clip.frames.shape[1:3]
    left = rng.random() < 0.5
    attempts = 0 if rng.random() < QUARTER_SHARE else _ATTEMPTS
    for _ in range(attempts):
        degrees = float(rng.uniform(LEAST_DEGREES, MOST_DEGREES)) * (1 if left else -1)
        whole = turned_extent(clip.boxes_xyxy * (width, height, width, height), degrees, clip.crowd)
        # around the middle of the new picture
        whole += np.tile((height / 2, width / 2), 2) - np.tile(_rotated(np.array((width / 2, height / 2)), degrees), 2)
        boxes, kept = in_view(whole, clip.crowd, np.array((height, width)), least_px=0)
        if kept is not None:
            colour = tuple(int(level) for level in rng.integers(0, 256, 3))
            frames = _turned_frames(clip.frames, degrees, colour)
            return _unknown(replace(clip.take(kept), frames=frames, boxes_xyxy=boxes / (height, width, height, width)))
    boxes = quarter_turned(clip.boxes_xyxy)
    frames = np.rot90(clip.frames, axes=(1, 2))
    if not left:  # the other way round
        boxes, frames = 1 - boxes[:, [2, 3, 0, 1]], frames[:, ::-1, ::-1]
    return _unknown(replace(clip, frames=np.ascontiguousarray(frames), boxes_xyxy=boxes))


def turned_extent(boxes_px: Floats, degrees: float, crowd: Mask) -> Floats:
    """Boxes (n, 4), px, around what boxes hold after a turn about the origin, anticlockwise on the screen.

    Somebody fills an ellipse rather than the box: theirs is the extent of the inscribed ellipse, at 90° that of the box
    itself. Of an area to ignore it is that of the whole box.
    """
    angle = np.deg2rad(degrees)
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    a, b = ((boxes_px[:, 2:] - boxes_px[:, :2]) / 2).T
    people = np.stack((np.hypot(a * c, b * s), np.hypot(a * s, b * c)), 1)
    areas = np.stack((a * c + b * s, a * s + b * c), 1)
    half = np.where(crowd[:, None], areas, people)
    centres = _rotated((boxes_px[:, :2] + boxes_px[:, 2:]) / 2, degrees)
    return np.concatenate((centres - half, centres + half), 1)


def _rotated(points: Floats, degrees: float) -> Floats:
    """(..., 2) turned about the origin, anticlockwise where y points down."""
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array(((c, -s), (s, c))), dtype=np.float64)


def _turned_frames(frames: Pixels, degrees: float, colour: tuple[int, ...]) -> Pixels:
    """Turned about the middle, width and height exchanged."""
    height, width = frames.shape[1:3]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += (height - width) / 2, (width - height) / 2
    return np.stack(
        [cv2.warpAffine(f, matrix, (height, width), flags=cv2.INTER_LINEAR, borderValue=colour) for f in frames]
    )


def _unknown(clip: AnnotatedClip) -> AnnotatedClip:
    return replace(clip, actions=np.zeros_like(clip.actions), annotated=np.zeros_like(clip.annotated))
