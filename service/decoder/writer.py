"""From frames to ring slots: what a decoder process does with every frame it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import Limits
from stmixer.media.encode import decode_jpeg
from stmixer.media.errors import MediaError
from stmixer.media.grid import FrameSampler, Sample, TimeGrid
from stmixer.media.resize import input_size, resize
from stmixer.model.clip import MAX_ASPECT
from stmixer.service.ipc.channel import Channel, Header, Message
from stmixer.service.ipc.ring import Ring, RingShape

FRAMES_PER_MESSAGE = 32


class ParentGone(Exception):
    """The parent closed: end quietly."""


class Picture(Protocol):
    """What the sampler holds: something that can become pixels at input size."""

    width: int
    height: int

    def resized(self, width: int, height: int, antialias: bool = False) -> NDArray[np.uint8]: ...


@dataclass(slots=True)
class Jpeg:
    """A still compressed picture; decoded only if the grid keeps it."""

    data: bytes
    limits: Limits
    width: int = 0
    height: int = 0
    _pixels: NDArray[np.uint8] | None = None

    def decode(self) -> None:
        """Raises MediaError for anything that is not a JPEG within the limits."""
        if self._pixels is None:
            self._pixels = decode_jpeg(self.data, self.limits)
            self.height, self.width = self._pixels.shape[:2]

    def resized(self, width: int, height: int, antialias: bool = False) -> NDArray[np.uint8]:
        """Pixels at input size."""
        self.decode()
        assert self._pixels is not None
        return resize(self._pixels, width, height, antialias)


class Writer:
    """From frames to ring slots, for one stream.

    Every frame given to it is counted once: written (sampled), displaced by a later one that serves the same grid index
    (not sampled), or dropped.
    """

    def __init__(self, channel: Channel, options: Header) -> None:
        self._channel = channel
        self._prompt = options["kind"] != "upload"
        self._grid = TimeGrid(Fraction(*options["grid"]))
        self._sampler: FrameSampler[Picture] = FrameSampler(self._grid)
        self._short_side, self._antialias = options["short_side"], options["antialias"]
        self._ring: Ring | None = None
        self._capacity, self._limit = 0, 0
        self._size = self._shown = (0, 0)
        self._resizes = 0
        self._number, self._version = -1, 0
        self._written: Sample[Picture] | None = None
        self._corrupt_us = -1
        self._instants: Iterator[int] = iter(())
        self._next_instant: int | None = None
        self._unsent: list[int] = []
        self._unsent_at: list[float] = []
        self._fed, self._corrupt, self._not_sampled_told = 0, 0, 0
        self._known_frames, self._known_samples = 0, 0
        self._deferred: deque[Message] = deque()
        self.flush_asked = False
        if "instants" in options:
            self._set_instants(options["instants"])

    def _set_instants(self, options: Header) -> None:
        """Live: moments (look-ahead of each keyframe) at which the newest frame is wanted at once."""
        hz, after_us = options["keyframe_hz"], options["after_us"]
        self._instants = (round(k * 1e6 / hz) + after_us for k in count())
        self._next_instant = next(self._instants)

    def open(self, width: int, height: int, rate: float | None) -> None:
        """Announce the first frame and wait for the ring."""
        self._size = input_size(width, height, self._short_side, MAX_ASPECT * self._short_side)
        self._shown = (width, height)
        self._channel.send({"t": "opened", "width": width, "height": height, "input": self._size, "rate": rate})
        while self._ring is None:
            self._wait()

    def go_on(self, done: Header) -> None:
        """Take over from a writer that died, with its ring: a live stream behind its last sample.

        An upload is read again from its beginning: what its parent knows of it is neither told nor written again.
        """
        if self._prompt:
            self._number, self._fed = done["sampled"] - 1, done["sampled"] + done["not_sampled"]
        else:
            self._known_frames, self._known_samples = done["frames"], done["sampled"]
        self._not_sampled_told = done["not_sampled"]
        self._shown = done["shown"][0], done["shown"][1]
        while self._ring is None:
            self._wait()
        if self._prompt and done["newest"] is not None:
            self._mend(*done["newest"])

    def _mend(self, index: int, pts_us: int, generation: int) -> None:
        """The newest sample may have been rewritten, whole or half, without a word: let it stand as it is."""
        assert self._ring is not None
        slot = self._number % self._capacity
        if self._ring.generation(slot) != generation:
            self._ring.stamp(slot, generation + 1)
            self._tell_sample(generation + 1, index, pts_us)

    def frame(self, pts_us: int, picture: Picture, at: float) -> None:
        """Take one frame, received at monotonic time ``at``; write what it makes final, and itself if it is awaited."""
        self._fed += 1
        settled = self._sampler.feed(pts_us, picture)
        if settled is not None:
            self._write(settled)
        if self._next_instant is not None and pts_us >= self._next_instant:
            self.commit()
            while pts_us >= self._next_instant:
                self._next_instant = next(self._instants)
        if self._fed > self._known_frames:
            self._unsent.append(pts_us)
            self._unsent_at.append(at)
        if self._prompt or len(self._unsent) >= FRAMES_PER_MESSAGE:
            self.tell_frames()

    @property
    def warnings(self) -> list[str]:
        """What was odd about the pictures."""
        return [f"changes of the picture size: {self._resizes}"] if self._resizes else []

    def commit(self) -> None:
        """Write the newest frame although a later one may displace it."""
        newest = self._sampler.newest
        if newest is not None:
            self._write(newest)

    def tell_frames(self) -> None:
        """Report the frames seen since the last report."""
        not_sampled = self._count_not_sampled()
        new = not_sampled - self._not_sampled_told
        if self._unsent or new:
            self._channel.send({"t": "frames", "pts_us": self._unsent, "at": self._unsent_at, "not_sampled": new})
            self._unsent, self._unsent_at, self._not_sampled_told = [], [], not_sampled

    def _count_not_sampled(self) -> int:
        """Frames that another one stands for: all but the written, the corrupt, and the newest while it is open."""
        newest, written = self._sampler.newest, -1 if self._written is None else self._written.pts_us
        is_open = newest is not None and newest.pts_us not in (written, self._corrupt_us)
        return self._fed - (self._number + 1) - self._corrupt - is_open

    def _write(self, sample: Sample[Picture]) -> None:
        assert self._ring is not None
        if sample.pts_us == self._corrupt_us or (self._written is not None and self._written.pts_us == sample.pts_us):
            return  # tried or written already, at a live keyframe's instant
        try:
            pixels = sample.frame.resized(*self._size, antialias=self._antialias)
        except MediaError:
            self._corrupt_us, self._corrupt = sample.pts_us, self._corrupt + 1
            if self._fed > self._known_frames:
                self._channel.send({"t": "dropped", "reason": "corrupt", "count": 1, "told": True})
            return
        self._resizes += (sample.frame.width, sample.frame.height) != self._shown
        self._shown = sample.frame.width, sample.frame.height
        if self._written is not None and sample.index == self._written.index:
            self._version += 1
        else:
            self._number, self._version = self._number + 1, 0
        self._written = sample
        if self._number < self._known_samples:
            return
        if self._number >= self._limit:
            self.tell_frames()
            self._channel.send({"t": "full", "number": self._number})
            while self._number >= self._limit:
                self._wait()
        generation = (self._number << 20) + self._version + 1
        self._ring.write(self._number % self._capacity, generation, pixels)
        # told before the frame itself is, so that no keyframe runs without it
        self._tell_sample(generation, sample.index, sample.pts_us)

    def _tell_sample(self, generation: int, index: int, pts_us: int) -> None:
        told = {"number": self._number, "generation": generation, "index": index, "pts_us": pts_us}
        self._channel.send({"t": "sample", **told})

    def _wait(self) -> None:
        """Take one order; what is none keeps for its turn."""
        message = self.obey(block=True)
        if message is not None:
            self._deferred.append(message)

    def next(self) -> Message:
        """The next message that is not settled by ``obey``: media, flush or end."""
        while not self._deferred:
            self._wait()
        return self._deferred.popleft()

    def obey(self, *, block: bool = False) -> Message | None:
        """Take orders from the parent, waiting for one if asked to. Returns a media message, which is not an order."""
        while block or self._channel.readable():
            block = False
            message = self._channel.receive()
            if message is None:
                raise ParentGone
            header = message.header
            match header["t"]:
                case "limit":
                    self._limit = header["number"]
                case "ring":
                    shape = RingShape(header["width"], header["height"], header["capacity"])
                    self._ring, self._capacity = Ring(message.fds[0], shape, writable=True), shape.capacity
                    self._limit, self._size = header["limit"], (shape.width, shape.height)
                case "flush":
                    self.flush_asked = True
                    return message
                case _:
                    return message
        return None
