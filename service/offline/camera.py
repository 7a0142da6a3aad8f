"""``stmixer detect`` of a camera: what is found is told while it runs.

A thread reads pictures as fast as they come. A second's worth of them waits while the model computes; on a machine that
is too slow the oldest give way, and are counted, so that it never falls further behind.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.rtsp import RtspCamera
from stmixer.media.webcam import webcam
from stmixer.service.offline.inputs import Input
from stmixer.service.offline.outputs import OF_ALL, Table, form_of, write_json
from stmixer.service.offline.stream import FrameStream
from stmixer.service.schemas import DetectOptions, DetectResponse, FrameSize, Result, Summary
from stmixer.service.worker.runner import Runner

log = logging.getLogger("stmixer")

MOST = 30
"""Pictures that wait, at most: a second of most cameras."""
LATE_S = 5.0
"""A camera takes so long to open, or to send a picture, besides the time for which it is to be looked at."""
LEAVE_S = 2.0
"""A thread that reads is waited for so long in the end; it holds nothing that outlives the process."""


class CameraPicture(Protocol):
    """A frame of a camera."""

    @property
    def pts_us(self) -> int:
        """Its time, microseconds of whatever clock the camera has."""

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""


class Recent:
    """Reads pictures in a thread of its own. Those that nobody has taken wait, ``MOST`` at most; the oldest give way,
    and ``displaced`` counts them.

    In a ``with`` block. ``end`` may be called from a signal's handler.
    """

    def __init__(self, pictures: Iterator[CameraPicture]) -> None:
        self.displaced = 0
        self._pictures = pictures
        self._waiting: deque[CameraPicture] = deque(maxlen=MOST)
        self._error: MediaError | None = None
        self._over = self._ended = False
        self._told = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        self._thread.join(LEAVE_S)

    def take(self, patience_s: float | None = None) -> CameraPicture | None:
        """The oldest that waits, once there is one; None where no more will come.

        Raises:
            MediaError: the camera cannot be read, or is lost.
            TimeoutError: nothing came for so long.
        """
        with self._told:
            if not self._told.wait_for(lambda: self._waiting or self._over or self._ended, patience_s):
                raise TimeoutError
            if self._ended:
                return None
            if self._waiting:
                return self._waiting.popleft()
            if self._error is not None:
                raise self._error
            return None

    def end(self) -> None:
        """No more are wanted."""
        with self._told:
            self._ended = True
            self._told.notify_all()

    def _read(self) -> None:
        try:
            for picture in self._pictures:
                with self._told:
                    if self._ended:
                        return
                    self.displaced += len(self._waiting) == MOST
                    self._waiting.append(picture)
                    self._told.notify_all()
        except MediaError as error:
            self._error = error
        finally:
            with self._told:
                self._over = True
                self._told.notify_all()


def pictures_of(item: Input) -> Iterator[CameraPicture]:
    """Of a webcam or an RTSP camera. Raises MediaError, while it is iterated."""
    if item.place.startswith("/"):
        yield from webcam(item.path)
        return
    with VideoReader(RtspCamera(item.place), limits=Limits.unlimited(), low_latency=True) as reader:
        yield from reader


class CameraCommand:
    """The model, and what is wanted of a camera.

    Args:
        outputs: as ``outputs.check_outputs`` has let pass.
        seconds: of the camera's clock, after which it ends, or of ours (and ``LATE_S``) in which no picture comes; None
            for signals alone.
        on_result: told of each result when it is there.
        pictures: of an input.
    """

    def __init__(
        self,
        runner: Runner,
        options: DetectOptions,
        outputs: Sequence[Path],
        *,
        seconds: float | None,
        on_result: Callable[[Result], None],
        pictures: Callable[[Input], Iterator[CameraPicture]] = pictures_of,
    ) -> None:
        self._runner, self._options, self._seconds = runner, options, seconds
        self._on_result, self._pictures = on_result, pictures
        self._tables = [path for path in outputs if form_of(path) in OF_ALL]
        self._files = [path for path in outputs if path not in self._tables]
        self._kept: list[Result] = []

    def run(self, item: Input) -> Summary:
        """Until SIGINT (Ctrl-C), SIGTERM, the time that was given, or the camera's end; what was counted.

        Raises:
            MediaError: the camera cannot be read, or is lost; what was found before is written. ``silent``: nothing
                came in the time that was given.
            StartError: a result cannot be written.
        """
        with ExitStack() as stack:
            tables = [Table(path, self._options.keyframe_hz) for path in self._tables]
            for table in tables:
                stack.callback(table.close)
            stream = stack.enter_context(FrameStream(self._runner, self._options))
            recent = stack.enter_context(Recent(self._pictures(item)))
            stack.enter_context(_ended_by_signals(recent.end))
            lost: MediaError | None = None
            first_us: int | None = None
            patience_s = None if self._seconds is None else self._seconds + LATE_S
            try:
                while (picture := recent.take(patience_s)) is not None:
                    first_us = picture.pts_us if first_us is None else first_us
                    if self._seconds is not None and picture.pts_us - first_us > self._seconds * 1e6:
                        break
                    self._tell(item, tables, stream, stream.feed(picture.rgb(), picture.pts_us), recent.displaced)
            except MediaError as error:
                lost = error
            except TimeoutError:
                if first_us is None:
                    lost = MediaError("silent", f"the camera sent no picture within {patience_s:g} s")
            self._tell(item, tables, stream, stream.end(), recent.displaced)
            self._write(stream, recent.displaced)
            if lost is not None:
                raise lost
        return _counted(stream, recent.displaced)

    def _tell(
        self, item: Input, tables: Sequence[Table], stream: FrameStream, results: Sequence[Result], displaced: int
    ) -> None:
        for result in results:
            for table in tables:
                table.add(item.name, item.file_name, self._response(stream, [result], displaced))
            if self._files:
                self._kept.append(result)
            self._on_result(result)

    def _write(self, stream: FrameStream, displaced: int) -> None:
        if stream.frame is None:
            return
        for path in self._files:
            write_json(path, self._response(stream, self._kept, displaced))
        for warning in stream.warnings:
            log.warning("%s", warning)

    def _response(self, stream: FrameStream, keyframes: Sequence[Result], displaced: int) -> DetectResponse:
        card, frame = self._runner.card, stream.frame
        return DetectResponse(
            model=card.name,
            trained=card.trained,
            frame=frame or FrameSize(width=0, height=0),
            keyframes=list(keyframes),
            summary=_counted(stream, displaced),
            warnings=stream.warnings,
        )


def _counted(stream: FrameStream, displaced: int) -> Summary:
    """With the pictures that gave way before they were looked at."""
    summary = stream.summary
    if not displaced:
        return summary
    return summary.model_copy(
        update={"received": summary.received + displaced, "dropped": summary.dropped | {"mailbox": displaced}}
    )


@contextmanager
def _ended_by_signals(end: Callable[[], None]) -> Iterator[None]:
    """By Ctrl-C, and by what `timeout`, `docker stop` and systemd send: what runs is finished, whatever it is; a second
    one is as anywhere."""

    def heed(number: int, _: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        end()

    before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
