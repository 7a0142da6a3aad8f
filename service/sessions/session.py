"""One stream from source to subscriber: its source, its place in the engine, its results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from stmixer.model.query_bank import new_bank
from stmixer.model.tracks import Tracks
from stmixer.service.access import Caller, StreamPlace
from stmixer.service.engine.engine import Engine
from stmixer.service.engine.frame_counts import FrameCounts
from stmixer.service.engine.keyframes import KeyframeSchedule
from stmixer.service.engine.stream import Pending, Policy, SourceKind, Stream
from stmixer.service.errors import CapacityError, InputError, StmixerError
from stmixer.service.event_schemas import Event
from stmixer.service.events.rules import check_rules
from stmixer.service.events.watched import WatchedStream
from stmixer.service.logs import fields
from stmixer.service.schemas import DetectOptions, Result, RunningStream, Summary, TrackChange
from stmixer.service.sessions.results import Results
from stmixer.service.settings import Settings
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.decoder_pool import DecoderPool
from stmixer.service.sources.source import FrameSource
from stmixer.service.stream_messages import ReadyLabel

log = logging.getLogger("stmixer.session")

MIN_DEADLINE_S = 1.0
MOST_EVENTS = 1024
"""Events that wait for a live stream's subscriber; the oldest give way."""


def schedule_of(engine: Engine, options: DetectOptions) -> KeyframeSchedule:
    """Which keyframes a stream with these options has. Raises InputError where there is no such model."""
    model = engine.models.get(options.model).info
    snap = model.config.backbone.per_frame
    return KeyframeSchedule(model.window, options.keyframe_hz, options.lookahead_ms, snap=snap)


class Session:
    """An open stream. Use as ``async with``, or ``close`` it: that frees everything, whatever happened.

    ``open`` gives it its source, made from ``context``; results come from ``results()``: all of them with policy
    ``all``, the newest one with ``latest``.
    """

    def __init__(
        self,
        engine: Engine,
        pool: DecoderPool,
        settings: Settings,
        caller: Caller,
        *,
        source: SourceKind,
        policy: Policy,
        options: DetectOptions,
        deadline_ms: float | None = None,
        place: StreamPlace | None = None,
        number: int | None = None,
        after: Session | None = None,
    ) -> None:
        """``place``: the caller's, where it has one for this already: it is then let in though the service drains.
        ``number``: the stream's id, where it has one that no other stream here gets. ``after``: one that has just been
        closed, whose number, room and caller's place it has: it is let in whoever has come meanwhile.

        Raises CapacityError without room, InputError where there is no such model.
        """
        self._engine, self.caller = engine, caller
        schedule = schedule_of(engine, options)
        model = engine.models.get(options.model).info
        deadline_s = max(MIN_DEADLINE_S, 2 / schedule.hz) if deadline_ms is None else deadline_ms / 1000
        if after is None:
            number = engine.entry.admit(
                policy, schedule.hz, options.model, though_draining=place is not None, number=number
            )
        else:
            number, place = after.stream.id, StreamPlace(caller)
        self.stream: Stream = Stream(
            number, source, policy, schedule, options, deadline_s, self._deliver, self._begin_anew, self._stay
        )  # fmt: skip
        self.stream.bank = new_bank(model.config)
        try:
            self._place = caller.open_stream() if place is None else place
        except CapacityError:
            engine.metrics.streams_rejected.labels("key_limit").inc()
            raise
        engine.add(self.stream)
        self.aborted = False
        self.outdated = asyncio.Event()
        """Set where it is to begin anew, with the default model, which cannot go on with its stream."""
        self.error: StmixerError | None = None
        """What ended the source, if it did not end well."""
        self.source: FrameSource | None = None
        self.watched: WatchedStream | None = None
        """Its rules at work, where there can be some."""
        self._on_watch_end: Callable[[WatchedStream], Awaitable[None]] | None = None
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._event_came = asyncio.Event()
        self._interruptible: asyncio.Task[Any] | None = None
        self._results = Results(engine.metrics)
        self._started = time.monotonic()
        self.context = SourceContext(
            engine,
            pool,
            settings,
            self.stream,
            FrameCounts(self.stream, engine.metrics),
            self._fail,
            self._finish,
            self._results.wake,
        )

    # -- life

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self.close(error)

    async def open(self, source: FrameSource) -> None:
        """Begin to take frames. Raises CapacityError where no decoder can be had."""
        self.source = source
        await source.open()

    async def close(self, error: BaseException | None = None) -> None:
        """Free everything; ``error`` is what ended it, for the log."""
        try:
            if self.source is not None:
                await self.source.close()
        finally:  # cancelled here, at a shutdown for one, it still frees all
            if self.context.clips is not None:
                self.context.clips.close()
            self._engine.remove(self.stream)
            self._place.release()
            self.context.counts.cut("cancelled")
            self._log_end(error)
            await self.end_watch()

    def update(self, options: DetectOptions) -> None:
        """Change options of a running stream. ``keyframe_hz`` and look-ahead cannot change: keyframes are numbered."""
        self.stream.options = options

    def looked_at(self) -> dict[str, Any]:
        """Fields of a ``LookedAt``."""
        schedule, model = self.stream.schedule, self._engine.models.of(self.stream)
        return {
            "lookahead_ms": schedule.lookahead_ms,
            "keyframe_hz": schedule.hz,
            "model": model.name,
            "trained": model.info.trained,
            "labels": tuple(ReadyLabel(id=label.id, name=label.name) for label in model.info.labels),
        }

    def _begin_anew(self) -> None:
        """The default model is another one: whoever has this session sees to it, unless its rules forbid."""
        if why := self.why_kept():
            self._stay()
            self.context.notice("model_kept", why)
        else:
            self.outdated.set()

    def _stay(self) -> None:
        """The default model is another one yet, which nobody is to begin anew for."""
        self.outdated.clear()

    def why_kept(self) -> str:
        """Why its own rules forbid that it begins anew with the default model; "" where they do not."""
        default = self._engine.models.default
        try:
            check_rules(self.watched.own if self.watched else (), [label.name for label in default.info.labels])
        except InputError as error:
            return f"{default.name} serves now, and this stream stays as it is: {error}"
        return ""

    def begins_anew(self) -> bool:
        """Whether it is to now. Where it is over, or its model is the default again, that is forgotten."""
        if self.outdated.is_set() and (self.stream.ended or self._engine.models.of(self.stream).is_default):
            self.outdated.clear()
        return self.outdated.is_set()

    # -- results out

    async def results(self) -> AsyncIterator[Result]:
        """Results in order until the stream has ended. Raises what ended it, unless a keyframe had succeeded before."""
        while True:
            while (result := self._taken()) is not None:
                self._engine.wake()
                yield result
            if self.stream.finished:
                break
            await self._results.wait()
        if self.error is not None and self.stream.summary.ok == 0:
            raise self.error
        if self.error is not None:
            self.warnings.append(str(self.error))

    def _taken(self) -> Result | None:
        return self._results.take(self.stream, self.context.origin, self.context.capture_origin_us)

    def track_changes(self) -> list[TrackChange]:
        """Who has come and gone up to the result that ``results`` gave last."""
        return self._results.take_tracks()

    def last_track_changes(self) -> list[TrackChange]:
        """Those after the last result: everybody has gone."""
        stream = self.stream
        last = stream.schedule.last_at(max(0, stream.newest_pts_us))
        return self.track_changes() + [
            TrackChange(track_id=number, state="end", seq=last, pts_us=stream.schedule.keyframe(last).pts_us)
            for number in stream.tracks.end()
        ]

    # -- events

    def be_watched(self, watched: WatchedStream, on_end: Callable[[WatchedStream], Awaitable[None]]) -> None:
        """Have its results looked at; ``on_end`` is told once no more come. Before its first frame."""
        self.watched, self._on_watch_end = watched, on_end
        self.stream.tracks = Tracks(watched.first_track)
        watched.tell = self._take_event

    async def end_watch(self) -> None:
        """No more results come: what is open of its events ends, and that is told when this returns."""
        on_end, self._on_watch_end = self._on_watch_end, None
        if on_end is not None and self.watched is not None:
            await on_end(self.watched)

    def _take_event(self, event: Event) -> None:
        self._events.append(event)
        self._event_came.set()

    @property
    def next_event(self) -> Event | None:
        """The first that waits for its subscriber."""
        return self._events[0] if self._events else None

    def event_told(self, event: Event) -> None:
        """That one is with its subscriber."""
        if self.next_event is event:  # it may have given way meanwhile
            self._events.popleft()

    async def event_came(self) -> None:
        """Until one may have."""
        await self._event_came.wait()
        self._event_came.clear()

    def _deliver(self, pending: Pending) -> None:
        """A keyframe is settled."""
        if self.context.clips is not None and pending.result is not None:
            self.context.clips.note(pending.result.received_at_us, pending.result.pts_us)
        if self.watched is not None and pending.result is not None:
            try:
                self.watched.see(pending.result)
            except Exception:  # whatever it was, it is no reason to end the engine's round
                log.exception("the rules of stream %d have missed a result", self.stream.id)
        self._results.add(self.stream, pending)
        if pending.outcome == "ok":
            try:
                self.caller.spend_keyframe()
            except CapacityError as error:  # not from within the engine's round, which settles others yet
                asyncio.get_running_loop().call_soon(self.cut, error)
        if pending.outcome in ("error", "worker_lost"):
            self.warnings.append(f"keyframe {pending.keyframe.seq} failed ({pending.outcome})")
        self.context.room.set()

    def abort(self) -> None:
        """The subscriber is gone: everything on its way is cancelled, ``results`` ends."""
        self.aborted = True
        self._engine.cancel(self.stream)
        self._results.wake()

    def cut(self, error: StmixerError) -> None:
        """The service ends before this stream: what is not done is cancelled, and ``results`` says why."""
        if self.stream.finished and self._interruptible is None:
            return
        self.error = self.error or error
        if self.source is not None:
            self.source.stop()  # no more frames, which would bring new keyframes
        self._engine.cancel(self.stream)
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
            if self.error is None or task is None:
                raise
            task.uncancel()
            raise self.error from None
        finally:
            self._interruptible = None

    @property
    def warnings(self) -> list[str]:
        """What was odd, in words; grows."""
        return self.context.warnings

    def summary(self) -> Summary:
        """The counts so far; the last ones, which add up, once the stream has finished and nothing more is sent."""
        if self.stream.finished:
            self.context.counts.cut("cancelled")
        return self.stream.snapshot()

    def running(self) -> RunningStream:
        """What the list of streams says of it."""
        stream = self.stream
        return RunningStream(
            id=str(stream.id), source=stream.source, policy=stream.policy, keyframe_hz=stream.schedule.hz,
            key=self.caller.name or None, seconds=round(time.monotonic() - self._started, 3),
            summary=stream.snapshot(),
        )  # fmt: skip

    def _fail(self, error: StmixerError) -> None:
        """The source cannot go on. What is complete still runs."""
        self.error = error
        self._engine.end(self.stream, time.monotonic())

    def _finish(self, warnings: Sequence[str]) -> None:
        """The source has come to its end."""
        self.context.warnings += warnings
        self._engine.end(self.stream, time.monotonic())

    def _log_end(self, error: BaseException | None) -> None:
        """The stream's line: how it ended (finished, disconnected, or the code of what ended it), and every count."""
        cause = error or self.error
        ended = "finished" if cause is None else str(getattr(cause, "code", type(cause).__name__))
        seconds, stream = round(time.monotonic() - self._started, 3), self.stream
        told = fields(
            stream=stream.id, source=stream.source, key=self.caller.name or None,
            ended="disconnected" if self.aborted else ended, seconds=seconds,
            summary=stream.snapshot().model_dump(), warnings=len(self.warnings),
        )  # fmt: skip
        log.info("stream ended", extra=told)
