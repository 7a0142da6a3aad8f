"""A stream that the service fetches: nobody's socket holds it, whoever likes follows what it says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from stmixer.service.access import Caller
from stmixer.service.errors import StmixerError
from stmixer.service.event_schemas import Event
from stmixer.service.schemas import FrameSize, Pulled, RunningStream, TrackChange
from stmixer.service.sessions.backlog import Backlog
from stmixer.service.sessions.preview import Preview
from stmixer.service.sessions.session import Session
from stmixer.service.sources.easel import Easel
from stmixer.service.sources.pulled import PulledSource, PullTerms
from stmixer.service.sources.source import cancelled
from stmixer.service.sources.trouble import Trouble
from stmixer.service.stream_messages import (
    EventMessage,
    FollowedStatus,
    FollowedSummary,
    RestartedMessage,
    WarningMessage,
)

log = logging.getLogger("stmixer.pulled")

LAST_RESULTS_S = 10.0
"""How long what is on its way may take where a stream begins anew; what is not there by then is cancelled."""

After = Callable[[Session, str], Awaitable[Session]]
"""Makes the session that follows one which has just been closed, with its number, place and rules; the name of its
model."""


class PulledStream:
    """``backlog``: its results, tracks, warnings and states, as JSON; ``preview``: what it looks like.

    ``session`` is another one where the default model has changed to one that cannot go on with its stream: with
    ``after`` it then begins anew. Who follows goes on following.
    """

    def __init__(
        self, session: Session, terms: PullTerms, name: str | None, easel: Easel, after: After | None = None
    ) -> None:
        self.session, self.name = session, name
        self._terms, self._after = terms, after
        self.backlog = Backlog()
        self.preview = Preview(
            session.stream, easel, trained=session.context.engine.models.of(session.stream).info.trained
        )
        self._source = PulledSource(session.context, terms, self._tell_state)
        self._telling: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._between = asyncio.Lock()
        """Held while it has neither session nor end: nobody ends it then."""
        self._goes_on = False
        """Whether what ends now is only its session."""
        self._end_told = False
        self.moved = False
        """Whether it goes on elsewhere, and has only ended here."""
        self._freshness_ms: float | None = None
        self._capture_age_ms: float | None = None

    @property
    def id(self) -> int:
        """Its stream's."""
        return self.session.stream.id

    async def open(self) -> None:
        """Begin; how that goes is its state."""
        await self._begin()
        if self._after is not None:
            self._keeping = asyncio.create_task(self._keep_up(self._after))

    async def _begin(self) -> None:
        if self.session.watched is not None:
            self.session.watched.tell = self._tell_event
        self._telling = asyncio.create_task(self._tell())
        await self.session.open(self._source)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of its source."""
        return self._source.state == "ended"

    async def close(self, error: BaseException | None = None, *, moves: bool = False) -> None:
        """End it, whatever it is at; whoever follows comes to an end as well, without a last word where it moves."""
        self.moved = moves
        async with self._between:
            await cancelled(self._keeping)
        self._goes_on = False
        try:
            await self.preview.close()
            await self._source.close()  # first: its decoder would answer for a stream that is cut
        finally:
            self.session.abort()
            try:
                await self.session.close(error)
            finally:
                if self._telling is not None:
                    self._telling.cancel()
                    await asyncio.gather(self._telling, return_exceptions=True)
                self._tell_end()
                self.backlog.close()

    def running(self) -> RunningStream:
        """What the list of streams says of it."""
        source, stream, trouble = self._source, self.session.stream, self._source.trouble
        newest = None if stream.newest is None else stream.newest.frame.size
        frame = None
        if stream.frame_width:
            width, height = (newest.width, newest.height) if newest else (stream.frame_width, stream.frame_height)
            frame = FrameSize(width=width, height=height)
        silent_ms = None if source.picture_at is None else round((time.monotonic() - source.picture_at) * 1000, 1)
        pulled = Pulled(
            name=self.name, url=str(self._terms.url), state=source.state, since_us=round(source.since * 1e6),
            error=None if trouble is None else str(trouble), code=None if trouble is None else trouble.reason,
            attempts=source.attempts, reconnects=source.reconnects, silent_ms=silent_ms,
            freshness_ms=self._freshness_ms, capture_age_ms=self._capture_age_ms, frame=frame,
            codec=self.session.context.codec or None,
        )  # fmt: skip
        return self.session.running().model_copy(update={"pulled": pulled})

    # -- what it says

    async def _tell(self) -> None:
        session = self.session
        try:
            async for result in session.results():
                captured, sent = result.capture_at_us, result.sent_at_us
                self._freshness_ms = round((sent - result.received_at_us) / 1000, 1)
                self._capture_age_ms = None if captured is None else round((sent - captured) / 1000, 1)
                self._tell_tracks(session.track_changes())
                self.backlog.add("result", '{"type":"result",' + result.model_dump_json()[1:])
                self._tell_notices()
                self.preview.wake()
            self._tell_tracks(session.last_track_changes())
        except StmixerError:
            pass  # its source says what was wrong
        except Exception as error:
            log.error("what stream %d says", self.id, exc_info=error)
            raise
        self._tell_notices()
        if session.error is not None:  # cut from above: over its key's limits, for one
            self._source.fail(Trouble.of(session.error))
        await self._source.end()  # nothing is on its way any more where counts are made to add up
        await self.session.end_watch()
        self._tell_end()

    def _tell_end(self) -> None:
        """The last word, once: by itself where its source has ended, otherwise when it is ended."""
        if self._end_told or self.moved or self._goes_on:
            return
        self._end_told = True
        said = FollowedSummary(summary=self.session.summary(), warnings=self.session.warnings)
        self.backlog.add("summary", said.model_dump_json())

    def _tell_tracks(self, changes: list[TrackChange]) -> None:
        for change in changes:
            self.backlog.add("track", '{"type":"track",' + change.model_dump_json()[1:])

    def _tell_event(self, event: Event) -> None:
        self.backlog.add("event", EventMessage(event=event).model_dump_json())

    def _tell_notices(self) -> None:
        notices = self.session.context.notices
        while notices:
            code, message = notices.popleft()
            self.backlog.add("warning", WarningMessage(code=code, message=message).model_dump_json())

    def _tell_state(self) -> None:
        source, trouble = self._source, self._source.trouble
        error = None if trouble is None or source.state == "live" else str(trouble)
        self._tell_notices()
        self.backlog.add("status", FollowedStatus(state=source.state, error=error).model_dump_json())

    # -- another model

    async def _keep_up(self, after: After) -> None:
        """Begin anew each time that it is outdated."""
        while True:
            await self.session.outdated.wait()
            if not self.session.begins_anew():
                continue
            self._goes_on = True
            try:
                await self._finish()
                if self.session.error is not None:  # cut from above meanwhile: over its key's limits, for one
                    break
                async with self._between:
                    await self._begin_anew(after)
            except Exception as error:
                log.error("stream %d does not begin anew", self.id, exc_info=error)
                self._source.fail(Trouble("internal", "it could not begin anew; the service's log says why"))
                break
        self._goes_on = False
        self._tell_end()

    async def _finish(self) -> None:
        """No more frames; what is on its way still comes, and is told."""
        assert self._telling is not None
        await self._source.close()
        context = self.session.context
        context.engine.end(context.stream, time.monotonic())
        context.changed()
        done, _ = await asyncio.wait({self._telling}, timeout=LAST_RESULTS_S)
        if not done:
            self.session.abort()
            await asyncio.wait({self._telling})

    async def _begin_anew(self, after: After) -> None:
        former = self.session
        await self.preview.turn_to(None)
        model = former.context.engine.models.of(former.stream).name
        await former.close()
        counts, warnings = former.summary(), former.warnings
        session = self.session = await after(former, model)
        self._source = PulledSource(session.context, self._terms, self._tell_state)
        self._freshness_ms, self._capture_age_ms, self._goes_on = None, None, False
        said = RestartedMessage(summary=counts, warnings=warnings, **session.looked_at())
        self.backlog.add("restarted", said.model_dump_json())
        trained = session.context.engine.models.of(session.stream).info.trained
        await self.preview.turn_to(session.stream, trained=trained)
        await self._begin()


class PulledStreams:
    """All of them, by the ids of their streams."""

    def __init__(self) -> None:
        self._streams: dict[int, PulledStream] = {}

    async def add(self, stream: PulledStream) -> None:
        """Take up one and begin with it."""
        self._streams[stream.id] = stream
        try:
            await stream.open()
        except BaseException:
            await self.remove(stream)
            raise

    async def remove(self, stream: PulledStream, error: BaseException | None = None, *, moves: bool = False) -> None:
        """End one and forget it; ``moves``: it goes on elsewhere."""
        if self._streams.pop(stream.id, None) is not None:
            await stream.close(error, moves=moves)

    def find(self, number: int, caller: Caller) -> PulledStream | None:
        """One by its id, if this caller may see it."""
        found = self._streams.get(number)
        if found is None or not (caller.sees_all or found.session.caller.is_same(caller)):
            return None
        return found

    def all(self) -> list[PulledStream]:
        """Those that there are."""
        return list(self._streams.values())

    async def end_lapsed(self) -> None:
        """Those whose key is no longer good."""
        await asyncio.gather(*(self.remove(s) for s in self.all() if s.session.caller.lapsed.is_set()))

    async def close(self) -> None:
        """End all of them, whatever goes wrong with one."""
        ends = await asyncio.gather(*(self.remove(stream) for stream in self.all()), return_exceptions=True)
        for error in ends:
            if isinstance(error, Exception):
                log.error("the end of a pulled stream", exc_info=error)
