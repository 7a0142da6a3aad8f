"""``stmixer detect``: a video file through decoder, grid, windows and model in one process, nothing skipped.

The rules of a posted clip (docs/protocol.md, Time), without rings or sockets: memory holds one window of small frames.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import Frame, Limits, VideoReader
from stmixer.media.grid import FrameSampler, Sample, SampleHistory
from stmixer.media.resize import input_size
from stmixer.model.clip import MAX_ASPECT, window
from stmixer.model.query_bank import new_bank, second_of
from stmixer.service.engine.keyframes import Keyframe, KeyframeSchedule
from stmixer.service.schemas import DetectOptions, FrameSize, Result, Summary, Timings
from stmixer.service.worker.features import FrameKey
from stmixer.service.worker.runner import NO_STREAM, BankEntries, BatchResult, FrameWindow, Job, Runner


@dataclass(frozen=True, slots=True)
class Explained:
    """What ``--explain`` draws from: the batch's raw output, the clip's place in it, its keyframe picture."""

    result: Result
    batch: BatchResult
    position: int
    frame: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A keyframe whose window is complete, with its frames stacked."""

    keyframe: Keyframe
    frames: NDArray[np.uint8]
    window: FrameWindow
    warming: bool
    ready_at: float


class FileDetector:
    """One run over one video file. ``summary``, ``warnings`` and ``frame_size`` are complete once ``run`` ends."""

    def __init__(self, runner: Runner, options: DetectOptions, *, limits: Limits, batch_size: int = 1) -> None:
        self._runner, self._options = runner, options
        self._bank = new_bank(runner.card.config)
        # a clip's bank holds what the clip before it left
        self._batch_size = batch_size if self._bank is None else 1
        self._limits = limits
        self.summary = Summary()
        self.warnings: list[str] = []
        self.frame_size: FrameSize | None = None
        self._decode_s = 0.0

    def run(
        self,
        path: Path,
        *,
        progress: Callable[[float, float | None], None] | None = None,
        explain: Callable[[Explained], None] | None = None,
    ) -> Iterator[Result]:
        """Yield one result per keyframe, in order.

        ``progress`` is told seconds of video done and in all (None if the container does not say). Raises MediaError
        for a file that gives no frame or whose picture is too long and thin for the model.
        """
        waiting: deque[_Ready] = deque()
        self._runner.forget(NO_STREAM)  # of another file
        self._bank = new_bank(self._runner.card.config)
        with VideoReader(path, limits=self._limits) as reader:
            for ready in self._windows(reader, progress):
                waiting.append(ready)
                if len(waiting) == self._batch_size:
                    yield from self._run_batch(waiting, explain)
            yield from self._run_batch(waiting, explain)
            self.warnings += reader.warnings
            self.summary.dropped = dict(reader.dropped)
            self.summary.received += sum(reader.dropped.values())

    def _windows(self, reader: VideoReader, progress: Callable[[float, float | None], None] | None) -> Iterator[_Ready]:
        """Decode, sample and resize; yield each keyframe as soon as no later frame can change its window."""
        config = self._runner.card.config
        hz, lookahead_ms = self._options.keyframe_hz, self._options.lookahead_ms
        schedule = KeyframeSchedule(window(config.clip), hz, lookahead_ms, snap=config.backbone.per_frame)
        short_side = config.preprocess.short_side
        rate = reader.info.average_rate
        timeline: SampleHistory[NDArray[np.uint8]] = SampleHistory(schedule.grid, 1e6 / rate if rate else None)
        sampler: FrameSampler[Frame] = FrameSampler(schedule.grid)
        size: tuple[int, int] | None = None
        keyframe = schedule.keyframe(0)
        started = time.perf_counter()
        for frame in reader:
            if size is None:
                self.frame_size = FrameSize(width=frame.width, height=frame.height)
                size = input_size(frame.width, frame.height, short_side, MAX_ASPECT * short_side)
            self.summary.received += 1
            timeline.observe(frame.pts_us)
            settled = sampler.feed(frame.pts_us, frame)
            if settled is not None:
                self._keep(timeline, settled, size)
                timeline.forget_before(keyframe.first)
            if progress is not None:
                progress(frame.pts_us / 1e6, reader.info.duration_s)
            newest = sampler.newest
            assert newest is not None
            # complete once a frame has come that serves only later grid times
            while keyframe.last < newest.index and keyframe.pts_us <= frame.pts_us:
                self._decode_s += time.perf_counter() - started
                yield self._ready(timeline, keyframe)
                started = time.perf_counter()
                keyframe = schedule.keyframe(keyframe.seq + 1)
        newest = sampler.newest
        if newest is None or size is None:
            return
        self._keep(timeline, newest, size)
        while keyframe.pts_us <= newest.pts_us:
            yield self._ready(timeline, keyframe)
            keyframe = schedule.keyframe(keyframe.seq + 1)
        self.summary.not_sampled = self.summary.received - self.summary.sampled

    def _keep(self, timeline: SampleHistory[NDArray[np.uint8]], sample: Sample[Frame], size: tuple[int, int]) -> None:
        antialias = self._runner.card.config.preprocess.antialias
        pixels = sample.frame.resized(*size, antialias=antialias)
        timeline.keep(Sample(sample.index, sample.pts_us, pixels))
        self.summary.sampled += 1

    def _ready(self, timeline: SampleHistory[NDArray[np.uint8]], keyframe: Keyframe) -> _Ready:
        self.summary.keyframes_due += 1
        samples = timeline.at(keyframe.indices)
        frames = np.stack([sample.frame for sample in samples])
        keys = tuple(FrameKey(NO_STREAM, sample.index) for sample in samples)
        warming = not timeline.is_whole(keyframe.first, keyframe.last)
        return _Ready(keyframe, frames, FrameWindow(keys, keys), warming, time.perf_counter())

    def _window_of(self, keyframe: Keyframe) -> BankEntries | None:
        return None if self._bank is None else self._bank.window(second_of(keyframe.pts_us))

    def _run_batch(self, waiting: deque[_Ready], explain: Callable[[Explained], None] | None) -> Iterator[Result]:
        if not waiting or self.frame_size is None:
            return
        size, options = self.frame_size, self._options
        batch = list(waiting)
        waiting.clear()
        wanted = (options.score_threshold, options.top_k, options.action_threshold)
        jobs = [Job(r.frames, size.width, size.height, *wanted, r.window, self._window_of(r.keyframe)) for r in batch]
        started, received_at_us = time.perf_counter(), time.time_ns() // 1000
        done = self._runner.run(jobs)
        if self._bank is not None and done.entries is not None:
            self._bank.add(second_of(batch[0].keyframe.pts_us), done.entries[0])
        decode_ms, self._decode_s = self._decode_s * 1000 / len(batch), 0.0
        for position, ready in enumerate(batch):
            self.summary.ok += 1
            result = Result(
                seq=ready.keyframe.seq,
                pts_us=ready.keyframe.pts_us,
                received_at_us=received_at_us,
                sent_at_us=time.time_ns() // 1000,
                warming=ready.warming,
                timings_ms=Timings(
                    lookahead=0.0,
                    decode=decode_ms,
                    queue=(started - ready.ready_at) * 1000,
                    inference=(done.preprocess_s + done.inference_s) * 1000,
                    postprocess=done.postprocess_s * 1000,
                ),
                dropped_since_last=0,
                frame=size,
                actors=done.actors[position],
            )
            if explain is not None:
                explain(Explained(result, done, position, ready.frames[len(ready.frames) // 2]))
            yield result
