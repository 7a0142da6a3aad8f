"""``GET /v1/streams/ws``: a camera in, results out, live (protocol ``stmixer.v1``).

One task reads the socket, one writes results, one watches the time; the stream's source feeds its decoder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Coroutine, Sequence
from enum import Enum, auto
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from stmixer.service.access import Caller, bearer
from stmixer.service.api import protocol
from stmixer.service.api.json_socket import JsonSocket, refusing
from stmixer.service.api.media_clock import MediaClock
from stmixer.service.api.problems import problem, problems_of
from stmixer.service.api.protocol import Evicted, Flush, ProtocolError, Start, Stop, Update
from stmixer.service.api.service import Service
from stmixer.service.errors import CapacityError, InputError, StmixerError
from stmixer.service.schemas import DetectOptions, TrackChange
from stmixer.service.sessions.resume import ResumableStream
from stmixer.service.sessions.session import Session
from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.mailbox import Closed
from stmixer.service.sources.pictures import PictureSource
from stmixer.service.sources.source import FlushMark, LiveSource
from stmixer.service.stream_messages import EventMessage, GoawayMessage, StatusMessage, SummaryMessage, WarningMessage

router = APIRouter()
log = logging.getLogger("stmixer.ws")

STATUS_PERIOD_S = 5.0
UPGRADE = problems_of(426)
_FOR_GOOD = (1000, 1001, 1002, 1007, 1009)
"""What a socket was closed with whose client does not come back to its stream: it said goodbye, a page was left, or
what it sent was no WebSocket message, no text, or too large, which ends the stream as any other breach does."""
_CLOSE_OF = {"over_limit": protocol.CLOSE_OVERLOADED, "capacity": protocol.CLOSE_CAPACITY}
"""By the code of what ended a stream early; the protocol's for all else."""
_NO_BEGINNING = ("unreadable", "no_video", "no_frames")
"""What is wrong with a container that is joined in its middle, until its next beginning."""


@router.get("/v1/streams/ws", status_code=426, response_model=None, responses=UPGRADE)
async def not_a_socket() -> Response:
    """Speaks WebSocket. What is asked without, or through a proxy that takes that out, is told so."""
    detail = (
        "this address speaks WebSocket: connect to it with ws:// or wss://; a proxy on the way has to pass the headers "
        "Upgrade and Connection on"
    )
    return problem(426, "upgrade_required", detail, {"Upgrade": "websocket", "Connection": "Upgrade"})


@router.websocket("/v1/streams/ws")
async def stream_ws(socket: WebSocket) -> None:
    """Start, media, results, stop; see docs/protocol.md."""
    service: Service = socket.app.state.service
    offered = socket.scope.get("subprotocols") or []
    await socket.accept(protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in offered else None)
    connection = Connection(service, socket)
    try:
        async with refusing(connection.out):
            await connection.run()
    except StmixerError as error:
        retryable = connection.may_be_joined and error.code in _NO_BEGINNING
        await connection.out.refuse(error.code, str(error), protocol.CLOSE_PROTOCOL, retryable=retryable)


class Phase(Enum):
    """Where a connection is."""

    WAITING = auto()
    """For the client's next media."""
    TAKING = auto()
    """Media, which may have to wait for room."""
    STOPPED = auto()
    """By its client: no more media comes."""
    LEAVING = auto()
    """Stopped by us, because the service ends."""
    BEGINNING_ANEW = auto()
    """Stopped by us, because another model is the default, which cannot go on with the stream."""


NO_MORE_MEDIA = (Phase.STOPPED, Phase.LEAVING, Phase.BEGINNING_ANEW)


class Connection:
    """One socket."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket, self._settings = service, socket, service.settings
        self.out = JsonSocket(socket, self._settings.write_timeout_s)
        self._phase = Phase.WAITING
        self._flushes: asyncio.Queue[FlushMark] = asyncio.Queue()
        self.may_be_joined = False
        """Whether its media is a container, which may be joined in its middle."""

    async def run(self) -> None:
        """From ``start`` to ``summary``."""
        secret = bearer(dict(self._socket.scope["headers"]))
        if secret is not None:  # a wrong one need not wait for its start
            self._service.access.caller(secret)
        start = await self._start()
        self.may_be_joined = start.codec != "jpeg"
        caller = self._caller(secret if start.api_key is None else start.api_key)
        self._socket.scope["state"].get(protocol.HAS_BEGUN, nobody_asks)(live=True)
        self._service.events.check(start.rules)
        kept = await self._resumed(start, caller)
        resumed = kept is not None
        if kept is None:
            session = await self._service.session(
                caller, "ws", start.policy, start.options(), start.deadline_ms, rules=start.rules
            )
            kept = self._service.resumable.add(session, start.terms())
        keep = False
        ended_by: BaseException | None = None
        try:
            await self._stream(kept, start, resumed=resumed)
        except (WebSocketDisconnect, Evicted) as error:
            keep, ended_by = self._phase not in NO_MORE_MEDIA and _may_come_back(error), error
            raise
        except BaseException as error:
            ended_by = error
            raise
        finally:
            await self._service.resumable.let_go(kept, keep=keep, error=ended_by)
        match self._phase:
            case Phase.LEAVING:
                await self.out.close(protocol.CLOSE_GOING_AWAY, "the service is shutting down")
            case Phase.BEGINNING_ANEW:
                await self.out.close(protocol.CLOSE_RESTART, "another model serves: connect again")
            case Phase.STOPPED:
                await self.out.close(protocol.CLOSE_NORMAL, "stopped")
            case _:
                raise _early_end(kept.session)

    async def _resumed(self, start: Start, caller: Caller) -> ResumableStream | None:
        """The stream of the client's token. Raises ProtocolError where it asks for something else of it."""
        if start.resume_token is None:
            return None
        if self._service.engine.entry.draining:
            raise CapacityError("draining", "the service is shutting down; try another instance")
        kept = self._service.resumable.find(start.resume_token, caller)
        if kept is None:
            return None
        if kept.terms != start.terms():
            names = ", ".join(protocol.TERMS)
            raise ProtocolError(
                "bad_message", f"a resumed stream keeps its {names}; without resume_token it is a new one"
            )
        if kept.session.watched is not None and "rules" in start.model_fields_set:
            await self._service.set_rules(kept.session, start.rules)
        if not await self._service.resumable.take(kept):
            return None
        kept.session.update(start.options())
        return kept

    async def _stream(self, kept: ResumableStream, start: Start, *, resumed: bool) -> None:
        session = kept.session
        await self.out.send(protocol.ready(kept, self._settings))
        if start.resume_token is not None and not resumed:
            await self._warn("resume_expired", "this is a new stream")
        media = MediaClock(self._settings.idle_timeout_s, container=self.may_be_joined)
        source = kept.source
        if resumed and source is not None:
            await source.resume()
        else:
            kept.source = source = _source(session, start)
            await session.open(source)
        try:
            await until(
                self._write(session), self._read(session, source, media), self._answer_flushes(session),
                self._tell_events(session), self._watch(session, source, media), _evicted(kept), _lapsed(session),
            )  # fmt: skip
        except (WebSocketDisconnect, Evicted):
            source.interrupt()
            raise
        await session.end_watch()
        await self._tell_waiting_events(session)
        await self._tell_notices(session)
        await self.out.send(SummaryMessage(**session.summary().model_dump(), warnings=session.warnings))

    def _caller(self, secret: str | None) -> Caller:
        caller = self._service.access.caller(secret)
        caller.allow(self._service.live_scope)
        caller.spend_request()
        return caller

    # -- start

    async def _start(self) -> Start:
        text = await self.out.first(self._settings.start_timeout_s)
        message = protocol.parse(text)
        if not isinstance(message, Start):
            raise ProtocolError("no_start", f"the first message must be start, not {message.type}")
        if message.codec != "jpeg" and message.timestamps == "prefix":
            raise ProtocolError("bad_message", "timestamps: prefix goes with codec jpeg; containers carry their own")
        return message

    # -- media in

    async def _read(self, session: Session, source: LiveSource, media: MediaClock) -> None:
        """Media to the source, orders to the session; after ``stop`` only the socket's end matters, and
        where it is to begin anew ``stop``.

        Raises ProtocolError for media that is too large, malformed, or too much for too long.
        """
        limit = self._settings.max_frame_bytes
        try:
            while True:
                received = await self._socket.receive()
                if received["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(received.get("code", 1006))
                data = received.get("bytes")
                if self._phase in NO_MORE_MEDIA:
                    if self._phase is Phase.BEGINNING_ANEW and data is None and _is_stop(received["text"]):
                        self._phase = Phase.STOPPED  # then it need not connect again
                    continue
                if data is None:
                    session.caller.spend_request()
                    session.caller.spend_bytes(len(received["text"]))
                    await self._obey(protocol.parse(received["text"]), session, source)
                    continue
                if len(data) > limit:
                    raise ProtocolError("too_large", f"a message may have {limit} bytes", protocol.CLOSE_TOO_LARGE)
                self._phase = Phase.TAKING
                session.caller.spend_bytes(len(data))
                with contextlib.suppress(Closed):  # we have begun to leave while it waited for room
                    await source.take(data)
                media.came(len(data))
                if self._phase is Phase.TAKING:
                    self._phase = Phase.WAITING
        except CapacityError as error:
            raise ProtocolError(error.code, str(error), protocol.CLOSE_OVERLOADED, retryable=True) from None
        except InputError as error:
            raise ProtocolError(error.code, str(error)) from None

    async def _obey(self, message: protocol.ClientMessage, session: Session, source: LiveSource) -> None:
        """What a running stream's client says besides its media."""
        match message:
            case Stop():
                self._phase = Phase.STOPPED
                await source.ended()
            case Flush():
                with contextlib.suppress(Closed):
                    self._flushes.put_nowait(await source.flush())
            case Update() as update:
                options = session.stream.options.model_dump() | update.changes()
                session.update(DetectOptions.model_validate(options))
            case Start():
                raise ProtocolError("bad_message", "start was sent already")

    # -- results out

    async def _write(self, session: Session) -> None:
        async for result in session.results():
            await self._tell_tracks(session.track_changes())
            await self.out.send_text('{"type":"result",' + result.model_dump_json()[1:])

        await self._tell_tracks(session.last_track_changes())

    async def _tell_tracks(self, changes: Sequence[TrackChange]) -> None:
        for change in changes:
            await self.out.send_text('{"type":"track",' + change.model_dump_json()[1:])

    async def _tell_events(self, session: Session) -> None:
        while True:
            await self._tell_waiting_events(session)
            await session.event_came()

    async def _tell_waiting_events(self, session: Session) -> None:
        while (event := session.next_event) is not None:
            await self.out.send(EventMessage(event=event))
            session.event_told(event)

    async def _answer_flushes(self, session: Session) -> None:
        while True:
            await (await self._flushes.get())
            await self._send_status(session)

    async def _watch(self, session: Session, source: LiveSource, media: MediaClock) -> None:
        """Status now and then; the end of a stream whose media has stopped, or of a draining service."""
        last_status, told_to_go = time.monotonic(), False
        while not session.stream.finished:
            await asyncio.sleep(min(0.25, self._settings.idle_timeout_s / 4))
            now = time.monotonic()
            if now - last_status >= STATUS_PERIOD_S:
                last_status = now
                await self._send_status(session)
            await self._tell_notices(session)
            if self._service.engine.entry.draining:
                left_s = self._service.live_time_left_s
                if math.isfinite(left_s) and not told_to_go:
                    told_to_go = True
                    await self.out.send(GoawayMessage(time_left_ms=max(0, round(left_s * 1000))))
                if left_s <= 0 and self._phase not in NO_MORE_MEDIA:  # in time, as if the client had
                    self._phase = Phase.LEAVING
                    await source.ended()
            if session.begins_anew() and self._phase not in NO_MORE_MEDIA:
                self._phase = Phase.BEGINNING_ANEW
                default = self._service.engine.models.default.name
                said = f"{default} serves now, and cannot go on with this stream: connect again"
                await self._warn("model_changed", said)
                await source.ended()
            waits = self._phase is Phase.WAITING and not session.stream.ended  # for the client, not it for us
            if waits and (why := media.overdue(session.stream.snapshot())) is not None:
                raise ProtocolError("no_media", why, protocol.CLOSE_NO_MEDIA, retryable=True)

    async def _send_status(self, session: Session) -> None:
        await self.out.send(StatusMessage(summary=session.summary()))

    async def _tell_notices(self, session: Session) -> None:
        notices = session.context.notices
        while notices:
            await self._warn(*notices.popleft())

    async def _warn(self, code: str, message: str) -> None:
        await self.out.send(WarningMessage(code=code, message=message))


def _source(session: Session, start: Start) -> LiveSource:
    """The source of this kind of media."""
    if start.codec == "jpeg":
        return PictureSource(session.context, stamped=start.timestamps == "prefix")
    return ContainerSource(session.context, codec=start.codec)


def _is_stop(text: str) -> bool:
    """Of somebody who is not listened to any more."""
    try:
        return isinstance(protocol.parse(text), Stop)
    except ProtocolError:
        return False


async def _evicted(kept: ResumableStream) -> None:
    await kept.evicted.wait()
    raise Evicted


async def _lapsed(session: Session) -> None:
    await session.caller.lapsed.wait()
    session.caller.check()


def _may_come_back(error: Exception) -> bool:
    """Not a client that said goodbye, or broke the protocol."""
    return not (isinstance(error, WebSocketDisconnect) and error.code in _FOR_GOOD)


def _early_end(session: Session) -> ProtocolError:
    """Why a stream ended that the client did not stop: its media did."""
    if session.error is not None:
        close = _CLOSE_OF.get(session.error.code, protocol.CLOSE_PROTOCOL)
        return ProtocolError(session.error.code, str(session.error), close, retryable=True)
    return ProtocolError("unreadable", "; ".join(["the media ended before stop", *session.warnings]), retryable=True)


def nobody_asks(*, live: bool = False) -> None:
    """Of a server that does not count connections."""


async def until(main: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]) -> None:
    """Until ``main`` has ended or any of them has failed; ``others`` are cancelled then."""
    ending = asyncio.ensure_future(main)
    tasks = waiting = {ending, *map(asyncio.ensure_future, others)}
    try:
        while ending in waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
