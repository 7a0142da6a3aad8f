"""Clips of events: cut from the packets of the stream they happened in, kept with a picture of how they began.

A clip goes from some seconds before an event's start to some seconds after its end, or, of one that lasts, after
``LONGEST_S``. What the decoder cuts is the file, where browsers play such; else another decoder encodes it anew.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stmixer.service.errors import CapacityError, InputError
from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.clips import ClipStore, Kind, Part
from stmixer.service.ipc.messages import LONGEST_KEPT_S
from stmixer.service.logs import fields
from stmixer.service.metrics import Metrics
from stmixer.service.sessions.preview import Preview
from stmixer.service.sessions.session import Session
from stmixer.service.settings import Settings
from stmixer.service.sources.clip_desk import ClipDesk, ClipLost, CutBytes, CutClip, WantedClip
from stmixer.service.sources.decoder_pool import DecoderPool
from stmixer.service.sources.easel import Easel
from stmixer.service.sources.rendering import render
from stmixer.service.sources.source import cancelled

log = logging.getLogger("stmixer.clips")

LONGEST_S = 30.0
"""Of an event itself, that a clip shows."""
TOLD_AFTER_S = 10.0
"""How long after a moment its keyframe's result may come, and with it the word of an event."""
GIVEN_UP_S = 60.0
"""How much longer than it lasts a clip may be waited for."""
MOST_AT_A_TIME = 1024
"""Of all streams: four of them may have as many as one may (``clip_desk.MOST_WAITING``)."""
CLOSE_S = 5.0
"""How long what is on its way may take at a shutdown."""
TRIM_S = 3600.0
LATE_US = 500_000
"""A clip that begins so much later than it was to, or ends so much earlier, is a part of one."""


def kept_s(rules: Iterable[Rule]) -> float:
    """Seconds of a stream's packets that clips of these rules take; 0 where none has any."""
    longest = max(
        (
            rule.clip.pre_s + max(rule.for_s, LONGEST_S + rule.clip.post_s, LONGEST_S + rule.clear_s)
            for rule in rules if rule.clip is not None
        ),
        default=0.0,
    )  # fmt: skip
    return min(longest + TOLD_AFTER_S, float(LONGEST_KEPT_S)) if longest else 0.0


@dataclass(eq=False, slots=True)
class _Coming:
    """An event's clip on its way; ``from_us``, ``post_us``: by the stream's time."""

    desk: ClipDesk
    wanted: WantedClip
    from_us: int
    post_us: int


@dataclass(eq=False)
class EventClips:
    """A ``ClipKeeper``. ``find``: a stream's session by its number, where it runs."""

    store: ClipStore
    pool: DecoderPool
    easel: Easel
    settings: Settings
    metrics: Metrics
    find: Callable[[int], Session | None]
    _coming: dict[str, _Coming] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _encoding: asyncio.Lock = field(default_factory=asyncio.Lock)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _cut_bytes: CutBytes = field(default_factory=CutBytes)
    _trimming: asyncio.Task[None] | None = None
    _full: bool = False

    async def start(self) -> None:
        """Look at the folder, and again each hour for what has become too old. Raises StartError."""
        await asyncio.to_thread(self.store.open)
        self.metrics.event_clip_bytes.set(self.store.bytes)
        self._trimming = asyncio.create_task(self._trim())

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(TRIM_S)
            try:
                async with self._writing:
                    await asyncio.to_thread(self.store.trim)
                self.metrics.event_clip_bytes.set(self.store.bytes)
            except OSError as error:
                self._refused(error)

    async def close(self, within_s: float = CLOSE_S) -> None:
        """What can be kept at once still is."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=min(within_s, CLOSE_S))
        await cancelled(*self._tasks, self._trimming)

    # -- what is to be kept

    def watch(self, session: Session, rules: Iterable[Rule]) -> None:
        """Have its packets be kept as its rules want it."""
        seconds, context, stream = kept_s(rules), session.context, session.stream
        if context.clips is None:  # though no rule wants any yet: a decoder asks for nothing that comes later
            context.clips = ClipDesk(lambda: stream.newest_pts_us, among=self._cut_bytes)
        desk = context.clips
        desk.wished = seconds
        if seconds > desk.seconds or not self._is_wanted(desk):
            desk.keep(seconds)

    def _is_wanted(self, desk: ClipDesk) -> bool:
        """Whether clips are to come from what it keeps: of a rule that is gone, too."""
        return any(coming.desk is desk for coming in self._coming.values())

    def keep(self, event: Event, stream: int, pre_s: float, post_s: float) -> None:
        """An event has begun, or is over."""
        if event.state == "end":
            coming = self._coming.get(event.event_id)
            if coming is not None and event.ended_at_us is not None:
                ended_us = coming.desk.moment_of(event.ended_at_us)
                if ended_us is not None:
                    coming.desk.end_at(coming.wanted, ended_us + coming.post_us)
            return
        session = self.find(stream)
        try:
            if session is None or len(self._tasks) >= MOST_AT_A_TIME:
                raise ClipLost("ended" if session is None else "busy")
            coming = self._wanted(event, session, round(pre_s * 1e6), round(post_s * 1e6))
        except ClipLost as lost:
            self._lost(event, lost.reason)
            return
        self._coming[event.event_id] = coming
        task = asyncio.create_task(self._take(event, session, coming))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wanted(self, event: Event, session: Session, pre_us: int, post_us: int) -> _Coming:
        desk = session.context.clips
        began_us = None if desk is None else desk.moment_of(event.started_at_us)
        if desk is None or began_us is None:
            raise ClipLost("off")
        from_us = max(0, began_us - pre_us)
        return _Coming(desk, desk.want(from_us, began_us + round(LONGEST_S * 1e6) + post_us), from_us, post_us)

    async def _take(self, event: Event, session: Session, coming: _Coming) -> None:
        try:
            await self._take_thumbnail(event, session)
            clip = await self._cut(coming)
            await self._store(event, clip)
            part = clip.from_us > coming.from_us + LATE_US or clip.to_us < coming.wanted.to_us - LATE_US
            self.metrics.event_clips.labels("part" if part else "whole").inc()
            log.info(
                "clip of event %s: %.1f s%s", event.event_id, (clip.to_us - clip.from_us) / 1e6,
                ", a part of what was wanted" if part else "", extra=fields(rule=event.rule, codec=clip.codec),
            )  # fmt: skip
        except ClipLost as lost:
            self._lost(event, lost.reason)
        except asyncio.CancelledError:
            self._lost(event, "shutdown")
            raise
        except Exception:  # it is one clip
            log.exception("clip of event %s", event.event_id)
            self._lost(event, "internal")
        finally:
            coming.desk.let_go(coming.wanted)
            self._coming.pop(event.event_id, None)
            if not self._is_wanted(coming.desk):
                coming.desk.keep(coming.desk.wished)

    async def _cut(self, coming: _Coming) -> CutClip:
        """Raises ClipLost, also where the stream does not get on: a place here is not held for ever."""
        try:
            async with asyncio.timeout(LONGEST_S + coming.post_us / 1e6 + GIVEN_UP_S):
                return await coming.wanted.cut
        except TimeoutError:
            raise ClipLost("busy" if coming.desk.is_due(coming.wanted) else "ended") from None

    def _lost(self, event: Event, reason: str) -> None:
        self.metrics.clip_lost(reason)
        if reason != "disk":  # which is said once
            log.warning("no clip of event %s: %s", event.event_id, reason, extra=fields(rule=event.rule, reason=reason))

    # -- keeping it

    async def _take_thumbnail(self, event: Event, session: Session) -> None:
        """What the stream looks like now, with people drawn upon it, where that can be had."""
        preview = Preview(
            session.stream, self.easel, trained=session.context.engine.models.of(session.stream).info.trained
        )
        try:
            picture = await preview.newest()
            await self._written(event, "jpg", lambda part: _write_all(part.fd, picture))
        except (CapacityError, ClipLost) as error:
            log.info("no thumbnail of event %s: %s", event.event_id, error)
        except Exception:  # there may be a clip all the same
            log.exception("thumbnail of event %s", event.event_id)
        finally:
            await preview.close()

    async def _store(self, event: Event, clip: CutClip) -> None:
        if clip.plays:
            await self._written(event, "mp4", lambda part: _copy(clip, part.fd))
            return
        async with self._encoding:  # one after the other: it takes a core
            part = await self._begun(event, "mp4")
            try:
                with tempfile.TemporaryFile() as nothing_drawn:
                    await render(
                        self.pool, self.settings, self.metrics,
                        trained=True, source_fd=clip.fd, target_fd=part.fd, drawing_fd=nothing_drawn.fileno(),
                    )  # fmt: skip
            except (InputError, CapacityError) as error:
                await asyncio.to_thread(self.store.abandon, part)
                if error.code == "storage":
                    raise self._refused(OSError(errno.ENOSPC, str(error))) from None
                raise ClipLost("encoding") from None
            except BaseException:
                await asyncio.to_thread(self.store.abandon, part)
                raise
            await self._committed(part)

    async def _written(self, event: Event, kind: Kind, write: Callable[[Part], None]) -> None:
        part = await self._begun(event, kind)
        try:
            await asyncio.to_thread(write, part)
        except OSError as error:
            await asyncio.to_thread(self.store.abandon, part)
            raise self._refused(error) from None
        await self._committed(part)

    async def _begun(self, event: Event, kind: Kind) -> Part:
        try:
            return await asyncio.to_thread(self.store.begin, event.event_id, kind)
        except OSError as error:
            raise self._refused(error) from None

    async def _committed(self, part: Part) -> None:
        try:
            async with self._writing:
                there = await asyncio.to_thread(self.store.commit, part)
        except OSError as error:
            raise self._refused(error) from None
        self._full = False
        self.metrics.event_clip_bytes.set(self.store.bytes)
        if not there:
            raise ClipLost("too_large")

    def _refused(self, error: OSError) -> ClipLost:
        """The disk does not take it: said once, until it does again."""
        if not self._full:
            self._full = True
            log.error("clips of events cannot be stored: %s", error.strerror or error)
        return ClipLost("disk")


def _copy(clip: CutClip, target: int) -> None:
    at = 0
    while at < clip.size:
        sent = os.sendfile(target, clip.fd, at, clip.size - at)
        if sent == 0:
            raise OSError(errno.EIO, "the clip is shorter than it was")
        at += sent


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
