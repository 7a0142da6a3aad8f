"""What answers with media or for long have in common: they own what they send, and end when their client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, BinaryIO, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from stmixer.media.limits import DRAWN_ACTIONS
from stmixer.service.ipc.messages import DrawnFrame, DrawnKeyframe
from stmixer.service.schemas import Result

T = TypeVar("T")

MP4 = "video/mp4"
CHUNK = 256 * 1024


class OwningResponse(StreamingResponse):
    """A streaming response that frees what it owns when it ends, whichever way.

    Starlette's own watch for a vanished client is left out: it cancels over and over what runs below it, and so the
    freeing as well. Where that matters, whoever makes the body watches (``detect``).
    """

    def __init__(self, body: AsyncIterator[bytes], owned: AsyncExitStack, **options: Any) -> None:
        super().__init__(body, **options)
        self._owned = owned

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.stream_response(send)
        finally:
            await self._owned.aclose()


def sent_file(file: BinaryIO, owned: AsyncExitStack, headers: Mapping[str, str] | None = None) -> Response:
    """A video as an answer, its size said before, with further headers; it owns what it comes from."""
    size = file.seek(0, 2)
    file.seek(0)

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk

    headers = {"Content-Length": str(size), **(headers or {})}
    return OwningResponse(chunks(), owned, media_type=MP4, headers=headers)


def drawn(result: Result) -> DrawnKeyframe:
    """A result with only the actions that a picture can name."""
    return DrawnKeyframe(
        result.pts_us,
        DrawnFrame(result.frame.width, result.frame.height),
        tuple(actor.with_best(DRAWN_ACTIONS) for actor in result.actors),
    )


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``, but end it when the client leaves. Raises ClientDisconnect then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
