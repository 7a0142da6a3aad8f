"""From a stored picture to the one that is shown: crop, pixel shape and orientation, as container or codec say."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from stmixer.media.resize import resize

MOST_OBLONG = 8
"""Pixels that claim to be wider than so many times their height, or the other way round, are taken for square."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture is to be shown: transposed first, then mirrored left-right, then top-bottom."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise (0, 90, 180, 270) that stand the picture upright, after a mirroring where there is one."""
        if self.transposed:
            return 90 if self.flip_x else 270
        return 180 if self.flip_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether the display matrix holds a reflection, which no rotation undoes."""
        return self.transposed ^ self.flip_x ^ self.flip_y

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as displayed of a picture stored at this size; its own inverse."""
        return (height, width) if self.transposed else (width, height)

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) as stored → (H', W', 3) as displayed, C-contiguous."""
        if self.transposed:
            rgb = cv2.transpose(rgb)
        if self.flip_x or self.flip_y:
            rgb = cv2.flip(rgb, -1 if self.flip_x and self.flip_y else 1 if self.flip_x else 0)
        return np.ascontiguousarray(rgb)

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Reads the display matrix. Angles between the right ones are taken to the nearest of them."""
        try:
            # Not frame.side_data: what that returns is kept by the frame and refers to it, a cycle that lets pictures
            # pile up (gigabytes at 4K) until Python's collector happens to run.
            data = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]
        except ValueError:
            # PyAV 18 rejects all side data where one type is unknown to it (MV-HEVC's view id): the angle is left.
            return _BY_ANGLE[round(frame.rotation / 90) % 4]
        return UPRIGHT if data is None else cls.from_matrix(np.frombuffer(data, np.int32))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Orientation:
        """From FFmpeg's 3 × 3 fixed-point matrix (9 int32): x' = a·x + c·y, y' = b·x + d·y, both axes as in images."""
        a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)


UPRIGHT = Orientation()
# Index: counter-clockwise quarter turns, as FFmpeg counts them.
_BY_ANGLE = (
    UPRIGHT,
    Orientation(True, False, True),
    Orientation(False, True, True),
    Orientation(True, True, False),
)


@dataclass(frozen=True, slots=True)
class Crop:
    """Rows and columns of the stored picture that are not shown."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def leaves(self, width: int, height: int) -> bool:
        """Whether anything is left of a picture of this size."""
        return self.left + self.right < width and self.top + self.bottom < height


WHOLE = Crop()


@dataclass(frozen=True, slots=True)
class Display:
    """Cropped first, then stretched sideways by the shape of a pixel (its width over its height), then turned."""

    orientation: Orientation = UPRIGHT
    pixel_shape: Fraction = Fraction(1)
    crop: Crop = WHOLE

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as displayed of a picture stored at this size."""
        crop = self._fitting(width, height)
        width, height = width - crop.left - crop.right, height - crop.top - crop.bottom
        return self.orientation.size(max(1, round(width * self.pixel_shape)), height)

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """(H, W, 3) as stored → (H', W', 3) as displayed, C-contiguous."""
        return self.resized(stored, *self.size(stored.shape[1], stored.shape[0]))

    def resized(self, stored: np.ndarray, width: int, height: int, antialias: bool = False) -> np.ndarray:
        """(H, W, 3) as stored → (height, width, 3) as displayed, C-contiguous.

        Resized first and turned afterwards, since turning the small picture is cheap.
        """
        rows, columns, _ = stored.shape
        crop = self._fitting(columns, rows)
        shown = stored[crop.top : rows - crop.bottom, crop.left : columns - crop.right]
        return self.orientation.apply(resize(shown, *self.orientation.size(width, height), antialias))

    def _fitting(self, width: int, height: int) -> Crop:
        return self.crop if self.crop.leaves(width, height) else WHOLE


AS_STORED = Display()


def pixel_shape(ratio: Fraction | None) -> Fraction:
    """A sample aspect ratio to go by: 1 where there is none, or one that no camera has."""
    if ratio is None or not Fraction(1, MOST_OBLONG) <= ratio <= MOST_OBLONG:
        return Fraction(1)
    return ratio
