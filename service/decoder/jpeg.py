"""A picture that came as a JPEG: decoded only where the grid keeps it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stmixer.media.encode import decode_jpeg
from stmixer.media.limits import Limits
from stmixer.media.resize import resize


@dataclass(slots=True)
class CompressedPicture:
    """``width``, ``height``: px, 0 until it is decoded."""

    data: bytes
    limits: Limits
    width: int = 0
    height: int = 0
    _pixels: NDArray[np.uint8] | None = None

    def decoded(self) -> NDArray[np.uint8]:
        """Pixels (height, width, 3). Raises MediaError for anything that is not a JPEG within the limits."""
        if self._pixels is None:
            self._pixels = decode_jpeg(self.data, self.limits)
            self.height, self.width = self._pixels.shape[:2]
        return self._pixels

    def resized(self, width: int, height: int, antialias: bool = False) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) at input size."""
        return resize(self.decoded(), width, height, antialias)
