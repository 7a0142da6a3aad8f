"""A stream's frame buffer: memory that the API process owns and passes to its children by descriptor.

Its size is sealed: a decoder that shrank it would end the worker that reads it (SIGBUS), and so everybody's streams.

Layout of the memfd: one int64 generation per slot, then the slots, uint8 RGB (height, width, 3) each. A slot's
generation is 0 while it is written. The writer (a decoder) and the reader (a worker) never share a lock: the reader
copies, then looks again whether the generations are still those it was told (a seqlock).
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stmixer.model.clip import Window

RING_SLACK_S = 2


@dataclass(frozen=True, slots=True)
class RingShape:
    """Slots of ``height`` x ``width`` RGB pixels."""

    width: int
    height: int
    capacity: int

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self.width * self.height * 3

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole ring."""
        return self.capacity * (8 + self.slot_bytes)


def ring_shape(window: Window, width: int, height: int) -> RingShape:
    """A stream's ring at the model's input size: a window, and room for what comes while one is used."""
    return RingShape(width, height, window.span + math.ceil(RING_SLACK_S / window.grid_s) + 2)


@dataclass(slots=True)
class RingMemory:
    """A ring as its owner, the stream, has it: a descriptor to pass on, and what lies behind it.

    The memory lives until the last process has closed it; ours is closed by ``close``, once, after which ``fd`` is -1.
    """

    fd: int
    shape: RingShape
    _lent: int = 0
    _left: int = -1
    """Closed while it was lent: what whoever has it last closes."""

    def close(self) -> None:
        """Give up our descriptor, at once or as soon as nobody has it ``lent``."""
        fd, self.fd = self.fd, -1
        if self._lent and fd >= 0:
            self._left = fd
        elif fd >= 0:
            os.close(fd)

    @contextmanager
    def lent(self) -> Iterator[int]:
        """The descriptor for as long as it takes to pass it on: it stays open, and what it is, though ``close`` comes
        meanwhile. A copy would want a free descriptor, which there may be none of."""
        fd = self.fd if self._left < 0 else self._left
        self._lent += 1
        try:
            yield fd
        finally:
            self._lent -= 1
            if not self._lent and self._left >= 0:
                os.close(self._left)
                self._left = -1


def create_ring(shape: RingShape) -> RingMemory:
    """A new ring, zeroed: no slot holds a frame yet."""
    fd = os.memfd_create("stmixer-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, shape.total_bytes)
    except OSError:
        os.close(fd)
        raise
    seal_size(fd)
    return RingMemory(fd, shape)


def seal_size(fd: int) -> str | None:
    """Let nobody change a memfd's size any more; why not where the kernel cannot, else None."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError as error:
        return f"the kernel does not seal memory ({error.strerror})"
    return None


def why_unsealed() -> str | None:
    """Why rings cannot be sealed on this machine; None where they can."""
    memory = create_ring(RingShape(1, 1, 1))
    try:
        seals = fcntl.fcntl(memory.fd, fcntl.F_GET_SEALS)
    except OSError as error:
        return f"the kernel does not seal memory ({error.strerror})"
    finally:
        memory.close()
    return None if seals & fcntl.F_SEAL_SHRINK else "the kernel took a seal and does not keep it"


class Ring:
    """A ring mapped into this process. Takes over ``fd`` and closes it."""

    def __init__(self, fd: int, shape: RingShape, *, writable: bool) -> None:
        self.shape = shape
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            memory = mmap.mmap(fd, shape.total_bytes, access=access)
        finally:
            os.close(fd)
        self._generations = np.frombuffer(memory, np.int64, shape.capacity)
        self._slots = np.frombuffer(memory, np.uint8, offset=8 * shape.capacity).reshape(
            shape.capacity, shape.height, shape.width, 3
        )

    def write(self, slot: int, generation: int, pixels: NDArray[np.uint8]) -> None:
        """Replace a slot's frame."""
        self._generations[slot] = 0
        self._slots[slot] = pixels
        self._generations[slot] = generation

    def generation(self, slot: int) -> int:
        """What a slot holds; 0 while it is written."""
        return int(self._generations[slot])

    def stamp(self, slot: int, generation: int) -> None:
        """Let a slot's frame stand as it is, under this generation."""
        self._generations[slot] = generation

    def read(self, slots: Sequence[int], generations: Sequence[int]) -> NDArray[np.uint8] | None:
        """A copy of the slots, (len(slots), H, W, 3); None if one no longer holds the generation asked for."""
        frames = self._slots[list(slots)]
        if list(self._generations[list(slots)]) != list(generations):
            return None
        return frames
