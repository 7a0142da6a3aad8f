"""What Serve's proxy says where a replica has died in the middle of an answer.

By itself it says 500 to a request and cuts a WebSocket without a word. Serve asks ``middlewares`` for what stands in
its proxies (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``, which ``application`` sets where that starts Ray).
"""

from __future__ import annotations

import json

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IMPORT_PATH = "stmixer.service.cluster.proxy:middlewares"
RETRY_AFTER_S = 1
CLOSE_RESTART = 1012
GONE = "the replica that this was at is gone: come back, with the resume token"


def middlewares() -> list[Middleware]:
    """What Serve's proxies have around them."""
    return [Middleware(Mended)]


class Mended:
    """An answer that nobody gave is 503 with Retry-After, a WebSocket that nobody closed is closed with 1012."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the proxy's own application, and see what it has left open."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = message.get("headers", [])
                if message["status"] == 503 and not any(name.lower() == b"retry-after" for name, _ in headers):
                    message = {**message, "headers": [*headers, (b"retry-after", b"%d" % RETRY_AFTER_S)]}
            await send(message)

        await self._app(scope, receive, note)
        if not begun:
            await _say_gone(send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = over = False

        async def note(message: Message) -> None:
            nonlocal accepted, over
            accepted = accepted or message["type"] == "websocket.accept"
            over = over or message["type"] in ("websocket.close", "websocket.http.response.start")
            await send(message)

        async def hear() -> Message:
            nonlocal over
            message = await receive()
            over = over or message["type"] == "websocket.disconnect"
            return message

        await self._app(scope, hear, note)
        if over:
            return
        if accepted:
            await send({"type": "websocket.close", "code": CLOSE_RESTART, "reason": GONE})
        else:
            await send({"type": "websocket.close", "code": CLOSE_RESTART})


async def _say_gone(send: Send) -> None:
    problem = {
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "code": "replica_gone",
        "detail": "the replica that this was at is gone; try again",
    }  # fmt: skip
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % RETRY_AFTER_S),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
