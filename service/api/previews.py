"""What a pulled stream looks like: one picture, or one after the other, with people drawn upon them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from stmixer.service.access import Caller
from stmixer.service.api import problems
from stmixer.service.api.pulled import LIVE_HEADERS, ONE, found, until_lapsed

router = APIRouter()

JPEG = "image/jpeg"
MJPEG = "multipart/x-mixed-replace; boundary=picture"
_NOT_THERE = problems.problems_of(401, 403, 404, 429, 503)


def media(kind: str) -> dict[int | str, dict[str, Any]]:
    """An answer of this kind, for the description."""
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}}}}}


@router.get(ONE + "/snapshot.jpg", response_model=None, responses=media(JPEG) | _NOT_THERE)
async def snapshot(request: Request, stream_id: int) -> Response:
    """The newest result, drawn upon the picture in which it was found."""
    request.state.caller.allow("stream")
    picture = await (await found(request, stream_id)).preview.newest()
    return Response(picture, media_type=JPEG)


@router.get(ONE + "/preview.mjpg", response_model=None, responses=media(MJPEG.partition(";")[0]) | _NOT_THERE)
async def preview(request: Request, stream_id: int) -> Response:
    """Such pictures as they are made, five a second at most; browsers show them as one that moves."""
    request.state.caller.allow("stream")
    pictures = (await found(request, stream_id)).preview.pictures()
    return StreamingResponse(_parts(pictures, request.state.caller), media_type=MJPEG, headers=LIVE_HEADERS)


async def _parts(pictures: AsyncGenerator[bytes], caller: Caller) -> AsyncIterator[bytes]:
    yield b"--picture\r\n"
    shown = None
    async with aclosing(until_lapsed(pictures, caller)) as coming:
        async for picture in coming:
            shown = picture or shown  # again where none has come for long, for proxies, which close what says nothing
            if shown is not None:
                head = f"Content-Type: {JPEG}\r\nContent-Length: {len(shown)}\r\n\r\n"
                # the next one's line at once: browsers show a picture when they have that
                yield head.encode() + shown + b"\r\n--picture\r\n"
