"""``POST /v1/draw``: a video and the results that it was given, drawn into a copy. Nothing is inferred again.

The service keeps neither media nor results, so both come with the request; results are as untrusted as the video.
"""

from __future__ import annotations

import asyncio
import io
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Request
from pydantic import FailFast, Field, ValidationError
from starlette.responses import Response

from stmixer.service.access import Caller
from stmixer.service.api import problems
from stmixer.service.api.answers import MP4, drawn, sent_file, until_disconnect
from stmixer.service.api.service import Service
from stmixer.service.api.uploads import Beside, received_file, storage_errors, write_all
from stmixer.service.errors import InputError
from stmixer.service.ipc.drawing import keyframe_line
from stmixer.service.logs import REQUEST_ID
from stmixer.service.schemas import Action, Actor, DrawProgress, Result
from stmixer.service.sources.rendering import render

router = APIRouter()

RESULTS = "results"
MAX_RESULTS_BYTES = 32 * 2**20
"""More than ten minutes at eight keyframes a second, ten people on each."""
MAX_LINE = 2**20
"""Bytes of one result: several times a hundred people with all of AVA's actions."""
MAX_PEOPLE, MAX_ACTIONS = 100, 1000
"""On one keyframe, and of one of them. Finding where so many labels go takes a second or two a frame."""
MAX_TOLD, MAX_WORDS = 100, 300
"""Errors of one line that are made into words, and characters of these."""
MAX_NAME = 200
"""Characters of an action's name."""
MAX_SIDE, MAX_TIME_US, MAX_TRACKS = 2**16, 2**53, 2**53
PROBLEMS = problems.problems_of(400, 401, 403, 408, 413, 415, 422, 429, 503)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BINARY = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": _BINARY, RESULTS: _BINARY}, "required": ["file", RESULTS]}
_OPENAPI = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@dataclass(frozen=True, slots=True)
class GivenActor(Actor):
    """Somebody of a ``Given``."""

    actions: Annotated[tuple[Action, ...], FailFast(), Field(max_length=MAX_ACTIONS)]


class Given(Result):
    """A result that anybody may have written: the first item that is wrong ends a list, be it of millions."""

    actors: Annotated[tuple[GivenActor, ...], FailFast(), Field(max_length=MAX_PEOPLE)]


@router.post(
    "/v1/draw", openapi_extra=_OPENAPI, response_class=Response, responses={200: {"content": {MP4: {}}}, **PROBLEMS}
)
async def draw(request: Request) -> Response:
    """A video (multipart ``file``) with boxes drawn from ``results``: lines of ``POST /v1/detect``, all or some.

    ``GET /v1/drawings/{X-Request-Id}`` says meanwhile how far it has come.
    """
    service: Service = request.app.state.service
    caller: Caller = request.state.caller
    async with AsyncExitStack() as stack:
        service.engine.entry.check_staying()
        stack.callback(service.place(caller).release)
        with storage_errors("a drawn video"):
            target = stack.enter_context(tempfile.TemporaryFile(prefix="stmixer-"))  # noqa: SIM115
        await _draw(request, service, caller, target)
        return sent_file(target, stack.pop_all())


async def _draw(request: Request, service: Service, caller: Caller, target: BinaryIO) -> None:
    """All but the sending, for which nothing that came with the request is kept."""
    async with AsyncExitStack() as stack:
        given = stack.enter_context(tempfile.TemporaryFile(prefix="stmixer-", buffering=0))  # noqa: SIM115
        beside = Beside(RESULTS, given, MAX_RESULTS_BYTES)
        upload = stack.enter_context(service.uploads.one_more(caller))  # to the end: it never becomes a stream
        received = received_file(request, service.settings, caller, service.uploads, upload, beside)
        file, _ = await stack.enter_async_context(received)
        with storage_errors("what is to be drawn"):
            # a buffer would be written once more where the disk is full: when the file is closed
            unbuffered = stack.enter_context(tempfile.TemporaryFile(prefix="stmixer-", buffering=0))  # noqa: SIM115
            drawing = cast(BinaryIO, unbuffered)
            await asyncio.to_thread(copy_results, given, drawing)
        address = request.client.host if request.client else ""
        await until_disconnect(request, _rendered(service, caller, address, file, drawing, target))


async def _rendered(
    service: Service, caller: Caller, address: str, file: BinaryIO, drawing: BinaryIO, target: BinaryIO
) -> None:
    async with service.drawings.one_more(REQUEST_ID.get(), caller, address) as one:
        await render(
            service.pool, service.settings, service.metrics, trained=service.engine.model.trained,
            source_fd=file.fileno(), target_fd=target.fileno(), drawing_fd=drawing.fileno(), progress=one.come,
        )  # fmt: skip


@router.get("/v1/drawings/{request_id}", responses=problems.problems_of(401, 403, 404, 429))
async def drawings(request: Request, request_id: str) -> DrawProgress:
    """How far a drawing has come, by the ``X-Request-Id`` of its request; one's own only."""
    service: Service = request.app.state.service
    return await service.drawn_so_far(request_id, request.state.caller)


def copy_results(given: BinaryIO, drawing: BinaryIO) -> None:
    """Lines of results as keyframes to draw. The line with a summary, which ends an answer, may be there.

    Raises InputError ``bad_results`` for what is no result or does not come by rising time.
    """
    given.seek(0)
    before_us, ended = -1, False
    for number, line in _lines(given):
        if ended:
            raise _bad(number - 1, "it is a summary, and not the last line")
        try:
            result = Given.model_validate_json(line)
        except ValidationError as error:
            if ended := b'"summary"' in line:
                continue
            raise _bad(number, _said(error)) from None
        _check(number, result, before_us)
        before_us = result.pts_us
        write_all(drawing, keyframe_line(drawn(result)))
    if before_us < 0:
        raise InputError("bad_results", "there is no result to draw: send the lines that /v1/detect answered with")


def _lines(given: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number, lines = 0, io.BufferedReader(cast(io.RawIOBase, given))
    try:
        while line := lines.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise _bad(number, f"it has more than {MAX_LINE} bytes")
            if line.strip():
                yield number, line
    finally:
        if not given.closed:  # else a cancelled request has closed it meanwhile
            lines.detach()


def _check(number: int, result: Result, before_us: int) -> None:
    if not before_us < result.pts_us < MAX_TIME_US:
        raise _bad(number, f"pts_us {result.pts_us} does not come after {before_us}")
    if not (0 < result.frame.width < MAX_SIDE and 0 < result.frame.height < MAX_SIDE):
        raise _bad(number, "its frame has no size that a picture can have")
    for actor in result.actors:
        if actor.track_id is not None and not 0 <= actor.track_id < MAX_TRACKS:
            raise _bad(number, f"track_id lies outside 0 to {MAX_TRACKS - 1}")
        if not all(math.isfinite(side) and abs(side) < MAX_SIDE for side in actor.box_px):
            raise _bad(number, f"no box: {actor.box_px}")
        if not all(math.isfinite(side) for side in actor.box):
            raise _bad(number, f"no box: {actor.box}")
        scores = [actor.person_score, *(a for action in actor.actions for a in (action.score, action.said))]
        if not all(0 <= score <= 1 for score in scores):
            raise _bad(number, "a score lies outside 0 to 1")
        if any(len(action.name) > MAX_NAME for action in actor.actions):
            raise _bad(number, f"an action's name has more than {MAX_NAME} characters")
        if any(_CONTROL.search(action.name) for action in actor.actions):
            raise _bad(number, "an action's name has control characters")


def _said(error: ValidationError) -> str:
    if error.error_count() > MAX_TOLD:  # fields that a result has not: each would become an object
        return f"it has {error.error_count()} errors"
    return problems.said_of(error.errors(include_url=False)[:1])[:MAX_WORDS]


def _bad(number: int, why: Any) -> InputError:
    return InputError("bad_results", f"line {number} of {RESULTS} is no result: {why}")
