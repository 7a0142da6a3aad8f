"""Arrays of numpy, in this process's memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmixer.model.config import PreprocessConfig
from stmixer.model.preprocess import make_clip
from stmixer.model.runtimes.processor import CPU, Device

Floats = NDArray[np.float32]


class HostArrays:
    """See ``Arrays``. Maps are kept as ONNX graphs give and want them.

    A CPU is filled by one keyframe: more at once are no faster, and want memory for all their
    windows (bench/worker_memory.py).
    """

    device: Device = CPU
    frames_at_once, windows_at_once = 4, 1

    def clip(self, windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig) -> Floats:
        """See ``Arrays``."""
        return make_clip(windows, config)[0]

    def given(self, array: NDArray[Any]) -> NDArray[Any]:
        """See ``Arrays``."""
        return array

    def frames_of(self, clip: Floats) -> Floats:
        """See ``Arrays``."""
        batch, channels, frames, height, width = clip.shape
        return clip.swapaxes(1, 2).reshape(batch * frames, channels, height, width)

    def kept(self, maps: Sequence[Floats]) -> tuple[Floats, ...]:
        """See ``Arrays``."""
        return tuple(x.copy() for x in maps)

    def windows(self, clips: Sequence[Sequence[Sequence[Floats]]]) -> list[Floats]:
        """See ``Arrays``."""
        by_level = zip(*(frame for clip in clips for frame in clip), strict=True)
        return [np.stack(level).reshape(len(clips), -1, *level[0].shape) for level in by_level]

    def joined(self, parts: Sequence[Floats]) -> Floats:
        """See ``Arrays``."""
        return np.concatenate(parts)

    def empty(self, shape: tuple[int, ...]) -> Floats:
        """See ``Arrays``."""
        return np.empty(shape, np.float32)

    def ready(self, array: Floats) -> Floats:
        """See ``Arrays``."""
        return np.ascontiguousarray(array, np.float32)

    def address(self, array: Floats) -> int:
        """See ``Arrays``."""
        return array.ctypes.data

    def on_host(self, array: Floats) -> Floats:
        """See ``Arrays``."""
        return array

    def synchronise(self) -> None:
        """See ``Arrays``: it never waits."""

    def without_gradients(self) -> AbstractContextManager[object]:
        """See ``Arrays``: there are none."""
        return nullcontext()

    def reserved_bytes(self) -> int:
        """See ``Arrays``."""
        return 0
