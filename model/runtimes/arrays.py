"""What a worker does with the arrays of its runtime, whoever they belong to: torch on a device, or numpy.

``model.runtimes.tensors`` and ``model.runtimes.host`` are the two. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from stmixer.model.config import PreprocessConfig

A = TypeVar("A")


class DeviceName(Protocol):
    """A device as torch and ``model.runtimes.processor`` name it; as a text ``cpu``, ``cuda`` or ``cuda:N``."""

    @property
    def type(self) -> str: ...

    @property
    def index(self) -> int | None: ...


class Arrays(Protocol[A]):
    """Making, keeping and reading arrays where a runtime wants them. Float arrays are float32."""

    @property
    def device(self) -> DeviceName: ...

    @property
    def frames_at_once(self) -> int:
        """Frames per run of the frame stage, at most."""
        ...

    @property
    def windows_at_once(self) -> int | None:
        """Windows per run of the clip stage, at most; None for all of a batch."""
        ...

    def clip(self, windows: Sequence[NDArray[np.uint8]], config: PreprocessConfig) -> A:
        """The network's clip (B, 3, frames, H32, W32) as ``model.preprocess.make_clip`` makes it. Raises ValueError."""
        ...

    def given(self, array: NDArray[Any]) -> A:
        """The same numbers on the device."""
        ...

    def frames_of(self, clip: A) -> A:
        """(B, 3, T, H, W) -> its frames (B T, 3, H, W), clip by clip."""
        ...

    def kept(self, maps: Sequence[A]) -> tuple[A, ...]:
        """A frame's maps as they are kept until no window wants them: copies, laid out as the runtime reads them."""
        ...

    def windows(self, clips: Sequence[Sequence[Sequence[A]]]) -> list[A]:
        """The clip stage's maps (B, T, ...) out of kept ones, of B clips of T frames."""
        ...

    def joined(self, parts: Sequence[A]) -> A:
        """Arrays (B, ...) of parts of a batch as the batch's."""
        ...

    def empty(self, shape: tuple[int, ...]) -> A:
        """Memory for float32 numbers."""
        ...

    def ready(self, array: A) -> A:
        """As float32 numbers side by side; the array itself where it is that already."""
        ...

    def address(self, array: A) -> int:
        """Where a ``ready`` array's numbers lie."""
        ...

    def on_host(self, array: A) -> NDArray[np.float32]:
        """Float32 numbers in this process's memory."""
        ...

    def synchronise(self) -> None:
        """Wait until the device has done what it was told."""
        ...

    def without_gradients(self) -> AbstractContextManager[object]:
        """In which a runtime is called."""
        ...

    def reserved_bytes(self) -> int:
        """Of the device's own memory; 0 on a CPU."""
        ...
