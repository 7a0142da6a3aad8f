"""The web application: routes, the page, problem JSON, and who may ask."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.routes import detect, meta, problems, stream_ws
from service.service import Service

WEB = Path(__file__).parent / "web"

SECURITY_HEADERS = {
    b"content-security-policy": (
        b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; "
        b"style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
}


def create_app(service: Service) -> FastAPI:
    """The application around a service that is already started."""
    app = FastAPI(
        title="stmixer",
        version=version("stmixer"),
        description="Realtime spatio-temporal action detection: who does what, where and when in a video.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)
    app.include_router(meta.router)
    app.include_router(detect.router)
    app.include_router(stream_ws.router)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB), name="web")
    app.add_middleware(Gate, service=service)
    return app


class Gate:
    """Around every request: Host and Origin are checked, headers added, the time taken."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reason = self._refusal(dict(scope["headers"]))
        if scope["type"] == "websocket":
            if reason is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": reason})
            return
        app = self._app if reason is None else problems.problem(403, "forbidden", reason)
        started, status = time.monotonic(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SECURITY_HEADERS.items()]
            await send(message)

        try:
            await app(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.request.labels(route, str(status)).observe(time.monotonic() - started)

    def _refusal(self, headers: dict[bytes, bytes]) -> str | None:
        """Why a request is not let in: a Host that is not ours (DNS rebinding), or a page of another origin."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        settings = self._service.settings
        if settings.is_loopback and _name(host) not in ("localhost", "127.0.0.1", "[::1]", settings.host):
            return f"Host {host!r} is not served here; use localhost"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
            return "pages of other origins may not use this service"
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
