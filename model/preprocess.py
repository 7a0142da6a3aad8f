"""uint8 RGB frames at input size -> the network's clip, normalised and padded, in numpy. Imports no torch.

``model.device_preprocess`` does the same on an accelerator, where that is cheaper, and for training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stmixer.model.clip import padded_size
from stmixer.model.config import PreprocessConfig


def make_clip(
    windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stack windows of frames into one batch.

    Args:
        windows: B arrays (frames, H, W, 3), RGB; their padded sizes must agree, their sizes need not. They may be
            read-only or of any strides.
        config: mean, std and divisor.

    Returns:
        The clip (B, 3, frames, H32, W32), (value / 255 - mean) / std, then zero-padded right and bottom; and the
        unpadded sizes (B, 2), width and height in px.

    Raises:
        ValueError: windows of different padded sizes, or none.
    """
    width, height = common_padded_size(windows, config)
    clip = np.zeros((len(windows), 3, len(windows[0]), height, width), np.float32)
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    for window, target in zip(windows, clip, strict=True):
        h, w = window.shape[1:3]
        # plane by plane in place: three passes over what fits into the cache, and nothing else is allocated
        for t, frame in enumerate(window):
            for c in range(3):
                plane = target[c, t, :h, :w]
                np.divide(frame[..., c], np.float32(255), out=plane)
                plane -= mean[c]
                plane /= std[c]
    return clip, np.array([window.shape[2:0:-1] for window in windows], np.float32)


def common_padded_size(windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig) -> tuple[int, int]:
    """Padded width and height, px, of windows (frames, H, W, 3). Raises ValueError where they have not just one."""
    shapes = {padded_size(window.shape[2], window.shape[1], config) for window in windows}
    if len(shapes) != 1:
        raise ValueError(f"one batch takes one padded size, got {sorted(shapes)}")
    return shapes.pop()
