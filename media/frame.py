"""One decoded picture, kept in the decoder's own pixel format until somebody looks at it."""

import av
import numpy as np

from stmixer.media.display import AS_STORED, Display

_LIMITED = 1  # AVCOL_RANGE_MPEG
_LEVELS = np.clip(np.rint((np.arange(256) - 16.0) * 255 / 219), 0, 255).astype(np.uint8)
"""Luma of limited range, 16 to 235, to levels from 0 to 255."""


class Frame:
    """A picture of a video.

    Colour conversion happens in :meth:`rgb` and :meth:`resized`, each time they are called, and not before. The
    matrix and range are those that the frame states (BT.601 where it states none); HDR is not tone-mapped.

    Attributes:
        index: 0-based position among the delivered frames.
        pts_us: microseconds after the first delivered frame.
        width, height: pixels as displayed.
        corrupt: the decoder marked it as damaged.
        display: from the stored picture to the displayed one; already applied to all that this class returns.
    """

    __slots__ = ("_picture", "corrupt", "display", "height", "index", "pts_us", "width")

    def __init__(self, picture: av.VideoFrame, index: int, pts_us: int, display: Display = AS_STORED) -> None:
        self._picture = picture
        self.display = display
        self.index = index
        self.pts_us = pts_us
        self.width, self.height = display.size(picture.width, picture.height)
        self.corrupt = picture.is_corrupt

    def __repr__(self) -> str:
        return f"Frame(index={self.index}, pts_us={self.pts_us}, {self.width}×{self.height})"

    def rgb(self) -> np.ndarray:
        """(height, width, 3) uint8, C-contiguous, as displayed."""
        return self.display.apply(self._stored_rgb())

    def resized(self, width: int, height: int, antialias: bool = False) -> np.ndarray:
        """(height, width, 3) uint8, C-contiguous, as displayed; :func:`media.resize.resize` says how."""
        return self.display.resized(self._stored_rgb(), width, height, antialias)

    def _stored_rgb(self) -> np.ndarray:
        # One thread: starting more costs several times the conversion of all but the largest pictures.
        rgb = self._picture.to_ndarray(format="rgb24", threads=1)
        if self._picture.color_range == _LIMITED and self._picture.format.name.startswith("gray"):
            return _LEVELS[rgb]  # FFmpeg takes every grey picture for one of full range
        return rgb
