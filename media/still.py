"""The picture of a video that a keyframe's boxes belong to."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import VideoReader
from stmixer.media.frame import Frame
from stmixer.media.grid import HALF_RAW_US, TimeGrid
from stmixer.media.limits import Limits

_GRID = TimeGrid(Fraction(1, 15))
"""Of the samples. Models that keep frame features have every second one of them, and their keyframes lie on these."""


def still(path: Path, pts_us: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, as displayed: the frame that a model sees for a keyframe ``pts_us`` µs after the first.

    That is the last one with pts <= s + 1/60 s, s the sample nearest to the keyframe (docs/protocol.md, Time), not the
    nearest frame. Frames are decoded from the beginning up to the one after it: where a frame stands in time is known
    once those before it are read. Raises MediaError.
    """
    last_us = _GRID.time_us(_GRID.nearest(pts_us)) + HALF_RAW_US
    before: Frame | None = None
    with VideoReader(path, limits=Limits.unlimited()) as reader:
        for frame in reader:
            if before is not None and frame.pts_us > last_us:
                break
            before = frame
    assert before is not None, "a reader without a frame does not open"
    return np.asarray(before.rgb())
