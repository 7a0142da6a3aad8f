"""``model.preprocess`` on a device: the network's clip as a tensor.

On a CPU numpy makes it, at about a fiftieth of what torch's permuted views cost. To an accelerator frames travel as
bytes, a quarter of the floats, and are normalised there: a clip of 32 frames would keep a CPU core busy for 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmixer.model.config import PreprocessConfig
from stmixer.model.preprocess import common_padded_size, make_clip


def make_clip_on(
    device: torch.device, windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig
) -> tuple[Tensor, Tensor]:
    """``make_clip`` with its results on the device: (B, 3, frames, H32, W32) and (B, 2), float32. Raises ValueError."""
    if device.type == "cpu":
        clip, sizes_wh = make_clip(windows, config)
        return torch.from_numpy(clip), torch.from_numpy(sizes_wh)
    canvas_wh = common_padded_size(windows, config)
    # a copy of what torch cannot view: read-only frames (a ring's slots) and flipped ones
    # and it is read before this returns: memory that is not pinned may change or be gone by the time of a later copy
    pixels = [torch.from_numpy(np.require(w, requirements=("C", "W"))).to(device) for w in windows]
    sizes = [window.shape[2:0:-1] for window in windows]
    return normalise_and_pad(pixels, canvas_wh, config), torch.tensor(sizes, dtype=torch.float32, device=device)


def normalise_and_pad(frames: Sequence[Tensor], canvas_wh: tuple[int, int], config: PreprocessConfig) -> Tensor:
    """Windows of pixels to a clip, on the device where they lie.

    Args:
        frames: B tensors (T, H, W, 3) uint8; none may be larger than the canvas, their sizes may differ.
        canvas_wh: padded width and height, px.
        config: mean and std.

    Returns:
        (B, 3, T, canvas height, canvas width) float32, zero right and below of what a window fills.
    """
    device, (width, height) = frames[0].device, canvas_wh
    mean = torch.tensor(config.mean, device=device).view(3, 1, 1, 1)
    std = torch.tensor(config.std, device=device).view(3, 1, 1, 1)
    clip = torch.zeros((len(frames), 3, len(frames[0]), height, width), device=device)
    for pixels, target in zip(frames, clip, strict=True):
        h, w = pixels.shape[1:3]
        target[..., :h, :w].copy_(pixels.permute(3, 0, 1, 2)).div_(255).sub_(mean).div_(std)
    return clip
