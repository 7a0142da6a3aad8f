"""Frames with timestamps in, results out, in one process: what ``stmixer.load().stream()`` gives."""

from __future__ import annotations

import operator
import time
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stmixer.media.limits import Limits
from stmixer.media.resize import resize
from stmixer.media.timeline import Placed, Timeline
from stmixer.service.errors import InputError
from stmixer.service.ipc.messages import FramesDropped
from stmixer.service.offline.engine import InProcessEngine
from stmixer.service.schemas import DetectOptions, FrameSize, Result, Summary
from stmixer.service.worker.runner import Runner


@dataclass(slots=True)
class RgbPicture:
    """Pixels (height, width, 3), uint8 RGB, as sampling takes a frame."""

    pixels: NDArray[np.uint8]
    width: int = field(init=False)
    height: int = field(init=False)

    def __post_init__(self) -> None:
        self.height, self.width = self.pixels.shape[:2]

    def resized(self, width: int, height: int, antialias: bool = False) -> NDArray[np.uint8]:
        """(height, width, 3)."""
        return resize(self.pixels, width, height, antialias)


class FrameStream:
    """A stream of frames. Use it in a ``with`` block; ``feed`` every frame, and ``end`` for the last results.

    Nothing is skipped: a keyframe's result comes with the ``feed`` that completes its clip, look-ahead included
    (``lookahead_ms=0`` for results at once), and until it is computed ``feed`` does not return. Times in results are
    microseconds after the first frame. Not thread-safe.
    """

    def __init__(self, runner: Runner, options: DetectOptions) -> None:
        self._limits, self._trained = Limits.unlimited(), runner.card.trained
        self._engine = InProcessEngine(runner, options, limits=self._limits)
        self._sampling = self._engine.sampling()
        self._timeline: Timeline[RgbPicture] = Timeline(Fraction(1, 1_000_000), Fraction(30))
        self._frame: FrameSize | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def feed(self, frame: NDArray[np.uint8], pts_us: int) -> list[Result]:
        """Take the next frame; the results that it makes ready, mostly none.

        Args:
            frame: (H, W, 3) uint8 RGB, of any size; it is copied. Boxes are in px of the keyframe's own.
            pts_us: its time, microseconds on any clock, by docs/protocol.md, Time. A frame far from where the last one
                was waits for those after it; one for which there is no room between its neighbours is left out and
                counted (``summary.dropped["out_of_order"]``).

        Raises:
            InputError: ``bad_frame`` for another type or shape.
            MediaError: ``aspect_unsupported`` for a picture too long and thin for the model.
            TypeError: a ``pts_us`` that is no whole number.
            RuntimeError: after ``end`` or ``close``.
        """
        self._check_open()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise InputError("bad_frame", f"a frame is an array (height, width, 3) of uint8, RGB; this is {what}")
        height, width = frame.shape[:2]
        self._limits.check_size(width, height)
        time_us = operator.index(pts_us)
        if self._frame is None:
            self._sampling.open(width, height, None)
            self._frame = FrameSize(width=width, height=height)
        # the caller may write its next frame where this one lies
        self._take(self._timeline.place(RgbPicture(np.array(frame, order="C")), time_us))
        return self._told(self._engine.ready_results())

    def _take(self, placed: list[Placed[RgbPicture]]) -> None:
        """Frames whose time is known."""
        for one in placed:
            if one.pts_us is None:
                self._engine.tell(FramesDropped("out_of_order", 1, told=False))
            else:
                self._sampling.frame(one.pts_us, one.item, time.monotonic())

    def end(self) -> list[Result]:
        """No more frames will come: the results that are left; look-ahead that never came repeats the last frame."""
        self._check_open()
        self._ended = True
        self._take(self._timeline.end())
        self._sampling.commit()
        self._sampling.tell_frames()
        return self._told(self._engine.end())

    def _told(self, results: list[Result]) -> list[Result]:
        """The same, which know whether the model is trained."""
        for result in results:
            result.comes_from(None, self._trained)
        return results

    def close(self) -> None:
        """Let go of everything. Keyframes that have not run count as cancelled. May be called twice."""
        self._ended = True
        self._engine.close()

    @property
    def frame(self) -> FrameSize | None:
        """The first frame's size, px; None before it."""
        return self._frame

    @property
    def summary(self) -> Summary:
        """Frames and keyframes counted so far."""
        return self._engine.summary

    @property
    def warnings(self) -> list[str]:
        """What was odd about the frames, in words."""
        return list(self._sampling.warnings)

    def _check_open(self) -> None:
        if self._ended:
            raise RuntimeError("this stream has ended; take a new one from `stream()`")
