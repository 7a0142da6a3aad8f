"""A webcam of this machine, by OpenCV: the one way to V4L2 that is installed with everything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmixer.media.errors import MediaError


@dataclass(frozen=True, slots=True)
class Snap:
    """A picture as it came: (H, W, 3) uint8 BGR, and microseconds of the monotonic clock."""

    bgr: NDArray[np.uint8] = field(repr=False)
    pts_us: int

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return np.asarray(cv2.cvtColor(self.bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def webcam(device: Path, backend: int = cv2.CAP_V4L2) -> Iterator[Snap]:
    """Its pictures as they come, until it is unplugged.

    Args:
        device: as in /dev/video0.
        backend: of OpenCV.

    Raises:
        MediaError: ``no_frames`` where it does not open or sends nothing, ``connection_lost`` once it has sent some.
    """
    capture, came = cv2.VideoCapture(str(device), backend), False
    try:
        while True:
            there, picture = capture.read()
            if not there:
                break
            came = True
            yield Snap(np.asarray(picture, dtype=np.uint8), time.monotonic_ns() // 1000)
    finally:
        capture.release()
    if not came:
        raise MediaError(
            "no_frames",
            f"{device} gives no picture; another program may hold it, or it is no camera; may this user read it?",
        )
    raise MediaError("connection_lost", f"{device} gives no more pictures; was it unplugged?")
