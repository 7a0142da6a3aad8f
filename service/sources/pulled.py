"""A source that the service fetches: attempt after attempt, watched, until it is told to stop.

    connecting → live → stalled → reconnecting → live …

A file that is played once has ended, what no attempt can mend has failed. What an attempt does is its kind's
(``camera``, ``web_stream``, ``played_file``, ``device``). The stream, its ring, numbers and counts live on from one to
the next, and the pause is a gap like any other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from stmixer.service.errors import StmixerError
from stmixer.service.ipc.channel import ChannelError
from stmixer.service.logs import fields
from stmixer.service.pulled_url import DEVICE, FILE, PulledUrl
from stmixer.service.sources.camera import CameraSource, Way
from stmixer.service.sources.context import SourceContext
from stmixer.service.sources.device import DeviceSource
from stmixer.service.sources.patience import STUCK_S
from stmixer.service.sources.played_file import PlayedFile
from stmixer.service.sources.source import cancelled
from stmixer.service.sources.trouble import Backoff, Trouble
from stmixer.service.sources.web_stream import WebSource

log = logging.getLogger("stmixer.pulled")

PullState = Literal["connecting", "live", "stalled", "reconnecting", "ended", "failed"]
LOOK_S = 0.25
AGAIN_S = 1.0
"""From one beginning of a file that is played for ever to the next, at least."""
MOST_WARNINGS = 100
"""Of a source that lasts for ever, the newest."""


class Fetcher(Protocol):
    """A kind: ``fetch`` is one attempt, which may go on after it has returned; ``leave`` ends it.

    ``begun`` is to be called once somebody reads, from when on pictures are waited for. While it ``owes`` the source
    has said something that its decoder does not take: that one is given up (``patience``), and the source not silent.
    """

    @property
    def owes(self) -> bool: ...

    async def fetch(self, begun: Callable[[], None]) -> None: ...
    async def leave(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PullTerms:
    """What is fetched, and under which conditions. ``way``: to what is on a network; ``folder``: of ``--allow-files``;
    ``devices``: of ``--allow-devices``; ``silent_s``: how long no picture may come; the first of a connection may take
    twice as long."""

    url: PulledUrl
    way: Way
    folder: Path | None = None
    loop: bool = False
    silent_s: float = 10.0
    devices: tuple[str, ...] = ()


class PulledSource:
    """See the module. A ``FrameSource``; ``changed`` is told that ``state`` or ``trouble`` is another.

    ``since``: epoch s at which the state began; ``trouble``: what was wrong last; ``attempts`` and ``reconnects`` count
    those that began, and those that had pictures again; ``picture_at``: monotonic s of the last look that found one.
    """

    def __init__(self, context: SourceContext, terms: PullTerms, changed: Callable[[], None]) -> None:
        self._context, self._terms, self._changed = context, terms, changed
        self.state: PullState = "connecting"
        self.since = time.time()
        self.trouble: Trouble | None = None
        self.attempts = self.reconnects = 0
        self.picture_at: float | None = None
        self._told = ""
        self._end_stream, self._finish_stream = context.fail, context.finish
        context.fail, context.finish = self._source_failed, self._source_ended
        self._over, self._begun = asyncio.Event(), asyncio.Event()
        self._seen_us = -1
        self._outcome: Trouble | None = None
        self._running: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._fetcher = self._kind()

    @property
    def _is_file(self) -> bool:
        return self._terms.url.scheme == FILE

    def _kind(self) -> Fetcher:
        terms, context = self._terms, self._context
        if self._is_file:
            return PlayedFile(context, terms.folder, terms.url.target.lstrip("/"))
        if terms.url.scheme == DEVICE:
            return DeviceSource(context, terms.devices, terms.url.target)
        kind = CameraSource if terms.url.scheme in ("rtsp", "rtsps") else WebSource
        return kind(context, terms.url, terms.way, terms.silent_s)

    # -- a source's verbs

    async def open(self) -> None:
        """Begin with the first attempt; what comes of it is told by ``state``."""
        self._context.engine.metrics.pulled_streams.labels(self.state).inc()
        self._running = asyncio.create_task(self._run())

    def interrupt(self) -> None:
        """It has no client."""

    async def resume(self) -> None:
        """It was never interrupted."""

    async def ended(self) -> None:
        """It ends when it is told to."""

    def stop(self) -> None:
        """Take no more frames."""
        if self._running is not None:
            self._running.cancel()

    async def end(self) -> None:
        """End what it is at, and free that; its state stays, and is counted."""
        try:
            await cancelled(self._running)
        finally:
            await self._fetcher.close()

    async def close(self) -> None:
        """End it, whatever it is at, and free everything."""
        try:
            await self.end()
        finally:
            if self._running is not None:
                self._context.engine.metrics.pulled_streams.labels(self.state).dec()
                self._running = None

    # -- attempts

    async def _run(self) -> None:
        try:
            while True:
                began = time.monotonic()
                trouble = await self._attempt()
                if trouble is not None:
                    if self._is_file and trouble.reason not in ("decoder", "capacity"):
                        self.fail(trouble)
                        return
                    await self._wait_after(trouble, began)
                elif self._terms.loop:
                    await asyncio.sleep(max(0.0, began + AGAIN_S - time.monotonic()))
                else:
                    self._turn("ended")
                    self._finish_stream(())
                    self._context.changed()
                    return
        except Exception as error:
            log.error("the source of stream %d", self._context.stream.id, exc_info=error)
            self.fail(Trouble("internal", "an error in the service itself; its log says which"))
        finally:
            await self._fetcher.close()

    def fail(self, trouble: Trouble) -> None:
        """Nothing can mend it."""
        if self.state in ("ended", "failed"):
            return
        self.trouble = trouble
        self._turn("failed")
        self._end_stream(StmixerError(trouble.reason, str(trouble), 422))
        self._context.changed()

    async def _attempt(self) -> Trouble | None:
        """One, from connecting to its end: what ended it; None where it came to its own end, as a file does."""
        self.attempts += 1
        self._over.clear()
        self._begun.clear()
        self._outcome, self._seen_us = None, self._context.stream.newest_pts_us
        fetching, watching = asyncio.create_task(self._fetched()), asyncio.create_task(self._watch())
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({watching, over}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                self._outcome = watching.result()
        finally:
            await cancelled(fetching, watching, over)
            await self._fetcher.leave()
        self._look()
        if self._outcome is None and not self._is_file:
            return Trouble("ended", "the source ended the stream")
        return self._outcome

    async def _fetched(self) -> None:
        """What goes wrong while it is fetched ends the attempt."""
        try:
            await self._fetcher.fetch(self._begun.set)
        except Trouble as trouble:
            self._end(trouble)
        except StmixerError as error:
            self._end(Trouble.of(error))
        except ChannelError as error:
            self._end(Trouble("decoder", f"its decoder ended ({error})"))
        except Exception as error:
            if not self._over.is_set():
                log.error("fetching stream %d", self._context.stream.id, exc_info=error)
            self._end(Trouble("internal", "an error in the service itself; its log says which"))

    def _end(self, outcome: Trouble | None) -> None:
        """The first word counts."""
        if not self._over.is_set():
            self._outcome = outcome
            self._over.set()

    def _source_failed(self, error: StmixerError) -> None:
        self._end(Trouble.of(error))

    def _source_ended(self, warnings: Sequence[str]) -> None:
        self._context.warnings += warnings
        self._end(None)

    async def _watch(self) -> Trouble:
        """Until no picture has come for too long. A file's come when it is their time."""
        await self._begun.wait()
        silent_s = math.inf if self._is_file else self._terms.silent_s
        last, limit = time.monotonic(), 2 * silent_s
        while True:
            await asyncio.sleep(min(LOOK_S, self._terms.silent_s / 4))
            now = time.monotonic()
            del self._context.warnings[:-MOST_WARNINGS]
            if self._look():
                last, limit = now, silent_s
            elif now - last > limit and (not self._fetcher.owes or now - last > limit + 2 * STUCK_S):
                return Trouble("silent", f"no picture for {now - last:.0f} s")

    def _look(self) -> bool:
        """Whether pictures have come since the last look, which could be decoded; then it is live."""
        newest_us = self._context.stream.newest_pts_us
        if newest_us == self._seen_us:
            return False
        self._seen_us, self.picture_at = newest_us, time.monotonic()
        if self.state != "live":
            self._backoff.succeeded()
            self._told = ""
            self.reconnects += self.state != "connecting"
            self._turn("live")
        return True

    async def _wait_after(self, trouble: Trouble, began: float) -> None:
        """Until the next attempt, after one that began at monotonic s ``began``."""
        self.trouble = trouble
        self._context.engine.metrics.pull_ended(trouble.reason)
        now = time.monotonic()
        wait_s = self._backoff.wait_s(trouble, now, now - began)
        told = fields(stream=self._context.stream.id, source=str(self._terms.url), reason=trouble.reason)
        level = logging.INFO if self._told == trouble.reason else logging.WARNING
        self._told = trouble.reason
        log.log(level, "%s; next attempt in %.0f s", trouble, wait_s, extra=told)
        if self.state == "live":
            self._turn("stalled" if trouble.reason == "silent" else "reconnecting")
        else:
            self._changed()
        await asyncio.sleep(wait_s)
        if self.state == "stalled":
            self._turn("reconnecting")

    def _turn(self, state: PullState) -> None:
        if self._running is not None:  # or it is counted no more
            gauge = self._context.engine.metrics.pulled_streams
            gauge.labels(self.state).dec()
            gauge.labels(state).inc()
        self.state, self.since = state, time.time()
        self._changed()
