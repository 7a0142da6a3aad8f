"""The web application: routes, the page, problem JSON, and who may ask."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stmixer.service.access import bearer
from stmixer.service.api import (
    asyncapi,
    detect,
    draw,
    events,
    following,
    meta,
    models,
    previews,
    problems,
    pulled,
    stream_ws,
    teach,
    tokens,
)
from stmixer.service.api.entrance import FORWARDED_HOSTS, Entrance, HeadAsGet, is_address, route_path
from stmixer.service.api.manual import manual
from stmixer.service.api.request_log import RequestLog, note_refusal
from stmixer.service.api.security_headers import SecurityHeaders
from stmixer.service.api.senders import Senders
from stmixer.service.api.service import Service
from stmixer.service.errors import AccessError, StmixerError
from stmixer.service.key_file import Scope as KeyScope
from stmixer.service.settings import Settings

WEB = Path(__file__).parents[1] / "web"

PUBLIC = {"/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v1/streams/ws"}
"""What asks for no key. The page and its files are among it: a key is typed into them. So is the stream's address: as
HTTP it only says that it wants a WebSocket."""
PUBLIC_FOLDER = "/web/"
SCOPES: dict[str, KeyScope] = {"/v1/detect": "detect", "/v1/draw": "detect", "/metrics": "admin", "/v1/status": "admin"}
"""What a key needs besides being known; elsewhere any key will do, but for lessons (`teach.needs_admin`)."""
REVALIDATED = {"Cache-Control": "no-cache"}
"""Of the page and its files, which are no secret: a browser keeps them, and asks whether they are still the same."""
_PORTS = {"http": "80", "https": "443"}


def create_app(service: Service, senders: Senders | None = None) -> FastAPI:
    """The application around a service that is already started. ``senders``: who share its time, where that counts."""
    app = _with_routes()
    app.state.service = service

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html", headers=REVALIDATED)

    @functools.cache
    def text() -> str:
        return manual(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def read() -> Response:
        return HTMLResponse(text())

    app.mount(teach.TRIAL, teach.TrialDoor(service), name="trial")
    app.mount("/web", PageFiles(directory=WEB), name="web")
    app.add_middleware(Gate, service=service)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog)
    app.add_middleware(
        Entrance, peers=service.settings.forwarded_allow_ips, root_path=service.settings.root_path, senders=senders
    )
    return app


def openapi() -> dict[str, Any]:
    """What ``/openapi.json`` answers with, of no service that runs."""
    return _with_routes().openapi()


def _with_routes() -> FastAPI:
    app = _Application(
        title="stmixer",
        version=version("stmixer"),
        description="Realtime spatio-temporal action detection: who does what, where and when in a video.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for part in (meta, models, detect, draw, stream_ws, pulled, following, previews, events, teach, asyncapi):
        app.include_router(part.router)
    app.include_router(models.changes)
    return app


class PageFiles(StaticFiles):
    """The page's files."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """As starlette's."""
        response = super().file_response(*arguments, **options)
        response.headers.update(REVALIDATED)
        return response


class _Application(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """With what every answer has around it all, the answer to an unforeseen error included."""
        return SecurityHeaders(super().build_middleware_stack())


class Gate:
    """Around every request: Host, Origin and key are checked, the time taken.

    A path that nobody thought of asks for a key. A WebSocket's key may come in its ``start``, so its route asks for it.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        forwarded_hosts = scope.get("state", {}).get(FORWARDED_HOSTS, ())
        headers = dict(scope["headers"])
        reason = foreign(self._service.settings, headers, forwarded_hosts, scheme=scope["scheme"])
        if scope["type"] == "websocket":
            if reason is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                note_refusal(scope.setdefault("state", {}), "forbidden")
                await _refuse_handshake(reason, send)
            return
        try:
            if reason is not None:
                raise AccessError("forbidden", reason, 403)
            self._ask_for_key(scope)
            root_path = scope.get("root_path", "")
            # without its slash the page's own links would lead beside it
            app = self._app if scope["path"] != root_path else RedirectResponse(f"{root_path}/", 308)
        except StmixerError as error:
            note_refusal(scope.setdefault("state", {}), error.code)
            app = problems.problem_of(error)
        started, status = time.monotonic(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, send_and_note)
        finally:
            route = scope.get("route")
            # as the OpenAPI document has it: without what a parameter must look like
            name = route.path_format if isinstance(route, Route) else getattr(route, "path", "other")
            self._service.metrics.request.labels(name, str(status)).observe(time.monotonic() - started)

    def _ask_for_key(self, scope: Scope) -> None:
        """Leave the caller in the request's state. Raises AccessError, or CapacityError over the key's limit."""
        path, headers = route_path(scope), dict(scope["headers"])
        if path in PUBLIC or path.startswith(PUBLIC_FOLDER):
            return
        access = self._service.access
        token = tokens.token_of(scope, path, in_addresses=not self._service.settings.refuse_url_tokens)
        caller = access.caller(bearer(headers)) if token is None else access.caller_of_token(token, path)
        caller.allow("admin" if teach.needs_admin(path) else SCOPES.get(path))
        caller.spend_request()
        scope.setdefault("state", {})["caller"] = caller


async def _refuse_handshake(reason: str, send: Send) -> None:
    """A WebSocket that is not accepted is answered as any other request."""
    answer = problems.problem(403, "forbidden", reason)
    await send({"type": "websocket.http.response.start", "status": 403, "headers": answer.raw_headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})


def foreign(
    settings: Settings, headers: dict[bytes, bytes], forwarded_hosts: Sequence[str] = (), *, scheme: str = "http"
) -> str | None:
    """Why a request is not let in: a Host that is not ours (DNS rebinding), or a page of another site.

    ``forwarded_hosts``: the names under which proxies that we trust were asked; ``scheme``: how we, or they, were. Who
    sends no Host is no browser.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if not _is_ours(settings, host):
        instead = "use localhost" if settings.is_loopback else "start with --allowed-hosts NAME if it is its name"
        return f"Host {host!r} is not served here; {instead}"
    origin = headers.get(b"origin")
    if origin is None:
        return None
    named = [host, *(other for other in forwarded_hosts if _is_ours(settings, other))]
    if not any(_is_same_site(origin.decode("latin-1").lower(), name) for name in named):
        return "pages of other origins may not use this service"
    if scheme in ("https", "wss") and not origin.lower().startswith(b"https://"):
        return "a page that came without TLS may not use this service, which has it"
    return None


def _is_ours(settings: Settings, host: str) -> bool:
    if not host:
        return True
    name = _split(host)[0]
    allowed = {part.strip().lower() for part in settings.allowed_hosts.split(",")}
    if settings.is_loopback:
        return name in ("localhost", "127.0.0.1", "[::1]", settings.host, *allowed)
    # a page can rebind any name that somebody can make its visitor's resolver answer for, one without a dot too
    own = ("localhost", socket.gethostname().lower(), settings.host.lower())
    return is_address(name) or name in (*own, *allowed)


def _is_same_site(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` came from ``host``, whose port a proxy may have left out, or added the scheme's."""
    scheme, _, place = origin.partition("://")
    name, port = _split(place)
    asked_name, asked_port = _split(host)
    own_port = _PORTS.get(scheme)
    return own_port is not None and name == asked_name and asked_port in ("", port or own_port)


def _split(host: str) -> tuple[str, str]:
    """A Host as its name and its port, empty without one."""
    if host.startswith("["):
        name, _, rest = host.partition("]")
        return name + "]", rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port
