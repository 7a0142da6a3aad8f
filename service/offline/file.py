"""A video file's results, made while they are iterated: memory holds one ring of small frames."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits
from stmixer.service.ipc.messages import FramesDropped
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
        self._path, self._trained = path, runner.card.trained
        self._reader = VideoReader(path, limits=bounds)
        self._engine = InProcessEngine(runner, options, limits=bounds, batch_size=batch_size, on_detected=on_detected)
        self._results = _run(self._reader, self._engine, progress)
        self._let_go = weakref.finalize(self, self._reader.close)  # where nobody iterates to the end

    def __iter__(self) -> FileResults:
        return self

    def __next__(self) -> Result:
        result = next(self._results)
        result.comes_from(self._path, self._trained)
        return result

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
    reader: VideoReader, engine: InProcessEngine, progress: Callable[[float, float | None], None] | None
) -> Generator[Result]:
    sampling, info = engine.sampling(), reader.info
    with reader, contextlib.closing(engine):
        sampling.open(info.width, info.height, info.average_rate)
        asked_at = time.monotonic()  # of a file every frame is there as soon as it is asked for
        for frame in reader:
            sampling.frame(frame.pts_us, frame, asked_at)
            if progress is not None:
                progress(frame.pts_us / 1e6, info.duration_s)
            yield from engine.ready_results()
            asked_at = time.monotonic()
        sampling.commit()
        sampling.tell_frames()
        for reason, count in reader.dropped.items():
            engine.tell(FramesDropped(reason, count, told=False))
        yield from engine.end()
