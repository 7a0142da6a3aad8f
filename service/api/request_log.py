"""Every request has an id and leaves one line in the log when it has ended, a WebSocket too.

The line names the key that it came with (``logs.KEY_NAME``), and the ``code`` with which it was refused.

The id is the client's ``X-Request-Id`` or one of ours. The path is logged as it came, percent-encoded and without its
query: nothing in it can look like another line, and no token in it is kept.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stmixer.service.logs import KEY_NAME, REQUEST_ID, fields

log = logging.getLogger("stmixer.request")

HEADER = b"x-request-id"
LONGEST_PATH = 1024
"""Of what a line keeps of one."""
OF_MACHINES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"})
_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        KEY_NAME.set("")
        state = scope.setdefault("state", {})
        request_id = _take_id(dict(scope["headers"]).get(HEADER, b""))
        started, outcome = time.monotonic(), {"status": 500}

        async def send_with_id(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
                outcome["status"] = message.get("status", 101)
            elif message["type"] == "websocket.close":
                outcome["close_code"] = message["code"]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            log.log(
                _level(scope, outcome["status"]),
                "request",
                extra=fields(**_request(scope), **outcome, took_ms=_milliseconds_since(started), **_refusal(state)),
            )


def _level(scope: Scope, status: int) -> int:
    """Probes and scrapes that go well are what comes all day long: they are for debugging."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return logging.DEBUG if path in OF_MACHINES and status < 400 else logging.INFO


def note_refusal(state: dict[str, Any], code: str) -> None:
    """Have the line of a request say why it was not answered as it wished. ``state``: of its scope."""
    state["refused"] = code


def _refusal(state: dict[str, Any]) -> dict[str, str]:
    return {"code": state["refused"]} if "refused" in state else {}


def _take_id(offered: bytes) -> str:
    """The client's id, if it is one that a log line can hold; else a new one."""
    request_id = offered.decode() if _ACCEPTABLE.fullmatch(offered) else secrets.token_hex(8)
    REQUEST_ID.set(request_id)
    return request_id


def _request(scope: Scope) -> dict[str, Any]:
    method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
    path = scope.get("raw_path", b"").partition(b"?")[0][:LONGEST_PATH].decode("latin-1")
    return {"method": method, "path": path, "client": scope["client"][0] if scope.get("client") else None}


def _milliseconds_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
