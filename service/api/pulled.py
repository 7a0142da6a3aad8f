"""Streams that the service fetches: begin one, look at it, follow what it says, end it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.responses import JSONResponse, Response, StreamingResponse

from stmixer.service.access import TOKEN_S, Caller
from stmixer.service.api import problems
from stmixer.service.api.senders import count_decoder
from stmixer.service.api.service import Service
from stmixer.service.api.tokens import route_of, set_cookie
from stmixer.service.errors import InputError
from stmixer.service.schemas import PullOrder, RunningStream, Token, TokenOrder
from stmixer.service.sessions.backlog import Missing, Said
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.sources.source import cancelled

T = TypeVar("T")

router = APIRouter()

EVENTS = "text/event-stream"
QUIET_S = 15.0
"""After so long without a word a comment is sent, for proxies, which close what says nothing."""
LIVE_HEADERS = {"X-Accel-Buffering": "no"}
"""Of an answer that comes bit by bit."""
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {EVENTS: {"schema": {"type": "string"}}}}}
NOT_THERE = problems.problems_of(401, 403, 404, 429)


class _Number(IntegerConvertor):
    """A stream's: more digits than any has, and fewer than ``int`` refuses to read (4300)."""

    regex = "[0-9]{1,18}"


register_url_convertor("stream", _Number())
ONE = "/v1/streams/{stream_id:stream}"


@router.post("/v1/tokens", status_code=201, responses=problems.problems_of(401, 403, 422, 429))
async def token(request: Request, response: Response, order: TokenOrder | None = None) -> Token:
    """What stands for the key of those who can send no header: of events and pictures. With ``path`` a cookie, too."""
    request.state.caller.allow("stream")
    service: Service = request.app.state.service
    place = None if order is None else order.path
    made = service.access.token(request.state.caller, None if place is None else route_of(place))
    if place is not None:
        set_cookie(response, request.scope, made, place)
    return Token(token=made, expires_in_s=TOKEN_S)


@router.post(
    "/v1/streams",
    status_code=201,
    response_model=RunningStream,
    responses=problems.problems_of(401, 403, 422, 429, 503),
)
async def begin(request: Request, order: PullOrder) -> Response:
    """Fetch a stream from now on: a camera over RTSP, an HTTP stream, a file. How that goes is its ``state``."""
    service: Service = request.app.state.service
    caller: Caller = request.state.caller
    caller.allow("stream")
    stream = await service.begin_pulled(caller, order)
    count_decoder(request.scope)
    root = request.scope.get("root_path", "")
    headers = {"Location": f"{root}/v1/streams/{stream.id}"}
    return JSONResponse(stream.model_dump(mode="json"), 201, headers)


@router.get(ONE, responses=NOT_THERE)
async def one(request: Request, stream_id: int) -> RunningStream:
    """One that is fetched: its state, and in words what is wrong."""
    return (await found(request, stream_id)).running()


@router.delete(ONE, status_code=204, responses=NOT_THERE)
async def end(request: Request, stream_id: int) -> Response:
    """End it, whatever it is at."""
    request.state.caller.allow("stream")
    service: Service = request.app.state.service
    caller: Caller = request.state.caller
    stream = service.pulled.find(stream_id, caller)
    if stream is not None or not await service.end_waiting(stream_id, caller):
        await service.end_pulled(stream or await found(request, stream_id))
    return Response(status_code=204)


@router.get(
    ONE + "/events",
    response_model=None,
    responses=STREAMED | NOT_THERE,
)
async def events(request: Request, stream_id: int, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """What it says, as server-sent events: ``result``, ``track``, ``status``, ``warning``, ``summary``.

    With ``Last-Event-ID`` it goes on from there; ``missing`` says how many are gone.
    """
    request.state.caller.allow("stream")
    stream = await found(request, stream_id)
    seen = None
    if last_event_id is not None:
        if not last_event_id.isascii() or not last_event_id.isdecimal():
            raise InputError("bad_option", "Last-Event-ID is a number that this address gave")
        seen = int(last_event_id[:18])
    said = stream.backlog.follow(seen)
    return StreamingResponse(_as_events(said, request.state.caller), media_type=EVENTS, headers=LIVE_HEADERS)


async def _as_events(following: AsyncGenerator[Said | Missing], caller: Caller) -> AsyncIterator[str]:
    yield ": hello\n\n"
    async with aclosing(until_lapsed(following, caller)) as coming:
        async for said in coming:
            if said is None:
                yield ": quiet\n\n"
            elif isinstance(said, Missing):
                yield f'event: missing\ndata: {{"type":"missing","count":{said.count}}}\n\n'
            else:
                yield f"id: {said.number}\nevent: {said.kind}\ndata: {said.text}\n\n"
                if said.kind == "summary":
                    return


async def until_lapsed(following: AsyncGenerator[T], caller: Caller) -> AsyncGenerator[T | None]:
    """What comes, until its end or that of the caller's key; None where nothing has for ``QUIET_S``."""
    coming, lapsed = asyncio.create_task(_next(following)), asyncio.create_task(caller.lapsed.wait())
    try:
        while True:
            done, _ = await asyncio.wait({coming, lapsed}, timeout=QUIET_S, return_when=asyncio.FIRST_COMPLETED)
            if caller.lapsed.is_set():
                return
            if not done:
                yield None
                continue
            if (said := coming.result()) is None:
                return
            coming = asyncio.create_task(_next(following))
            yield said
    finally:
        await cancelled(coming, lapsed)
        await following.aclose()


async def _next(following: AsyncIterator[T]) -> T | None:
    return await anext(following, None)


async def found(request: Request, stream_id: int) -> PulledStream:
    """Raises InputError (404), of somebody else's as of none, or what ``Service.check_moving`` does."""
    service: Service = request.app.state.service
    known = service.pulled.find(stream_id, request.state.caller)
    if known is None:
        await service.check_moving(stream_id, request.state.caller)
        raise InputError("not_found", "there is no such stream that is pulled, or it is not yours", 404)
    return known
