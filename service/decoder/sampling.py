"""From frames to ring slots: which frames the time grid keeps, resized and written, and what is told of all of them.

Knows no channel and no process. ``decoder.writer`` puts it between FFmpeg and the API process, ``offline`` runs it
beside the engine's streams in one process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stmixer.media.errors import MediaError
from stmixer.media.grid import FrameSampler, Sample, TimeGrid
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.service.ipc.messages import (
    Frames,
    FramesDropped,
    Instants,
    Opened,
    PictureSize,
    Progress,
    SampleWritten,
    SamplingOrder,
    SourceWarns,
)
from stmixer.service.ipc.ring import Ring, RingShape

FRAMES_TOLD_AT_ONCE = 32
"""Of a source that nobody waits for."""
REWRITES_BITS = 20
"""A slot's generation is the sample's number with this many bits behind it for how often it was written, from 1."""
MAX_CHANGES_TOLD = 20
"""Changes of the picture's size that are told of while they happen."""

Told = Frames | SampleWritten | FramesDropped | SourceWarns
"""What sampling says of its frames."""


class Resizable(Protocol):
    """A frame as it came: px as shown, and pixels at any size. Raises MediaError where it turns out to be broken."""

    width: int
    height: int

    def resized(self, width: int, height: int, antialias: bool = False) -> NDArray[np.uint8]:
        """Pixels (height, width, 3), uint8 RGB."""
        ...


class SampleSink(Protocol):
    """What sampling tells of its frames, and where their samples go."""

    @property
    def limit(self) -> int:
        """Samples numbered below it may be written now."""
        ...

    def open(self, message: Opened) -> Ring:
        """Announce the first frame; the ring to write to, once it is there."""
        ...

    def tell(self, message: Told) -> None:
        """Pass on what happened, in order."""
        ...

    def room(self, number: int) -> None:
        """Sample ``number`` is at the limit: returns once it may be written, having waited or made room."""
        ...


class Sampling:
    """One source's frames: ``open``, or ``go_on`` where a ring exists already, then each ``frame``, then ``commit``.

    Every frame is counted once: written (sampled), displaced by a later one that serves the same grid index (not
    sampled), or dropped. ``prompt``: somebody waits for results, so each frame is told of at once.
    """

    def __init__(self, order: SamplingOrder, sink: SampleSink, *, prompt: bool) -> None:
        self._order, self._sink, self._prompt = order, sink, prompt
        self._sampler: FrameSampler[Resizable] = FrameSampler(TimeGrid(Fraction(*order.grid_step)))
        self._awaited = None if order.instants is None else AwaitedMoments(order.instants)
        self._report = FrameReport()
        self._ring: Ring | None = None
        self._first = self._shown = 0, 0
        self._size_changes = 0
        self._number = -1
        self._written: SampleWritten | None = None
        self._decided_us = -1
        self._known_samples = 0

    def open(self, width: int, height: int, rate: float | None, codec: str = "") -> None:
        """The first frame's size as shown, px, the container's frames a second, None if it does not say, and FFmpeg's
        name of the codec.

        Raises MediaError ``aspect_unsupported`` for a picture too long and thin for the model.
        """
        short_side = self._order.short_side
        input_width, input_height = input_size(width, height, short_side, MAX_ASPECT * short_side)
        self._first = self._shown = width, height
        self._ring = self._sink.open(Opened(width, height, input_width, input_height, rate, codec))

    def go_on(self, progress: Progress, ring: Ring) -> None:
        """Take over from another one, with its ring: a prompt source behind its last sample.

        Any other is read again from its beginning: what is known of it is neither told nor written again.
        """
        if self._prompt:
            self._number = progress.sampled - 1
            self._report.fed = progress.sampled + progress.not_sampled
        else:
            self._known_samples, self._report.known = progress.sampled, progress.frames
        self._report.not_sampled = progress.not_sampled
        self._first, self._ring = (progress.width, progress.height), ring
        newest_size = None if progress.newest is None else progress.newest.size
        self._shown = self._first if newest_size is None else (newest_size.width, newest_size.height)
        newest = progress.newest
        if not self._prompt or newest is None:
            return
        # it may have been rewritten, whole or half, without a word: let it stand as it is
        slot = self._number % ring.shape.capacity
        if ring.generation(slot) != newest.generation:
            ring.stamp(slot, newest.generation + 1)
            self._sink.tell(
                SampleWritten(self._number, newest.generation + 1, newest.index, newest.pts_us, newest.size)
            )

    def frame(self, pts_us: int, picture: Resizable, at: float) -> None:
        """Take one frame, received at monotonic time ``at``; write what it makes final, and itself if it is awaited.

        ``pts_us`` is later than the frame's before it.
        """
        report = self._report
        report.fed += 1
        if report.fed > report.known:
            report.pts_us.append(pts_us)
            report.at.append(at)
        if (final := self._sampler.feed(pts_us, picture)) is not None:
            self._write(final)
        if self._awaited is not None and self._awaited.reached(pts_us):
            self.commit()
        if self._prompt or len(report.pts_us) >= FRAMES_TOLD_AT_ONCE:
            self.tell_frames()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd about the pictures."""
        return (f"changes of the picture size: {self._size_changes}",) if self._size_changes else ()

    def commit(self) -> None:
        """Write the newest frame although a later one may displace it."""
        if (newest := self._sampler.newest) is not None:
            self._write(newest)

    def tell_frames(self) -> None:
        """Tell of the frames seen since the last time."""
        report, newest = self._report, self._sampler.newest
        # another one stands for all but the written, the corrupt, and the newest while that is open
        is_open = newest is not None and newest.pts_us > self._decided_us
        not_sampled = report.fed - (self._number + 1) - report.corrupt - is_open
        if report.pts_us or not_sampled != report.not_sampled:
            self._sink.tell(Frames(tuple(report.pts_us), tuple(report.at), not_sampled - report.not_sampled))
            report.pts_us, report.at, report.not_sampled = [], [], not_sampled

    def _write(self, sample: Sample[Resizable]) -> None:
        """Write a sample, unless it was tried or written already, when it was awaited."""
        if sample.pts_us <= self._decided_us:
            return
        assert self._ring is not None
        shape, picture, self._decided_us = self._ring.shape, sample.frame, sample.pts_us
        try:
            pixels, size = self._fitted(picture, shape)
        except MediaError:
            self._report.corrupt += 1
            if self._report.fed > self._report.known:
                self._sink.tell(FramesDropped("corrupt", 1, told=True))
            return
        if (picture.width, picture.height) != self._shown:
            self._shown, self._size_changes = (picture.width, picture.height), self._size_changes + 1
            if self._size_changes <= MAX_CHANGES_TOLD and self._number >= self._known_samples - 1:
                what = f"the picture changes to {picture.width} x {picture.height} px; results are in px of their own"
                self._sink.tell(SourceWarns("picture_size", what))
        if self._written is not None and self._written.index == sample.index:
            generation = self._written.generation + 1
        else:
            self._number += 1
            generation = (self._number << REWRITES_BITS) + 1
        self._written = SampleWritten(self._number, generation, sample.index, sample.pts_us, size)
        if self._number < self._known_samples:
            return
        if self._number >= self._sink.limit:
            self.tell_frames()
            self._sink.room(self._number)
        self._ring.write(self._number % shape.capacity, generation, pixels)
        # told before the frame itself is, so that no keyframe runs without it
        self._sink.tell(self._written)

    def _fitted(self, picture: Resizable, shape: RingShape) -> tuple[NDArray[np.uint8], PictureSize | None]:
        """A picture at the size of a slot. One of another shape than the first keeps its own, and fills a part."""
        antialias = self._order.antialias
        if self._first == (picture.width, picture.height) or not picture.width:
            pixels = picture.resized(shape.width, shape.height, antialias=antialias)
            # asked again: a compressed picture knows its size only now
            if self._first == (picture.width, picture.height):
                return pixels, None
        width, height = fitting(picture.width, picture.height, shape.width, shape.height)
        size = PictureSize(picture.width, picture.height, width, height)
        if (width, height) == (shape.width, shape.height):
            return picture.resized(width, height, antialias=antialias), size
        slot = np.zeros((shape.height, shape.width, 3), np.uint8)
        slot[:height, :width] = picture.resized(width, height, antialias=antialias)
        return slot, size


def fitting(width: int, height: int, into_width: int, into_height: int) -> tuple[int, int]:
    """The largest size of the same shape that fits; within a pixel of a side it is that side."""
    scale = min(into_width / width, into_height / height)
    fitted = []
    for side, limit in ((width, into_width), (height, into_height)):
        length = max(1, round(side * scale))
        fitted.append(limit if limit - length <= 1 else length)
    return fitted[0], fitted[1]


class AwaitedMoments:
    """Live: the ends of keyframes' look-ahead, where the newest frame is wanted though a later one may displace it."""

    def __init__(self, instants: Instants) -> None:
        self._period_us, self._after_us = 1e6 / instants.keyframe_hz, instants.after_us
        self._number, self._next_us = 0, instants.after_us

    def reached(self, pts_us: int) -> bool:
        """Whether a frame has come to the next of them, or past it; then those up to it are over."""
        if pts_us < self._next_us:
            return False
        number = max(self._number, int((pts_us - self._after_us) / self._period_us))
        while (moment := round(number * self._period_us) + self._after_us) <= pts_us:
            number += 1
        self._number, self._next_us = number, moment
        return True


@dataclass(slots=True)
class FrameReport:
    """Frames not yet told of, ``pts_us`` and monotonic ``at``, and the counts behind what is told of them.

    ``fed``: frames that came in all; ``known``: of a source that is read again, so many were told of before;
    ``not_sampled``: told of as not kept; ``corrupt``: turned out broken.
    """

    fed: int = 0
    known: int = 0
    not_sampled: int = 0
    corrupt: int = 0
    pts_us: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
