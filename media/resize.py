"""Pictures at the size a model reads."""

import cv2
import numpy as np


def resize(rgb: np.ndarray, width: int, height: int, antialias: bool = False) -> np.ndarray:
    """Bilinear resize of an 8-bit picture.

    Without antialiasing it is OpenCV's INTER_LINEAR (half-pixel centres, four neighbours whatever the scale, rounded
    to 8 bits), on which the published checkpoints were trained. With it, pictures that shrink are averaged over
    the area each target pixel covers (INTER_AREA); one that grows in either direction has no area to average and is
    resized as without.

    Args:
        rgb: (H, W, 3) uint8.
        width, height: target size in pixels.

    Returns:
        (height, width, 3) uint8, C-contiguous. The input itself where the size is right already.
    """
    source_height, source_width = rgb.shape[:2]
    if (source_width, source_height) == (width, height):
        return np.ascontiguousarray(rgb)
    shrinks = width <= source_width and height <= source_height
    method = cv2.INTER_AREA if antialias and shrinks else cv2.INTER_LINEAR
    return cv2.resize(rgb, (width, height), interpolation=method)
