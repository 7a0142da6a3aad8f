"""The picture of a video at a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import VideoReader
from stmixer.media.frame import Frame
from stmixer.media.limits import Limits


def still(path: Path, pts_us: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, as displayed: the frame nearest to ``pts_us`` µs after the first, the earlier one of two.

    Frames are decoded from the beginning on: where a frame stands in time is known once those before it are read.
    Raises MediaError.
    """
    before: Frame | None = None
    with VideoReader(path, limits=Limits.unlimited()) as reader:
        for frame in reader:
            if frame.pts_us >= pts_us:
                nearer = before is None or frame.pts_us - pts_us < pts_us - before.pts_us
                return np.asarray((frame if nearer else before or frame).rgb())
            before = frame
    assert before is not None, "a reader without a frame does not open"
    return np.asarray(before.rgb())
