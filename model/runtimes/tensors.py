"""Arrays of torch, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmixer.model.config import PreprocessConfig
from stmixer.model.device_preprocess import make_clip_on
from stmixer.model.frame_then_clip import FRAMES_AT_ONCE, by_cell, frames_of, gather


class TensorArrays:
    """See ``Arrays``.

    ``cells``: maps are kept cell by cell, as torch's samplers read them; ONNX graphs want maps as they are, and laying
    out a window's anew would cost them as much as a new frame.
    """

    frames_at_once, windows_at_once = FRAMES_AT_ONCE, None

    def __init__(self, device: torch.device, *, cells: bool = True) -> None:
        self.device, self._cells = device, cells

    def clip(self, windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig) -> Tensor:
        """See ``Arrays``."""
        return make_clip_on(self.device, windows, config)[0]

    def given(self, array: NDArray[Any]) -> Tensor:
        """See ``Arrays``."""
        return torch.from_numpy(array).to(self.device)

    def frames_of(self, clip: Tensor) -> Tensor:
        """See ``Arrays``."""
        return frames_of(clip)

    def kept(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See ``Arrays``."""
        return by_cell(maps) if self._cells else tuple(x.clone() for x in maps)

    def windows(self, clips: Sequence[Sequence[Sequence[Tensor]]]) -> list[Tensor]:
        """See ``Arrays``."""
        return gather(clips, cells=self._cells)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """See ``Arrays``."""
        return torch.cat(list(parts))

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """See ``Arrays``."""
        return torch.empty(shape, device=self.device)

    def ready(self, array: Tensor) -> Tensor:
        """See ``Arrays``."""
        return array.detach().float().contiguous()

    def address(self, array: Tensor) -> int:
        """See ``Arrays``."""
        return array.data_ptr()

    def on_host(self, array: Tensor) -> NDArray[np.float32]:
        """See ``Arrays``."""
        return array.detach().to("cpu", torch.float32).numpy()

    def synchronise(self) -> None:
        """See ``Arrays``."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def without_gradients(self) -> AbstractContextManager[object]:
        """See ``Arrays``."""
        return torch.inference_mode()

    def reserved_bytes(self) -> int:
        """See ``Arrays``."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0
