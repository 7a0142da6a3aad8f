"""One stream from source to subscriber: its decoder, its place in the engine, its results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any

from media.decode import Limits
from media.errors import MediaError
from model.clip import MAX_ASPECT
from model.query_bank import new_bank
from service.access import Caller
from service.engine.channel import ChannelError, Header
from service.engine.children import Child, describe_exit
from service.engine.engine import Engine
from service.engine.ring import create_ring, ring_shape
from service.engine.stream import Pending, Policy, Source, Stream
from service.errors import CapacityError, InputError, StmixerError
from service.ingest.clock import PictureClock
from service.ingest.pool import DecoderPool
from service.ingest.results import Results
from service.keyframes import KeyframeSchedule
from service.logs import fields
from service.schemas import DetectOptions, Summary
from service.settings import Settings

log = logging.getLogger("stmixer.session")

MIN_DEADLINE_S = 1.0
CPU_PER_SECOND = 8
"""CPU seconds an upload may take per second that it may play: four times as long, on two threads."""


class Session:
    """An open stream. Use as ``async with``: leaving it frees everything, whatever happened.

    Results come from ``results()``: all of them with policy ``all``, the newest one with ``latest``.
    """

    def __init__(
        self,
        engine: Engine,
        pool: DecoderPool,
        settings: Settings,
        caller: Caller,
        *,
        source: Source,
        policy: Policy,
        options: DetectOptions,
        deadline_ms: float | None = None,
    ) -> None:
        self._engine, self._pool, self._settings, self.caller = engine, pool, settings, caller
        model = engine.model
        snap = model.config.backbone.per_frame
        schedule = KeyframeSchedule(model.window, options.keyframe_hz, options.lookahead_ms, snap=snap)
        deadline_s = max(MIN_DEADLINE_S, 2 / schedule.hz) if deadline_ms is None else deadline_ms / 1000
        self.stream = Stream(
            engine.admit(policy, schedule.hz), source, policy, schedule, options, deadline_s, self._deliver
        )
        self.stream.bank = new_bank(model.config)
        try:
            caller.open_stream()
        except CapacityError:
            engine.metrics.streams_rejected.labels("key_limit").inc()
            raise
        engine.add(self.stream)
        self.warnings: list[str] = []
        self.clock = PictureClock()
        self.aborted = False
        self.jpeg_wanted = asyncio.Event()
        self.flushed = asyncio.Event()
        self._error: StmixerError | None = None
        self._interruptible: asyncio.Task[Any] | None = None
        self._decoder: Child | None = None
        self._clean = False
        self._ordering = False
        self._counts_at_socket = False
        self._granted = 0
        self._full_at: int | None = None
        self._results = Results(engine.metrics)
        self._grant_changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = time.monotonic()

    # -- life

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:  # cancelled here, at a shutdown for one, it still frees all
            self._engine.remove(self.stream)
            self.caller.close_stream()
            self._balance("cancelled")
            self._log_end(error)
            decoder, self._decoder = self._decoder, None
            if decoder is not None:
                # one that was left in the middle of a message would take the next stream's for its rest
                await self._pool.release(decoder, clean=self._clean and not self._ordering)

    async def open(self, kind: str, fd: int | None = None) -> None:
        """Start decoding: ``upload`` or ``live`` from a descriptor (which stays the caller's), or ``jpeg`` messages."""
        self._decoder = decoder = await self._pool.acquire()
        self._counts_at_socket = kind == "jpeg"
        config, s = self._engine.model.config, self._settings
        upload = kind == "upload"
        duration = s.max_duration_s if upload else 1e9
        limits = Limits(s.max_width, s.max_height, duration, s.max_width * s.max_height)
        options: Header = {
            "t": "open",
            "kind": kind,
            "grid": [config.clip.grid_s.numerator, config.clip.grid_s.denominator],
            "short_side": config.preprocess.short_side,
            "antialias": config.preprocess.antialias,
            "limits": asdict(limits),
            "threads": 2 if upload else 1,
            "cpu_s": CPU_PER_SECOND * s.max_duration_s if upload else None,
        }
        if self.stream.policy == "latest":
            schedule = self.stream.schedule
            options["instants"] = {"keyframe_hz": schedule.hz, "after_us": round(schedule.lookahead_ms * 1000)}
        await decoder.channel.send(options, fds=[] if fd is None else [fd])
        self.jpeg_wanted.set()
        self._tasks += [asyncio.create_task(self._listen(decoder)), asyncio.create_task(self._grant(decoder))]

    # -- media in

    def received(self) -> None:
        """Count a frame that reached us: a picture at the socket, a frame of a container as the decoder tells of it."""
        self.stream.summary.received += 1
        self._engine.metrics.frames_received.labels(self.stream.source).inc()

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count frames lost, with the reason."""
        dropped = self.stream.summary.dropped
        dropped[reason] = dropped.get(reason, 0) + count
        self._engine.metrics.dropped(self.stream.source, reason, count)

    async def send_jpeg(self, data: bytes, pts_us: int, received_at: float) -> None:
        """Hand one picture to the decoder, once it is done with the one before."""
        await self.jpeg_wanted.wait()
        self.jpeg_wanted.clear()
        await self._order({"t": "jpeg", "pts_us": pts_us, "at": received_at}, data)

    async def flush(self) -> None:
        """Run what is pending with what is there."""
        self.flushed.clear()
        await self._order({"t": "flush"})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flushed.wait(), 2.0)
        self.stream.flush(time.monotonic())
        self._engine.wake()

    async def end_jpegs(self) -> None:
        """No more pictures."""
        await self._order({"t": "end"})

    async def update(self, options: DetectOptions) -> None:
        """Change options of a running stream. ``keyframe_hz`` and look-ahead cannot change: keyframes are numbered."""
        self.stream.options = options

    async def _order(self, header: Header, payload: bytes = b"") -> None:
        if self._decoder is None:
            return
        self._ordering = True  # until it is sent in full
        with contextlib.suppress(ChannelError):  # its end is noticed by the listener, which knows more
            await self._decoder.channel.send(header, payload)
        self._ordering = False

    # -- results out

    async def results(self) -> AsyncIterator[dict[str, Any]]:
        """Results in order until the stream has ended. Raises what ended it, unless a keyframe had succeeded before."""
        while True:
            while (result := self._results.take(self.stream, self.clock)) is not None:
                self._engine.wake()
                yield result
            if self.stream.finished:
                break
            await self._results.wait()
        if self._error is not None and self.stream.summary.ok == 0:
            raise self._error
        if self._error is not None:
            self.warnings.append(str(self._error))

    def _deliver(self, pending: Pending) -> None:
        """A keyframe is settled."""
        self._results.add(self.stream, pending)
        if pending.outcome in ("error", "worker_lost"):
            self.warnings.append(f"keyframe {pending.keyframe.seq} failed ({pending.outcome})")
        self._grant_changed.set()

    def abort(self) -> None:
        """The subscriber is gone: everything on its way is cancelled, ``results`` ends."""
        self.aborted = True
        self.stream.cancel()
        self._results.wake()

    def cut(self, error: StmixerError) -> None:
        """The service ends before this stream: what is not done is cancelled, and ``results`` says why."""
        if self.stream.finished and self._interruptible is None:
            return
        self._error = self._error or error
        for task in self._tasks:  # no more frames, which would bring new keyframes
            task.cancel()
        self.stream.cancel()
        self.jpeg_wanted.set()
        self._results.wake()
        if self._interruptible is not None:
            self._interruptible.cancel()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around what takes long and is no result, an upload's way to us for one: ``cut`` ends it with its error."""
        task = self._interruptible = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._error is None or task is None:
                raise
            task.uncancel()
            raise self._error from None
        finally:
            self._interruptible = None

    @property
    def error(self) -> StmixerError | None:
        """What ended the source, if it did not end well."""
        return self._error

    def summary(self) -> Summary:
        """The counts so far; the last ones, which add up, once the stream has finished and nothing more is sent."""
        if self.stream.finished:
            self._balance("cancelled")
        return self.stream.snapshot()

    # -- the decoder's side

    async def _listen(self, decoder: Child) -> None:
        """Until the decoder has ended this source, or itself."""
        try:
            while (message := await decoder.channel.receive()) is not None:
                if await self._on_message(decoder, message.header):
                    self._clean = True
                    break
            else:
                await self._lost(decoder)
        except (ChannelError, KeyError, TypeError, ValueError) as error:
            log.error("decoder %d breaks the protocol: %s", decoder.pid, error)
            await self._lost(decoder)
        self.jpeg_wanted.set()
        self._results.wake()
        self._engine.wake()

    async def _on_message(self, decoder: Child, header: Header) -> bool:
        """Act on one message; True when it was the source's last."""
        stream, now = self.stream, time.monotonic()
        match header["t"]:
            case "opened":
                await self._opened(decoder, header)
            case "frames":
                for pts_us, at in zip(header["pts_us"], header["at"], strict=True):
                    if not self._counts_at_socket:
                        self.received()
                    stream.note_frame(pts_us, at, now)
                stream.summary.not_sampled += header["not_sampled"]
                self._engine.wake()
            case "sample":
                stream.note_sample(header["number"], header["generation"], header["index"], header["pts_us"])
                self._grant_changed.set()
            case "full":
                self._full_at = header["number"]
                stream.make_room(self._full_at)
                self._grant_changed.set()
            case "dropped":
                self.dropped(header["reason"], header["count"])
                if not header["told"] and not self._counts_at_socket:
                    for _ in range(header["count"]):
                        self.received()
            case "next":
                self.jpeg_wanted.set()
            case "flushed":
                self.flushed.set()
            case "ended":
                self.warnings += header["warnings"]
                stream.end(now)
                return True
            case "failed":
                self._fail(InputError.from_media(MediaError(header["code"], header["message"])))
                return True
        return False

    async def _opened(self, decoder: Child, header: Header) -> None:
        """The first frame: make the ring, give it to decoder and worker."""
        width, height = header["input"]
        longest = MAX_ASPECT * self._engine.model.config.preprocess.short_side
        if not (0 < width <= longest and 0 < height <= longest):  # its word is not to be trusted
            raise ValueError(f"an input size of {width} x {height}")
        ring = ring_shape(self._engine.model.window, width, height)
        capacity = ring.capacity
        fd = create_ring(ring)
        try:
            self.stream.open(header["width"], header["height"], ring, header["rate"])
            self._granted = capacity
            order = {"t": "ring", "width": width, "height": height, "capacity": capacity, "limit": capacity}
            await decoder.channel.send(order, fds=[fd])
        except BaseException:
            os.close(fd)
            raise
        await self._engine.workers.attach(self.stream.id, fd, ring)

    async def _grant(self, decoder: Child) -> None:
        """Tell the decoder how far it may write, when it waits for that or has little left."""
        with contextlib.suppress(ChannelError):
            while True:
                await self._grant_changed.wait()
                self._grant_changed.clear()
                if self.stream.ring is None:
                    continue
                limit = self.stream.write_limit()
                waiting = self._full_at is not None and limit > self._full_at
                if waiting or limit >= self._granted + self.stream.ring.capacity // 4:
                    self._granted, self._full_at = limit, None if waiting else self._full_at
                    await decoder.channel.send({"t": "limit", "number": limit})

    def _fail(self, error: StmixerError) -> None:
        """The source cannot go on. What is complete still runs."""
        self._error = error
        self.stream.end(time.monotonic())

    async def _lost(self, decoder: Child) -> None:
        end = describe_exit(await decoder.kill())
        log.error("decoder %d %s", decoder.pid, end)
        why = "took too much computing time" if "SIGXCPU" in end else "crashed the decoder"
        self._balance("decoder")
        self._fail(InputError("unreadable", f"this media {why}; re-encode it, for instance with ffmpeg", 422))

    def _log_end(self, error: BaseException | None) -> None:
        """The stream's line: how it ended (finished, disconnected, or the code of what ended it), and every count."""
        cause = error or self._error
        ended = "finished" if cause is None else str(getattr(cause, "code", type(cause).__name__))
        seconds, stream = round(time.monotonic() - self._started, 3), self.stream
        told = fields(
            stream=stream.id, source=stream.source, ended="disconnected" if self.aborted else ended, seconds=seconds,
            summary=stream.snapshot().model_dump(), warnings=len(self.warnings),
        )  # fmt: skip
        log.info("stream ended", extra=told)

    def _balance(self, reason: str) -> None:
        """Frames that were on their way at a cut: told of and never written are lost, written and never told came."""
        summary = self.stream.summary
        missing = summary.received - summary.sampled - summary.not_sampled - sum(summary.dropped.values())
        if missing > 0:
            self.dropped(reason, missing)
        for _ in range(0 if self._counts_at_socket else -missing):
            self.received()
