"""One decoded picture, kept in the decoder's own pixel format until somebody looks at it."""

from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from stmixer.media.resize import resize


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
    def of(cls, frame: av.VideoFrame) -> "Orientation":
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
    def from_matrix(cls, matrix: np.ndarray) -> "Orientation":
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


class Frame:
    """A picture of a video.

    Colour conversion happens in :meth:`rgb` and :meth:`resized`, each time they are called, and not before. The
    matrix and range are those that the frame states (BT.601 where it states none); HDR is not tone-mapped. Pixels are
    the source's own: a sample aspect ratio other than 1 is left alone, as in the data the checkpoints were trained on.

    Attributes:
        index: 0-based position among the delivered frames.
        pts_us: microseconds after the first delivered frame.
        width, height: pixels as displayed.
        corrupt: the decoder marked it as damaged.
        orientation: from the stored picture to the displayed one; already applied to all that this class returns.
    """

    __slots__ = ("_picture", "corrupt", "height", "index", "orientation", "pts_us", "width")

    def __init__(self, picture: av.VideoFrame, index: int, pts_us: int, orientation: Orientation = UPRIGHT) -> None:
        self._picture = picture
        self.orientation = orientation
        self.index = index
        self.pts_us = pts_us
        self.width, self.height = orientation.size(picture.width, picture.height)
        self.corrupt = picture.is_corrupt

    def __repr__(self) -> str:
        return f"Frame(index={self.index}, pts_us={self.pts_us}, {self.width}×{self.height})"

    def rgb(self) -> np.ndarray:
        """(height, width, 3) uint8, C-contiguous, as displayed."""
        return self.orientation.apply(self._stored_rgb())

    def resized(self, width: int, height: int, antialias: bool = False) -> np.ndarray:
        """(height, width, 3) uint8, C-contiguous, as displayed; :func:`media.resize.resize` says how.

        Resized first and turned afterwards, since turning the small picture is cheap.
        """
        stored_width, stored_height = self.orientation.size(width, height)
        return self.orientation.apply(resize(self._stored_rgb(), stored_width, stored_height, antialias))

    def _stored_rgb(self) -> np.ndarray:
        # One thread: starting more costs several times the conversion of all but the largest pictures.
        return self._picture.to_ndarray(format="rgb24", threads=1)
