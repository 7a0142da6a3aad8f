"""A video file's results, made while they are iterated: memory holds one ring of small frames.

The file is decoded by a thread, as far ahead as the ring has room, while keyframes run.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits
from stmixer.service.ipc.messages import Frames, Opened, RingFull
from stmixer.service.offline.ahead import DecodingAhead
from stmixer.service.offline.engine import DetectedKeyframe, InProcessEngine
from stmixer.service.schemas import DetectOptions, FrameSize, Result, Summary, data_frame_of
from stmixer.service.worker.runner import Runner


class FileResults(Iterator[Result]):
    """One result per keyframe, in order, made when it is asked for. Iterated once; ``close`` ends it early.

    Args:
        path: the video. It is opened at once, and its first frame decoded.
        limits: what the file may be; without bounds on length by default, for it is one's own.
        batch_size: keyframes a forward, at most. More than one holds results back until a batch is complete.
        progress: told, after every frame, seconds of video done and in all (None if the container does not say).
        on_detected: told of every keyframe that ran, with the model's raw output.

    Raises:
        MediaError: for a file that gives no frame, and while iterating for what turns out on the way: a picture too
            long and thin for the model, or a limit that is passed.
        RuntimeError: while iterating in a process that was forked after iteration began.
    """

    def __init__(
        self,
        runner: Runner,
        path: Path,
        options: DetectOptions,
        *,
        limits: Limits | None = None,
        batch_size: int = 1,
        progress: Callable[[float, float | None], None] | None = None,
        on_detected: Callable[[DetectedKeyframe], None] | None = None,
    ) -> None:
        bounds = Limits.unlimited() if limits is None else limits
        self._reader = VideoReader(path, limits=bounds)
        self._engine = InProcessEngine(runner, options, limits=bounds, batch_size=batch_size, on_detected=on_detected)
        ahead = DecodingAhead(self._reader, self._engine.order)
        self._results = _run(ahead, self._engine, self._reader.info.duration_s, progress)
        self._let_go = weakref.finalize(self, ahead.close)  # where nobody iterates to the end

    def __iter__(self) -> FileResults:
        return self

    def __next__(self) -> Result:
        return next(self._results)

    def close(self) -> None:
        """End here: the file and the decoder are let go. Ends by itself after the last result."""
        self._results.close()
        self._let_go()

    def to_df(self) -> Any:
        """``pandas.DataFrame``: ``Result.rows`` of all that is left to come. Raises StartError without pandas."""
        return data_frame_of(self)

    @property
    def frame(self) -> FrameSize:
        """Size of the video's first picture as displayed, px."""
        return FrameSize(width=self._reader.info.width, height=self._reader.info.height)

    @property
    def summary(self) -> Summary:
        """Frames and keyframes counted so far; complete after the last result."""
        return self._engine.summary

    @property
    def warnings(self) -> list[str]:
        """What was odd about the file, in words; complete after the last result."""
        return list(self._reader.warnings)


def _run(
    ahead: DecodingAhead,
    engine: InProcessEngine,
    duration_s: float | None,
    progress: Callable[[float, float | None], None] | None,
) -> Generator[Result]:
    with contextlib.closing(engine), contextlib.closing(ahead):
        for message in ahead.messages():
            match message:
                case Opened():
                    ahead.give(engine.open(message))
                case RingFull(number):
                    engine.room(number)
                case _:
                    engine.tell(message)
            if progress is not None and isinstance(message, Frames) and message.pts_us:
                progress(message.pts_us[-1] / 1e6, duration_s)
            yield from engine.ready_results()
            ahead.raise_limit(engine.limit)
        yield from engine.end()
