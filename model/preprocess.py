"""uint8 RGB frames at input size -> the network's clip tensor, normalised and padded on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stmixer.model.clip import padded_size
from stmixer.model.config import PreprocessConfig


def make_clip(
    windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Stack windows of frames into one batch.

    Args:
        windows: B arrays (frames, H, W, 3), RGB; their padded sizes must agree, their sizes need not.
        config: mean, std and divisor.
        device: where to normalise and pad.

    Returns:
        The clip (B, 3, frames, H32, W32) float32, zero-padded right and bottom after normalising, and the unpadded
        sizes (B, 2) as float (width, height) px.

    Raises:
        ValueError: windows of different padded sizes.
    """
    shapes = {padded_size(w.shape[2], w.shape[1], config) for w in windows}
    if len(shapes) != 1:
        raise ValueError(f"one batch takes one padded size, got {sorted(shapes)}")
    ((width, height),) = shapes
    mean = torch.tensor(config.mean, device=device).view(3, 1, 1, 1)
    std = torch.tensor(config.std, device=device).view(3, 1, 1, 1)
    clips, sizes = [], []
    for frames in windows:
        # a copy of what torch cannot view: read-only frames (a ring's slots) and flipped ones
        pixels = (
            torch.from_numpy(np.require(frames, requirements=("C", "W")))
            .to(device, non_blocking=True)
            .permute(3, 0, 1, 2)
        )
        normalised = (pixels.float() / 255 - mean) / std
        h, w = frames.shape[1:3]
        clips.append(F.pad(normalised, (0, width - w, 0, height - h)))
        sizes.append((w, h))
    return torch.stack(clips), torch.tensor(sizes, dtype=torch.float32, device=device)
