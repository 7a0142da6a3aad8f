"""People who lie, put where nobody is: cut out of other clips by their boxes, turned, and set into free room.

What they do is unknown, as of `trainer.data.turn`.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from stmixer.model.boxes import areas, pairwise_iou
from stmixer.trainer.data.augment import AnnotatedClip, Floats, Pixels
from stmixer.trainer.data.turn import LEAST_DEGREES, MOST_DEGREES, turned_extent

LEAST_CUT_PX = 32
"""Nobody smaller is cut out."""
UPRIGHT = 1.3
"""Height over width from which somebody stands."""
CUT_OUT_OVERLAP = 0.1
"""Most IoU with anybody else of somebody who is cut out: else a part of the other comes with them."""
LENGTH_SHARES = (0.15, 0.7)
"""How long somebody is put in, as shares of the picture's short side."""
FEATHER = 0.15
"""Of the way from the middle to the rim: where the cut-out fades."""
ROUNDNESS = 4
"""Exponent of the cut-out's rim: 2 is an ellipse, more comes near the box."""

_ATTEMPTS = 20


def paste(clip: AnnotatedClip, donor: AnnotatedClip, rng: Generator) -> AnnotatedClip:
    """The clip with one of the donor's standing people in it, lying.

    The person's box is cut out of every frame of the donor, with a soft rim, turned by 60° to 120° to either side,
    scaled, and laid over the clip's frames where their box touches neither people nor areas to ignore, more often low
    in the picture than high. Where nobody of the donor stands by themselves, or there is no room, the clip stays as it
    is.

    Args:
        clip, donor: of as many frames, their people on the keyframe alone (``at`` is None).
        rng: draws person, angle, length and place.
    """
    assert clip.at is None
    assert donor.at is None
    standing = np.flatnonzero(_stands_alone(donor))
    if not len(standing):
        return clip
    who = int(rng.choice(standing))
    height, width = clip.frames.shape[1:3]
    box = donor.boxes_xyxy[who] * np.tile(donor.frames.shape[2:0:-1], 2)
    degrees = float(rng.uniform(LEAST_DEGREES, MOST_DEGREES)) * (1 if rng.random() < 0.5 else -1)
    length = float(np.exp(rng.uniform(*np.log(LENGTH_SHARES)))) * min(width, height)
    scale = min(length / float((box[2:] - box[:2]).max()), 1.0)
    extent = turned_extent(_about_origin(box, scale)[None], degrees, np.zeros(1, dtype=np.bool_))[0]
    centre = _free_place(clip, extent[2:], rng)
    if centre is None:
        return clip
    frames = _laid_over(clip.frames, donor.frames, box, centre, (scale, degrees))
    place = (extent + np.tile(centre, 2)) / (width, height, width, height)
    return replace(
        clip,
        frames=frames,
        boxes_xyxy=np.concatenate((clip.boxes_xyxy, place[None])),
        actions=np.concatenate((clip.actions, np.zeros((1, clip.actions.shape[1]), dtype=np.bool_))),
        annotated=np.concatenate((clip.annotated, np.zeros((1, clip.annotated.shape[1]), dtype=np.bool_))),
        crowd=np.concatenate((clip.crowd, np.zeros(1, dtype=np.bool_))),
    )


def _stands_alone(clip: AnnotatedClip) -> np.ndarray:
    """(n,) who is upright, whole, large enough and apart from everybody else."""
    height, width = clip.frames.shape[1:3]
    boxes = clip.boxes_xyxy * (width, height, width, height)
    sides = boxes[:, 2:] - boxes[:, :2]
    overlap = np.asarray(pairwise_iou(boxes, boxes), dtype=np.float64)
    np.fill_diagonal(overlap, 0)
    apart = (overlap <= CUT_OUT_OVERLAP).all(1) if len(boxes) else np.zeros(0, dtype=np.bool_)
    whole = (clip.boxes_xyxy[:, :2] > 0).all(1) & (clip.boxes_xyxy[:, 2:] < 1).all(1)
    upright = (sides[:, 1] >= LEAST_CUT_PX) & (sides[:, 1] >= UPRIGHT * sides[:, 0])
    return np.asarray(upright & apart & whole & ~clip.crowd, dtype=np.bool_)


def _about_origin(box_px: Floats, scale: float) -> Floats:
    half = (box_px[2:] - box_px[:2]) * scale / 2
    return np.concatenate((-half, half))


def _free_place(clip: AnnotatedClip, half: Floats, rng: Generator) -> Floats | None:
    """A centre, px, about which a box of these half sides is inside the picture and touches no row's."""
    height, width = clip.frames.shape[1:3]
    size = np.array((width, height))
    room = size - 2 * half
    if (room < 0).any():
        return None
    boxes = clip.boxes_xyxy * np.tile(size, 2)
    for _ in range(_ATTEMPTS):
        # the larger of two draws: more often low than high
        centre = half + room * (rng.random(), rng.random(2).max())
        place = np.concatenate((centre - half, centre + half))
        shared = np.concatenate((np.maximum(boxes[:, :2], place[:2]), np.minimum(boxes[:, 2:], place[2:])), 1)
        if not (areas(np.maximum(shared, np.tile(shared[:, :2], 2))) > 0).any():
            return np.asarray(centre, dtype=np.float64)
    return None


def _laid_over(frames: Pixels, donor: Pixels, box: Floats, centre: Floats, course: tuple[float, float]) -> Pixels:
    """What is in the donor's box over the frames, scaled and turned about a centre; ``course`` is scale and degrees."""
    scale, degrees = course
    height, width = frames.shape[1:3]
    x1, y1 = np.floor(box[:2]).astype(int)
    x2, y2 = np.ceil(box[2:]).astype(int)
    middle = (box[:2] + box[2:]) / 2 - (x1, y1) - 0.5
    matrix = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), degrees, scale)
    matrix[:, 2] += centre - 0.5 - middle
    alpha = cv2.warpAffine(_soft_mask(box, (x2 - x1, y2 - y1)), matrix, (width, height), flags=cv2.INTER_LINEAR)
    alpha = alpha[..., None]
    laid = np.empty_like(frames)
    for i in range(len(frames)):
        cut = np.ascontiguousarray(donor[i, y1:y2, x1:x2])
        if scale < 0.5:  # four neighbours are too few
            cut = np.asarray(cv2.GaussianBlur(cut, (0, 0), 0.35 / scale), dtype=np.uint8)
        over = cv2.warpAffine(cut, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        laid[i] = np.rint(frames[i] + alpha * (over.astype(np.float32) - frames[i]))
    return laid


def _soft_mask(box: Floats, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32: 1 in the middle of a cut-out box, 0 at its rim."""
    half = (box[2:] - box[:2]) / 2
    middle = (box[:2] + box[2:]) / 2 - np.floor(box[:2])
    x = np.abs(np.arange(size[0]) + 0.5 - middle[0]) / half[0]
    y = np.abs(np.arange(size[1]) + 0.5 - middle[1]) / half[1]
    radius = (x[None] ** ROUNDNESS + y[:, None] ** ROUNDNESS) ** (1 / ROUNDNESS)
    return np.asarray(np.clip((1 - radius) / FEATHER, 0, 1), dtype=np.float32)
