"""The engine of one stream in this process: the rules of Time, the ring and the model that serving has, no service.

Sampling writes to a ring of this process and tells the stream of its frames; keyframes run as soon as a batch of them
is complete, or sampling needs the room. Nothing is skipped but what a gap jumps over (policy ``all``).
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stmixer.media.limits import Limits
from stmixer.model.clip import window
from stmixer.model.query_bank import new_bank, second_of
from stmixer.model.smoothing import ActionScores
from stmixer.service.decoder.sampling import Sampling, Told
from stmixer.service.engine.engine import result_of
from stmixer.service.engine.keyframes import KeyframeSchedule
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.ipc.messages import (
    Frames,
    FramesDropped,
    JobOrder,
    Opened,
    SampleWritten,
    SamplingOrder,
    SourceWarns,
)
from stmixer.service.ipc.ring import Ring, RingShape, create_ring, ring_shape
from stmixer.service.schemas import DetectOptions, Result, Summary
from stmixer.service.worker.process import read_job
from stmixer.service.worker.runner import BatchResult, Job, Runner

_STREAM_IDS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class DetectedKeyframe:
    """A result and what it was made from: the batch's raw output, the clip's place in it, the keyframe's picture.

    ``picture``: (H, W, 3) uint8 RGB at the model's input size.
    """

    result: Result
    batch: BatchResult
    position: int
    picture: NDArray[np.uint8]


class InProcessEngine:
    """Give frames to its ``sampling()``; take results from ``ready_results`` after each, the last ones from ``end``.

    It is the sink of that sampling, which holds it, not the other way round: a cycle would keep the ring. Not
    thread-safe. ``batch_size``: keyframes a forward, at most; 1 for a model with a query bank, where a clip's bank
    holds what the clip before it left. ``on_detected`` is told of every keyframe that ran, in order.
    """

    def __init__(
        self,
        runner: Runner,
        options: DetectOptions,
        *,
        limits: Limits,
        batch_size: int = 1,
        on_detected: Callable[[DetectedKeyframe], None] | None = None,
    ) -> None:
        config = runner.card.config
        self._runner, self._on_detected = runner, on_detected
        self._window, bank = window(config.clip), new_bank(config)
        self._labels = tuple([label.id for label in runner.card.labels])
        self._batch_size = batch_size if bank is None else 1
        self._settled: deque[Pending] = deque()
        self._skipped = 0
        self._ring: Ring | None = None
        self._undecided = 0
        """Frames told of, and neither sampled, nor found not to be kept, nor dropped since."""
        self.limit = 0
        self._stream = Stream(
            id=next(_STREAM_IDS),
            source="upload",
            policy="all",
            schedule=KeyframeSchedule(
                self._window, options.keyframe_hz, options.lookahead_ms, snap=config.backbone.per_frame
            ),
            options=options,
            deadline_s=math.inf,
            deliver=self._settled.append,
            bank=bank,
        )
        grid_s, preprocess = self._window.grid_s, config.preprocess
        self._order = SamplingOrder(
            (grid_s.numerator, grid_s.denominator), preprocess.short_side, preprocess.antialias, limits
        )

    def sampling(self) -> Sampling:
        """What frames are given to. One per engine."""
        return Sampling(self._order, self, prompt=True)

    # -- results out

    def ready_results(self) -> list[Result]:
        """Run the batches that are complete; every result since the last call."""
        while len(self._stream.ready()) >= self._batch_size:
            self._run_batch()
        return self._delivered()

    def end(self) -> list[Result]:
        """No more frames will come: run what is left, look-ahead that has not come repeating the last frame."""
        self._stream.end(time.monotonic())
        while self._stream.ready():
            self._run_batch()
        return self._delivered()

    def close(self) -> None:
        """Let go of ring and features; frames and keyframes on their way are cancelled. May be called twice."""
        if self._undecided > 0:
            self._drop("cancelled", self._undecided)
            self._undecided = 0
        self._stream.cancel()
        self._runner.forget(self._stream.id)
        self._ring = None

    @property
    def summary(self) -> Summary:
        """The counts so far."""
        return self._stream.snapshot()

    # -- sampling's sink

    def open(self, message: Opened) -> Ring:
        """Make the ring and open the stream."""
        shape = self._ring_shape(message.input_width, message.input_height)
        memory = create_ring(shape)
        self._ring = Ring(os.dup(memory.fd), shape, writable=True)
        memory.close()  # mapped here, and nobody else's
        self._stream.open(message.width, message.height, memory, message.rate)
        self.limit = self._stream.write_limit()
        return self._ring

    def tell(self, message: Told) -> None:
        """Let the stream know, and count."""
        summary = self._stream.summary
        match message:
            case SampleWritten():
                sampled = summary.sampled
                self._stream.note_sample(
                    message.number, message.generation, message.index, message.pts_us, message.size
                )
                self._undecided -= summary.sampled - sampled
            case Frames():
                summary.received += len(message.pts_us)
                summary.not_sampled += message.not_sampled
                self._undecided += len(message.pts_us) - message.not_sampled
                now = time.monotonic()
                for pts_us, at in zip(message.pts_us, message.at, strict=True):
                    self._stream.note_frame(pts_us, at, now)
            case SourceWarns():
                pass  # nobody waits for a word at once; the end sums up
            case FramesDropped(told=True):
                self._undecided -= message.count
                self._drop(message.reason, message.count)
            case FramesDropped():
                summary.received += message.count
                self._drop(message.reason, message.count)

    def room(self, number: int) -> None:
        """Run keyframes until sample ``number`` may be written without touching what one still needs."""
        while number >= (limit := self._stream.write_limit()):
            self._run_batch()
        self.limit = limit

    def _drop(self, reason: str, count: int) -> None:
        dropped = self._stream.summary.dropped
        dropped[reason] = dropped.get(reason, 0) + count

    def _ring_shape(self, width: int, height: int) -> RingShape:
        """Room for a stream's window and slack, and for the keyframes of a batch that wait for each other.

        No more than their windows side by side: of rare keyframes a batch is smaller than asked for.
        """
        alone, waiting = ring_shape(self._window, width, height), self._batch_size - 1
        period = math.ceil(self._stream.schedule.period_us / 1e6 / self._window.grid_s)
        return replace(alone, capacity=alone.capacity + waiting * min(period, self._window.span))

    # -- keyframes through the model

    def _run_batch(self) -> None:
        """Run the oldest ready keyframes, of which there is one at least."""
        assert self._ring is not None
        stream, started = self._stream, time.monotonic()
        batch = stream.ready()[: self._batch_size]
        assert batch, "the ring is full of what no keyframe needs"
        jobs: list[Job] = []
        pictures: list[NDArray[np.uint8] | None] = []
        for pending in batch:
            order = stream.take(pending, started)
            bank = None if stream.bank is None else stream.bank.window(second_of(pending.keyframe.pts_us))
            job = read_job(self._runner, self._ring, order, bank)
            assert job is not None, "a slot was written while it was leased"
            stream.copied(pending)
            jobs.append(job)
            pictures.append(self._picture(order) if self._on_detected is not None else None)
        done = self._runner.run(jobs)
        now = time.monotonic()
        if stream.bank is not None and done.entries is not None:
            stream.remember(batch[0], done.entries[0].tobytes())
        for position, pending in enumerate(batch):
            pending.done_at = now
            result = result_of(pending, tuple(done.actors[position]), now, done.postprocess_s, self._runner.card.name)
            scores = ActionScores(self._labels, done.kept[position].action_scores)
            stream.settle(pending, "ok", result, scores, done.looks[position])
            if self._on_detected is not None and (picture := pictures[position]) is not None:
                self._on_detected(DetectedKeyframe(result, done, position, picture))

    def _picture(self, order: JobOrder) -> NDArray[np.uint8]:
        """A copy of the keyframe's own frame, which need not be among those that the runner wants."""
        assert self._ring is not None
        middle = len(order.slots) // 2
        frames = self._ring.read([order.slots[middle]], [order.generations[middle]])
        assert frames is not None, "a slot was written while it was leased"
        picture: NDArray[np.uint8] = frames[0]
        width, height = order.filled or picture.shape[1::-1]
        return picture[:height, :width]

    def _delivered(self) -> list[Result]:
        """The stream's settled keyframes that have results, in order."""
        results: list[Result] = []
        while self._settled:
            pending = self._settled.popleft()
            self._skipped += pending.skipped_before
            if (result := pending.result) is None:
                self._skipped += 1
                continue
            result.dropped_since_last, self._skipped = self._skipped, 0
            result.sent_at_us = time.time_ns() // 1000
            results.append(result)
        return results
