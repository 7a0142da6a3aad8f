"""Pictures at the size a model reads."""

import cv2
import numpy as np

from stmixer.media.errors import MediaError


def input_size(width: int, height: int, short_side: int, max_long_side: int | None = None) -> tuple[int, int]:
    """(width, height) with the short side at ``short_side`` and the long one in proportion, rounded half up.

    Raises:
        MediaError: ``aspect_unsupported`` when the long side would be over ``max_long_side``.
    """
    short, long = min(width, height), max(width, height)
    # Integers throughout: (2·long·short_side + short) // (2·short) is int(long·short_side/short + 0.5), exactly.
    scaled = (2 * long * short_side + short) // (2 * short)
    if max_long_side is not None and scaled > max_long_side:
        raise MediaError(
            "aspect_unsupported",
            f"a {width} × {height} picture is too elongated (over {max_long_side}:{short_side}); crop it",
        )
    return (short_side, scaled) if width <= height else (scaled, short_side)


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
