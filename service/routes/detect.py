"""``POST /v1/detect``: a clip in; detections as JSON, as lines while they are made, or drawn into the video."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from media.decode import Limits
from service.engine.channel import ChannelError
from service.errors import InputError, StmixerError
from service.ingest.session import Session
from service.routes.problems import problem_body
from service.routes.uploads import received_file
from service.schemas import DetectOptions, DetectResponse
from service.service import Service

router = APIRouter()

NDJSON = "application/x-ndjson"
MP4 = "video/mp4"
CHUNK = 256 * 1024
_BODY = {"schema": {"type": "string", "format": "binary"}}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": _BODY,
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": _BODY["schema"]}, "required": ["file"]}
            },
        },
    }
}


@router.post(
    "/v1/detect",
    openapi_extra=_OPENAPI,
    response_model=None,
    responses={200: {"model": DetectResponse, "content": {NDJSON: {}, MP4: {}}}},
)
async def detect(request: Request, options: Annotated[DetectOptions, Query()]) -> Response:
    """Who does what, where and when in a video, sent raw or as multipart ``file``. The answer follows ``Accept``."""
    service: Service = request.app.state.service
    accept = request.headers.get("accept", "")
    stack = AsyncExitStack()
    try:
        file = await stack.enter_async_context(received_file(request, service.settings))
        session = await stack.enter_async_context(service.session("upload", "all", options))
        await stack.enter_async_context(_abort_on_disconnect(request, session))
        await session.open("upload", file.fileno())
        if NDJSON in accept:
            return await _ndjson(service, session, stack)
        response = await _collect(service, session)
        if MP4 in accept:
            return await _mp4(service, request, response, file, stack)
        return Response(json.dumps(response), media_type="application/json")
    finally:
        # a streaming answer has taken everything over by now, and left this stack empty
        await stack.aclose()


async def _collect(service: Service, session: Session) -> dict[str, Any]:
    """A ``DetectResponse`` as plain data: it came from the worker in this form."""
    keyframes = [result async for result in session.results()]
    if session.aborted:
        raise ClientDisconnect
    frame = {"width": session.stream.frame_width, "height": session.stream.frame_height}
    return {"frame": frame, "keyframes": keyframes, **_tail(service, session)}


def _tail(service: Service, session: Session) -> dict[str, Any]:
    model = service.engine.model
    return {
        "model": model.name,
        "trained": model.trained,
        "summary": session.summary().model_dump(),
        "warnings": session.warnings,
    }


async def _ndjson(service: Service, session: Session, stack: AsyncExitStack) -> Response:
    results = session.results()
    first = await anext(results, None)  # an unreadable file still gets its proper status
    owned = stack.pop_all()

    async def lines() -> AsyncIterator[bytes]:
        async with owned:
            if first is not None:
                yield _line(first)
            try:
                async for result in results:
                    yield _line(result)
            except StmixerError as error:
                yield _line(problem_body(error.status, error.code, str(error)))
                return
            yield _line(_tail(service, session))

    return _OwningResponse(lines(), owned, media_type=NDJSON)


class _OwningResponse(StreamingResponse):
    """A streaming response that frees what it owns even where its body is never asked for."""

    def __init__(self, body: AsyncIterator[bytes], owned: AsyncExitStack, **options: Any) -> None:
        super().__init__(body, **options)
        self._owned = owned

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._owned.aclose()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


async def _mp4(
    service: Service, request: Request, response: dict[str, Any], file: BinaryIO, stack: AsyncExitStack
) -> Response:
    target = stack.enter_context(tempfile.TemporaryFile(prefix="stmixer-"))  # noqa: SIM115
    await _until_disconnect(request, _render(service, response, file, target))
    size = target.seek(0, 2)
    target.seek(0)
    owned = stack.pop_all()

    async def chunks() -> AsyncIterator[bytes]:
        async with owned:
            while chunk := await asyncio.to_thread(target.read, CHUNK):
                yield chunk

    return _OwningResponse(chunks(), owned, media_type=MP4, headers={"Content-Length": str(size)})


async def _render(service: Service, response: dict[str, Any], source: BinaryIO, target: BinaryIO) -> None:
    """Draw in a decoder process: the media is as untrusted the second time."""
    settings = service.settings
    limits = Limits(settings.max_width, settings.max_height, settings.max_duration_s)
    decoder = await service.pool.acquire()
    clean = False
    try:
        order = {
            "t": "render",
            "results": [_slim(keyframe) for keyframe in response["keyframes"]],
            "trained": response["trained"],
            "limits": asdict(limits),
            "cpu_s": 20 * settings.max_duration_s,
        }
        await decoder.channel.send(order, fds=[source.fileno(), target.fileno()])
        message = await decoder.channel.receive()
        if message is None:
            raise ChannelError("it ended")
        clean = True
        if message.header["t"] == "failed":
            raise InputError(message.header["code"], message.header["message"])
    except ChannelError as error:
        raise InputError("unreadable", f"drawing into this video failed ({error}); ask for JSON instead") from None
    finally:
        await service.pool.release(decoder, clean=clean)


def _slim(keyframe: Any) -> Any:
    """A result with only the actions that a picture can name."""
    actors = [{**actor, "actions": actor["actions"][:3]} for actor in keyframe["actors"]]
    return {**keyframe, "actors": actors}


@asynccontextmanager
async def _abort_on_disconnect(request: Request, session: Session) -> AsyncIterator[None]:
    """End the session as soon as its client is gone."""

    async def watch() -> None:
        await _disconnected(request)
        session.abort()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


async def _until_disconnect(request: Request, work: Any) -> None:
    """Run ``work``, but end it when the client leaves. Raises ClientDisconnect then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        task.result()
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
