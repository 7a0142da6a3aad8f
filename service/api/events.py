"""Events that have been, and the rules of a stream, which may change while it runs."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import FileResponse, Response

from stmixer.service.access import Caller
from stmixer.service.api import problems
from stmixer.service.api.previews import JPEG, media
from stmixer.service.api.pulled import NOT_THERE, ONE
from stmixer.service.api.service import Service
from stmixer.service.errors import InputError
from stmixer.service.event_schemas import Events, Rules
from stmixer.service.events.clips import Kind
from stmixer.service.events.store import Wanted
from stmixer.service.sessions.session import Session

router = APIRouter()

Moment = Annotated[int | None, Query(ge=0, lt=2**63, description="epoch µs: those that began then or later")]
Place = Annotated[int | None, Query(ge=0, lt=2**63, description="`next` of the answer before")]
Change = Annotated[int | None, Query(ge=0, lt=2**63, description="`latest` of an answer: what has changed since")]
EVENT = "/v1/events/{event_id}"
EventId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Name = Annotated[str | None, Query(max_length=100)]


@router.get("/v1/events", responses=problems.problems_of(401, 403, 422, 429))
async def events(
    request: Request,
    stream: Name = None,
    rule: Name = None,
    since: Moment = None,
    before: Place = None,
    after: Change = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Events:
    """What has come of rules: each event as it is now, those whose start was told last first; with `after` those that
    have begun or changed since, the change that is longest ago first. Of one's own streams, and of everybody's with
    scope admin."""
    caller: Caller = request.state.caller
    caller.allow("stream")
    service: Service = request.app.state.service
    page = await service.events_page(Wanted(owner_seen(caller), stream, rule, since, before, after, limit))
    kept = service.clips is not None
    return Events(events=list(page.events), next=page.next, latest=page.latest, clips=kept)


@router.get(ONE + "/rules", responses=NOT_THERE)
async def rules(request: Request, stream_id: int) -> Rules:
    """The rules that a live stream has of its own."""
    session = await _live(request, stream_id)
    assert session.watched is not None
    return Rules(rules=session.watched.own)


@router.put(ONE + "/rules", responses=NOT_THERE | problems.problems_of(422))
async def set_rules(request: Request, stream_id: int, wanted: Rules) -> Rules:
    """Other rules from now on. What is open of one that is unchanged stays so; of others it ends."""
    session = await _live(request, stream_id)
    assert session.watched is not None
    service: Service = request.app.state.service
    service.events.check(wanted.rules)
    await service.set_rules(session, wanted.rules)
    return Rules(rules=session.watched.own)


@router.get(
    EVENT + "/clip.mp4", response_model=None, responses=media("video/mp4") | NOT_THERE | problems.problems_of(422)
)
async def clip(request: Request, event_id: EventId) -> Response:
    """What its stream showed from before its start on, where its rule asked for that; ranges work."""
    return await _kept(request, event_id, "mp4", "video/mp4")


@router.get(
    EVENT + "/thumbnail.jpg", response_model=None, responses=media(JPEG) | NOT_THERE | problems.problems_of(422)
)
async def thumbnail(request: Request, event_id: EventId) -> Response:
    """How it began, with people drawn upon it."""
    return await _kept(request, event_id, "jpg", JPEG)


async def _kept(request: Request, event_id: str, kind: Kind, media_type: str) -> Response:
    """Raises InputError (404), of somebody else's as of none."""
    caller: Caller = request.state.caller
    caller.allow("stream")
    service: Service = request.app.state.service
    known, owner = await service.events.event(event_id), owner_seen(caller)
    found = None if service.clips is None else await asyncio.to_thread(service.clips.store.find, event_id, kind)
    if found is None or known is None or owner not in (None, known[0]):
        raise InputError("not_found", "there is no such event, it has no clip (yet), or it is not yours", 404)
    return FileResponse(found, media_type=media_type)


def owner_seen(caller: Caller) -> str | None:
    """Whose events a caller sees (``StreamName``); None for everybody's."""
    if caller.sees_all:
        return None
    assert caller.key is not None
    return caller.key.sha256


async def _live(request: Request, stream_id: int) -> Session:
    """Raises InputError (404), of somebody else's as of none, or what ``Service.check_moving`` does."""
    caller: Caller = request.state.caller
    caller.allow("stream")
    service: Service = request.app.state.service
    session = service.live(stream_id, caller)
    if session is None:
        await service.check_moving(stream_id, caller)
        raise InputError("not_found", "there is no such live stream, or it is not yours", 404)
    return session
