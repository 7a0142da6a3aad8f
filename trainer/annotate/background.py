"""A fixed camera's scene without its people: the median over time, only of moments in which no box covers the pixel.

A person who stands still for most of a video is no ghost in such a median: the pixels are not trusted, and the mask
says so. Boxes of people who are not annotated cannot be known here; whoever uses a background has it looked at by a
person detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stmixer.trainer.annotate.free_space import Mask
from stmixer.trainer.annotate.person_detector import Pixels

MOST_COVERED = 0.4
"""Share of the moments in which boxes may cover a pixel that is trusted."""

LEAST_MOMENTS = 9

STILL_PX = 0.5
"""How far the scene may move: the median over tracked corners, in px of a picture with a short side of 240."""

CHANGED_LEVELS = 30
MOST_CHANGED = 0.05
"""Share of free pixels that may be more than CHANGED_LEVELS grey levels off the median, in the worst fifth."""

_SIDE = 240
_FEW_CORNERS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """(H, W, 3) uint8 RGB and the (H, W) pixels that can be trusted."""

    picture: Pixels
    trusted: Mask


def background(frames: Sequence[Pixels], covered: Sequence[Mask]) -> Background | None:
    """The scene behind the people; None where the camera moves or there are too few moments.

    Args:
        frames: (H, W, 3) uint8 RGB of one size, spread over the video.
        covered: which (H, W) pixels people cover on each.
    """
    if len(frames) < LEAST_MOMENTS or _moves(frames, covered):
        return None
    hidden = np.stack(covered)
    # people's pixels sort last as 255, so that the lower half of the rest ends at the median
    ordered = np.sort(np.where(hidden[..., None], np.uint8(255), np.stack(frames)), axis=0)
    seen = len(frames) - hidden.sum(0)
    middle = np.maximum(seen - 1, 0) // 2
    picture = np.take_along_axis(ordered, middle[None, ..., None], axis=0)[0]
    trusted = hidden.mean(0) < MOST_COVERED
    if _changes(frames, hidden, picture, trusted):
        return None
    return Background(np.ascontiguousarray(picture), trusted)


def _moves(frames: Sequence[Pixels], covered: Sequence[Mask]) -> bool:
    """Whether corners outside people shift from the first frame to any other. A scene without corners cannot say."""
    height, width = frames[0].shape[:2]
    scale = _SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    grey = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for f in frames]
    free = [cv2.resize((~c).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for c in covered]
    corners = cv2.goodFeaturesToTrack(grey[0], 200, 0.01, 6, mask=free[0] * 255)
    if corners is None or len(corners) < _FEW_CORNERS:
        return False
    for later, their_free in zip(grey[1:], free[1:], strict=True):
        moved, found, _ = cv2.calcOpticalFlowPyrLK(grey[0], later, corners, np.empty_like(corners), winSize=(15, 15))
        at = np.clip(np.rint(corners[:, 0]).astype(int), 0, (size[0] - 1, size[1] - 1))
        kept = (found[:, 0] == 1) & (their_free[at[:, 1], at[:, 0]] == 1)
        if kept.sum() < _FEW_CORNERS / 2:
            return True  # what was there is not there any more: a cut or a pan
        if float(np.median(np.linalg.norm((moved - corners)[kept, 0], axis=1))) > STILL_PX:
            return True
    return False


def _changes(frames: Sequence[Pixels], hidden: Mask, picture: Pixels, trusted: Mask) -> bool:
    """Whether too much of the scene differs from its median for a fixed camera."""
    shares = []
    for frame, their_hidden in zip(frames, hidden, strict=True):
        free = trusted & ~their_hidden
        off = cv2.absdiff(frame, picture).max(-1) > CHANGED_LEVELS
        shares.append(float((off & free).sum() / max(int(free.sum()), 1)))
    return float(np.quantile(shares, 0.8)) > MOST_CHANGED
