"""One table of headers on every answer: each route, each status, errors that nobody foresaw, and what is no HTTP."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import httpx
import pytest
from posting import connected, read_until
from serving import Server
from websockets.exceptions import InvalidStatus
from ws_client import plain_socket

from stmixer.service.api.app import WEB, create_app, foreign
from stmixer.service.api.security_headers import TABLE, UNDER_TLS
from stmixer.service.api.service import Service
from stmixer.service.settings import Settings

NAMES = {name.decode(): value.decode() for name, value in TABLE.items()}
ANSWERS = [
    ("GET", "/", {}, 200), ("GET", "/web/app.js", {}, 200), ("HEAD", "/healthz", {}, 200), ("GET", "/readyz", {}, 503),
    ("GET", "/web/none.js", {}, 404), ("GET", "/nowhere", {}, 404), ("DELETE", "/healthz", {}, 405),
    ("GET", "/v1/streams/ws", {}, 426), ("GET", "/", {"host": "evil.example"}, 403),
    ("POST", "/v1/detect?keyframe_hz=x", {}, 422), ("GET", "/openapi.json", {}, 200), ("GET", "/metrics", {}, 200),
    ("GET", "/v1/labels", {}, 500), ("GET", "/v1/models", {}, 200), ("GET", "/healthz", {"origin": "null"}, 403),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("method", "path", "headers", "status"), ANSWERS)
def test_every_answer_has_the_table(method: str, path: str, headers: dict[str, str], status: int, scheme: str) -> None:
    """Of a service whose engine has not started: its routes fail in ways that nobody foresaw."""
    transport = httpx.ASGITransport(create_app(Service(Settings())), raise_app_exceptions=False)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://localhost") as client:
            return await client.request(method, path, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == status
    for name, value in NAMES.items():
        kept = name == "cache-control" and status == 200 and (path == "/" or path.startswith("/web/"))
        assert answer.headers.get_list(name) == ["no-cache" if kept else value]
    assert ("strict-transport-security" in answer.headers) == (scheme == "https")
    assert UNDER_TLS


def test_an_error_that_nobody_foresaw_shows_nothing_of_itself() -> None:
    transport = httpx.ASGITransport(create_app(Service(Settings())), raise_app_exceptions=False)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/v1/labels", headers={"X-Request-Id": "one"})

    answer = asyncio.run(ask())
    assert answer.json() == {
        "type": "about:blank", "title": "Internal Server Error", "status": 500, "code": "internal",
        "detail": "an error in the service itself; its log says which", "request_id": "one",
    }  # fmt: skip


def test_browsers_keep_the_page_and_nothing_else() -> None:
    """And ask whether it is still the same; what a key sees is on no disk."""
    transport = httpx.ASGITransport(create_app(Service(Settings())))

    async def ask(path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=headers)

    first = asyncio.run(ask("/web/app.js"))
    again = asyncio.run(ask("/web/app.js", **{"If-None-Match": first.headers["etag"]}))
    assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
    assert asyncio.run(ask("/openapi.json")).headers["cache-control"] == "no-store"


def test_the_page_makes_no_markup_of_what_it_is_told() -> None:
    """Names of streams, rules and keys are text; nothing of them is run either (the CSP has no ``unsafe-…``)."""
    makes = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|srcdoc|document\.write|\beval\(|new Function")
    scripts = {path.name: path.read_text() for path in WEB.glob("*.js")}
    assert len(scripts) > 5
    assert [name for name, text in scripts.items() if makes.search(text)] == []
    parses = [name for name, text in scripts.items() if "DOMParser" in text]
    assert parses == ["teach.js"], "which takes pictures and words out of the draft's page, and no element"
    page = (WEB / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", page)
    loaded = re.findall(r"""<(?:script|link|img|video|iframe)\b[^>]*\s(?:src|href)=["']([^"']*)""", page)
    assert len(loaded) > 3
    assert all(place.startswith(("web/", "data:")) for place in loaded), "nothing from elsewhere"
    assert "unsafe" not in NAMES["content-security-policy"]


def test_below_a_prefix_too(tmp_path: Path) -> None:
    transport = httpx.ASGITransport(create_app(Service(Settings(root_path="/cam"))), raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
    assert asyncio.run(client.get("/cam")).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("sent", [b"no http at all\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"])
def test_what_is_no_http(server: Server, sent: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        answer = read_until(connection, b"\r\n\r\n").lower()
    assert answer.startswith(b"http/1.1 400 ")
    for name, value in TABLE.items():
        assert name + b": " + value.lower() in answer
    assert b"server:" not in answer


def test_sockets_that_are_refused(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with pytest.raises(InvalidStatus) as refused, plain_socket(server, origin="https://evil.example"):
        pass
    answer = refused.value.response
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"other origins" in (answer.body or b"")
    assert {name: answer.headers[name] for name in NAMES} == NAMES
    with socket.create_connection((host, int(port)), timeout=30) as connection:  # a handshake without its key
        connection.sendall(
            f"GET /v1/streams/ws HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answered = read_until(connection, b"\r\n\r\n").lower()
    assert answered.startswith(b"http/1.1 400 ")
    assert b"x-content-type-options: nosniff" in answered


# -- names and schemes


OPEN = Settings(host="0.0.0.0", allow_anonymous=True, allowed_hosts="cam.example,stmixer")
HOSTS = [
    ("stmixer:8000", True), ("localhost:8000", True), (socket.gethostname().upper(), True), ("10.0.0.7", True),
    ("[fe80::1]:8000", True), ("cam.example", True), ("wpad", False), ("stmixer-2:8000", False), ("evil:80", False),
    ("localhost.evil", False), ("127.0.0.1.evil.example", False), ("com", False),
]  # fmt: skip


@pytest.mark.parametrize(("host", "ours"), HOSTS)
def test_a_name_without_a_dot_has_to_be_named_too(host: str, ours: bool) -> None:
    assert (foreign(OPEN, {b"host": host.encode()}) is None) == ours


@pytest.mark.parametrize(
    ("scheme", "origin", "allowed"),
    [("https", "https://cam.example", True), ("https", "http://cam.example", False),
     ("wss", "HTTPS://cam.example", True),
     ("wss", "http://cam.example", False), ("http", "http://cam.example", True), ("http", "https://cam.example", True),
     ("ws", "http://cam.example", True)],
)  # fmt: skip
def test_a_page_without_tls_is_no_page_of_a_service_that_has_it(scheme: str, origin: str, allowed: bool) -> None:
    """The other way round is a proxy that ends TLS and does not say so."""
    headers = {b"host": b"cam.example", b"origin": origin.encode()}
    assert (foreign(OPEN, headers, scheme=scheme) is None) == allowed
