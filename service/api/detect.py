"""``POST /v1/detect``: a clip in; detections as JSON, as lines while they are made, or drawn into the video."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from stmixer.service.access import Caller
from stmixer.service.api import problems
from stmixer.service.api.answers import MP4, OwningResponse, disconnected, drawn, sent_file, until_disconnect
from stmixer.service.api.senders import count_decoder
from stmixer.service.api.service import Service
from stmixer.service.api.uploads import received_file, storage_errors, write_all
from stmixer.service.errors import InputError
from stmixer.service.ipc.drawing import keyframe_line
from stmixer.service.schemas import DetectOptions, DetectResponse, Result
from stmixer.service.sessions.session import Session
from stmixer.service.sources.rendering import render
from stmixer.service.sources.upload import UploadSource

router = APIRouter()

JSON = "application/json"
NDJSON = "application/x-ndjson"
WARNINGS, WARNINGS_BYTES = "X-Stmixer-Warnings", 4096
"""The header of an answer that is a video, and how long it may be: proxies take 8 KiB of headers, or fewer."""
PROBLEMS = problems.problems_of(400, 401, 403, 408, 413, 415, 422, 429, 503)
_BODY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"file": _BODY["schema"], **DetectOptions.model_json_schema()["properties"]}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": _BODY,
            "multipart/form-data": {"schema": {"type": "object", "properties": _FORM, "required": ["file"]}},
        },
    }
}


@router.post(
    "/v1/detect",
    openapi_extra=_OPENAPI,
    response_model=None,
    responses={200: {"model": DetectResponse, "content": {NDJSON: {}, MP4: {}}}, **PROBLEMS},
)
async def detect(request: Request, options: Annotated[DetectOptions, Query()]) -> Response:
    """Who does what, where and when in a video, sent raw or as multipart ``file``. The answer follows ``Accept``.

    Options are query parameters, or fields of the form.
    """
    service: Service = request.app.state.service
    caller: Caller = request.state.caller
    kind = preferred(request.headers.get("accept", ""), (JSON, NDJSON, MP4))
    stack = AsyncExitStack()
    try:
        service.check_room(caller, "all", options)  # before its body is read: a full service says so at once
        place = service.place(caller)
        stack.callback(place.release)
        with service.uploads.one_more(caller) as upload:
            file, fields = await stack.enter_async_context(
                received_file(request, service.settings, caller, service.uploads, upload)
            )
            options = _with_fields(options, request, fields)

            async def let_in() -> Session:
                return await stack.enter_async_context(await service.upload_session(caller, options, place))

            session = await until_disconnect(request, let_in())
        await stack.enter_async_context(_abort_on_disconnect(request, session))
        await session.open(UploadSource(session.context, file.fileno()))
        results = session.results()
        first = await anext(results, None)  # an unreadable file still gets its proper status
        _check_connected(session)
        if kind == MP4:
            return await _mp4(service, request, session, _from(first, results), file, stack)
        make = _as_json if kind == JSON else _as_lines
        headers = {"X-Accel-Buffering": "no"} if kind == NDJSON else {}  # a proxy that buffers would hold lines back
        body = make(service, session, _from(first, results))
        return OwningResponse(body, stack.pop_all(), media_type=kind, headers=headers)
    finally:
        # a streaming answer has taken everything over by now, and left this stack empty
        await stack.aclose()


def _with_fields(options: DetectOptions, request: Request, fields: dict[str, str]) -> DetectOptions:
    """A form's fields are options too; one that is left empty is not given. Raises InputError for a wrong one."""
    given = {name: value for name, value in fields.items() if value}
    if twice := given.keys() & request.query_params.keys():
        raise InputError("bad_option", f"{', '.join(sorted(twice))}: in the query and in the form; give it once")
    try:
        return DetectOptions.model_validate(options.model_dump(exclude_unset=True) | given)
    except ValidationError as error:
        raise InputError("bad_option", problems.said_of(error.errors(include_url=False))) from None


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that an Accept header likes best, by name or range (RFC 9110, 12.5.1); the first
    one if it names none of them."""
    liked = dict.fromkeys(offered, 0.0)
    for item in accept.lower().split(","):
        name, _, parameters = item.partition(";")
        quality = re.search(r"(?:^|;)\s*q=([01](?:\.\d*)?)\s*(?:;|$)", parameters)
        kind, _, rest = name.strip().partition("/")
        for each in offered:
            if each == f"{kind}/{rest}" or (rest == "*" and kind in ("*", each.partition("/")[0])):
                liked[each] = max(liked[each], float(quality.group(1)) if quality else 1.0)
    return max(offered, key=lambda name: liked[name])


async def _from(first: Result | None, rest: AsyncIterator[Result]) -> AsyncIterator[Result]:
    if first is not None:
        yield first
        async for result in rest:
            yield result


def _check_connected(session: Session) -> None:
    if session.aborted:
        raise ClientDisconnect


async def _as_json(service: Service, session: Session, results: AsyncIterator[Result]) -> AsyncIterator[bytes]:
    """A ``DetectResponse``, written while it is made: it may be larger than memory should hold."""
    stream = session.stream
    model = service.engine.models.of(stream)
    size = {"width": stream.frame_width, "height": stream.frame_height}
    head = _compact({"model": model.name, "trained": model.info.trained, "frame": size})
    yield head[:-1] + b',"keyframes":['
    comma = b""
    async for result in results:
        yield comma + result.model_dump_json().encode()
        comma = b","
    end = _compact({"summary": session.summary().model_dump(), "warnings": session.warnings})
    yield b"]," + end[1:]


async def _as_lines(service: Service, session: Session, results: AsyncIterator[Result]) -> AsyncIterator[bytes]:
    async for result in results:
        yield result.model_dump_json().encode() + b"\n"
    model, summary = service.engine.models.of(session.stream), session.summary().model_dump()
    tail = {"model": model.name, "trained": model.info.trained, "summary": summary, "warnings": session.warnings}
    yield _compact(tail) + b"\n"


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def _mp4(
    service: Service,
    request: Request,
    session: Session,
    results: AsyncIterator[Result],
    file: BinaryIO,
    stack: AsyncExitStack,
) -> Response:
    with storage_errors("what is to be drawn"):
        # a buffer would be written once more where the disk is full: when the file is closed
        unbuffered = stack.enter_context(tempfile.TemporaryFile(prefix="stmixer-", buffering=0))  # noqa: SIM115
        drawing = cast(BinaryIO, unbuffered)
        target = stack.enter_context(tempfile.TemporaryFile(prefix="stmixer-"))  # noqa: SIM115
        async for result in results:
            await asyncio.to_thread(write_all, drawing, keyframe_line(drawn(result)))
    _check_connected(session)
    session.caller.check()
    count_decoder(request.scope)  # another one draws
    trained = service.engine.models.of(session.stream).info.trained
    with session.interruptible():
        copy = render(
            service.pool, service.settings, service.metrics, trained=trained,
            source_fd=file.fileno(), target_fd=target.fileno(), drawing_fd=drawing.fileno(),
        )  # fmt: skip
        await until_disconnect(request, copy)
    return sent_file(target, stack.pop_all(), {WARNINGS: in_a_header(session.warnings)})


def in_a_header(warnings: Sequence[str]) -> str:
    """Warnings as a JSON list in ASCII of at most WARNINGS_BYTES: the first that fit, and how many more there are."""
    text, kept = json.dumps(list(warnings)), len(warnings)
    while len(text) > WARNINGS_BYTES:
        kept -= 1
        text = json.dumps([*warnings[:kept], f"and {len(warnings) - kept} more"])
    return text


@asynccontextmanager
async def _abort_on_disconnect(request: Request, session: Session) -> AsyncIterator[None]:
    """End the session as soon as its client is gone."""

    async def watch() -> None:
        await disconnected(request)
        session.abort()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
