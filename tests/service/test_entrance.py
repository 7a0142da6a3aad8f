"""The ways to us: what monitors and proxies send, under which names and prefixes, and who is believed."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from posting import connected, made_video, problem, read_until
from pydantic import ValidationError
from serving import Server
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from stmixer.service.api.app import create_app, foreign
from stmixer.service.api.entrance import FORWARDED_HOSTS, Entrance, HeadAsGet
from stmixer.service.api.service import Service
from stmixer.service.key_file import Key, KeyFile, digest, write_keys
from stmixer.service.settings import Settings


@contextmanager
def connection(server: Server) -> Iterator[http.client.HTTPConnection]:
    """One that is kept between requests."""
    host, port = server.url.removeprefix("http://").split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as kept:
        yield kept


# -- monitors and balancers


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/readyz", "/v2/health/ready", "/", "/docs", "/metrics", "/v1/models", "/v1/labels", "/web/app.js",
     "/openapi.json", "/v1/streams/ws", "/nowhere", "/v1/detect"],
)  # fmt: skip
def test_head_is_answered_as_get(server: Server, path: str) -> None:
    """The same status and headers, no body, and the connection goes on."""
    answers = []
    with connection(server) as asked:
        for method in ("HEAD", "GET", "HEAD"):
            asked.request(method, path)
            answer = asked.getresponse()
            kind, length = answer.headers["content-type"], answer.headers["content-length"]
            answers.append((answer.status, kind, length, answer.read()))
    head, get, again = answers
    assert head[3] == again[3] == b""
    assert get[3]
    assert head[:2] == get[:2] == again[:2]
    if path != "/metrics":  # which counts these requests
        assert head[2] == get[2] == str(len(get[3]))


@pytest.mark.parametrize("listens", [True, False], ids=["listens", "does not"])
def test_head_of_a_large_file_does_not_read_it(tmp_path: Path, listens: bool) -> None:
    """Whether what sends a file listens to whether it is read (ASGI up to 2.3, Starlette from 1 on), or not."""
    (tmp_path / "clip.mp4").write_bytes(bytes(100 * FileResponse.chunk_size))
    sent, read, seen = [], 0, []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            nonlocal read
            read += len(message.get("body", b""))
            await send(message)

        try:
            await FileResponse(tmp_path / "clip.mp4")(scope, receive, counted)
        except Exception as error:
            seen.append(error)
            raise

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "HEAD", "headers": [], "asgi": {"spec_version": "2.3" if listens else "2.4"}}
    asyncio.run(HeadAsGet(app)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % (100 * FileResponse.chunk_size)
    assert sent[1]["body"] == b""
    assert not sent[1]["more_body"]
    assert 0 < read <= 10 * FileResponse.chunk_size
    assert len(seen) == (not listens), "what is raised ends here"


@pytest.mark.parametrize("path", ["/healthz", "/v1/labels", "/web/app.js"])
@pytest.mark.parametrize("scheme", ["http", "HTTP", "https"])
def test_a_target_that_is_a_whole_address(server: Server, scheme: str, path: str) -> None:
    with connection(server) as asked:
        for target in (f"{scheme}://{server.url.removeprefix('http://')}{path}?x=1", path):
            asked.request("GET", target)
            answer = asked.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (200, True)


@pytest.mark.parametrize("path", ["/healthz", "/v1/labels", "/v1/models", "/metrics", "/docs", "/web", "/nowhere"])
def test_a_slash_at_the_end_means_nothing(server: Server, path: str) -> None:
    """It is answered, and not sent elsewhere."""
    said = []
    with connection(server) as asked:
        for target in (path, f"{path}/?x=1"):
            asked.request("GET", target)
            answer = asked.getresponse()
            said.append((answer.status, answer.headers["content-type"], answer.headers["location"]))
            answer.read()
    assert said[0] == said[1]
    assert said[0][2] is None


def test_a_clip_posted_with_a_slash_at_the_end_is_taken(server: Server) -> None:
    answer = httpx.post(f"{server.url}/v1/detect/", content=made_video(128, 96, 35), timeout=60)
    assert answer.status_code == 200
    assert len(answer.json()["keyframes"]) == 2


def test_the_host_of_a_whole_address_is_the_one_that_counts(server: Server) -> None:
    with connection(server) as asked:
        asked.request("GET", "http://evil.example/healthz")  # with our own Host beside it
        answer = asked.getresponse()
        assert (answer.status, b"evil.example" in answer.read()) == (403, True)
        asked.request("GET", f"http://localhost:{asked.port}")
        answer = asked.getresponse()
        assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")


def test_a_probe_of_http_1_0_has_no_host(server: Server) -> None:
    with connected(server) as asked:
        asked.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert read_until(asked, b"\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert foreign(Settings(allowed_hosts="cam.example"), {}) is None


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}, {"Upgrade": "websocket"}], ids=str)
def test_a_sockets_address_without_its_upgrade(server: Server, headers: dict[str, str]) -> None:
    """As a proxy leaves it that was not told of WebSockets."""
    answer = httpx.get(server.url + "/v1/streams/ws", headers=headers)
    assert "Upgrade" in problem(answer, 426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"


# -- names and origins


SITES = [
    ("cam.example", "https://cam.example", True),
    ("cam.example:443", "https://cam.example", True),
    ("cam.example:80", "http://cam.example", True),
    ("cam.example", "https://cam.example:8443", True),
    ("cam.example", "http://cam.example:8080", True),
    ("CAM.example:8443", "https://cam.EXAMPLE:8443", True),
    ("[fe80::1]:8000", "http://[fe80::1]:8000", True),
    ("[fe80::1]", "http://[fe80::1]:8000", True),
    ("cam.example", "https://evil.example", False),
    ("cam.example", "https://cam.example.evil.example", False),
    ("cam.example", "https://evil.example:443", False),
    ("cam.example:443", "http://cam.example", False),
    ("cam.example:8000", "https://cam.example", False),
    ("10.0.0.7:8000", "http://10.0.0.7:3000", False),
    ("[fe80::1]:8000", "http://[fe80::2]:8000", False),
    ("cam.example", "null", False),
    ("cam.example", "chrome-extension://cam.example", False),
    ("cam.example", "", False),
]


@pytest.mark.parametrize(("host", "origin", "same"), SITES)
def test_which_pages_are_of_the_same_site(host: str, origin: str, same: bool) -> None:
    settings = Settings(host="0.0.0.0", allow_anonymous=True, allowed_hosts="cam.example")
    refusal = foreign(settings, {b"host": host.encode(), b"origin": origin.encode()})
    assert (refusal is None) == same
    assert foreign(settings, {b"host": host.encode()}) is None


def test_a_name_that_a_proxy_was_asked_by_is_ours_only_if_we_have_it() -> None:
    settings = Settings(allowed_hosts="cam.example")
    headers = {b"host": b"127.0.0.1:8000", b"origin": b"https://cam.example"}
    assert foreign(settings, headers) is not None
    assert foreign(settings, headers, ("cam.example",)) is None
    evil = {**headers, b"origin": b"https://evil.example"}
    assert foreign(settings, evil, ("evil.example",)) is not None
    rebound = {b"host": b"evil.example", b"origin": b"https://cam.example"}
    assert foreign(settings, rebound, ("cam.example",)) is not None


# -- what a proxy says


def arrived(scope: dict[str, object], peers: str = "10.0.0.0/8,::1", root_path: str = "") -> Scope:
    """The scope as the application behind the entrance sees it."""
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    whole = {"type": "http", "method": "GET", "scheme": "http", "path": "/x", "raw_path": b"/x", "headers": [], **scope}
    asyncio.run(Entrance(application, peers, root_path)(whole, None, None))  # type: ignore[arg-type]
    return seen[0]


FORWARDED = [
    ("10.0.0.2", [(b"x-forwarded-for", b"203.0.113.9")], "203.0.113.9"),
    ("10.0.0.2", [(b"x-forwarded-for", b"1.2.3.4, 203.0.113.9, 10.1.1.1")], "203.0.113.9"),
    ("10.0.0.2", [(b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-for", b"203.0.113.9:4711")], "203.0.113.9"),
    ("10.0.0.2", [(b"x-forwarded-for", b"[2001:db8::7]:80")], "2001:db8::7"),
    ("10.0.0.2", [(b"x-forwarded-for", b"10.3.3.3, 10.1.1.1")], "10.3.3.3"),
    ("10.0.0.2", [(b"x-forwarded-for", b"unknown")], "10.0.0.2"),
    ("::ffff:10.0.0.2", [(b"x-forwarded-for", b"203.0.113.9")], "203.0.113.9"),
    ("192.0.2.1", [(b"x-forwarded-for", b"203.0.113.9")], "192.0.2.1"),
    ("testclient", [(b"x-forwarded-for", b"203.0.113.9")], "testclient"),
]


@pytest.mark.parametrize(("peer", "headers", "client"), FORWARDED)
def test_who_asked_is_what_named_proxies_say(peer: str, headers: list[tuple[bytes, bytes]], client: str) -> None:
    assert arrived({"client": (peer, 1), "headers": headers})["client"][0] == client


@pytest.mark.parametrize("trusted", [True, False])
def test_how_and_under_which_name(trusted: bool) -> None:
    headers = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"Cam.example:8443, inner")]
    peer = ("10.0.0.2" if trusted else "11.0.0.2", 1)
    scope = arrived({"client": peer, "headers": headers})
    assert scope["scheme"] == ("https" if trusted else "http")
    assert scope.get("state", {}).get(FORWARDED_HOSTS) == (("cam.example:8443", "inner") if trusted else None)
    socket = arrived({"type": "websocket", "scheme": "ws", "client": peer, "headers": headers})
    assert socket["scheme"] == ("wss" if trusted else "ws")
    assert arrived({"client": ("8.8.8.8", 1), "headers": headers}, peers="*")["scheme"] == "https"


@pytest.mark.parametrize("wrong", ["nginx", "10.0.0.0/33", "127.0.0.1 ::1"])
def test_proxies_that_are_no_addresses_are_named_at_the_start(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Settings(forwarded_allow_ips=wrong)


# -- below a prefix


@pytest.mark.parametrize("wrong", ["cam", "/cam/", "/a b", "//"])
def test_a_prefix_that_is_none(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Settings(root_path=wrong)


@pytest.fixture
def below(tmp_path: Path) -> httpx.AsyncClient:
    """The application at /cam, with one key."""
    keys = tmp_path / "keys.json"
    write_keys(keys, KeyFile(keys=(Key(name="one", sha256=digest("stm_one"), scopes=("detect",)),)))
    web = create_app(Service(Settings(root_path="/cam", keys=keys)))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(web, raise_app_exceptions=False), base_url="http://localhost"
    )


BELOW = [
    ("/cam/healthz", 200), ("/healthz", 200), ("/cam/", 200), ("/", 200), ("/cam/web/app.js", 200),
    ("/web/app.js", 200), ("/camera", 401), ("/cam/cam/healthz", 401), ("/cam/v1/labels", 401), ("/cam/metrics", 401),
    ("/cam/openapi.json", 401), ("/cam/docs", 401), ("/cam/v1/streams/ws", 426),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status"), BELOW)
def test_with_the_prefix_and_without_it_the_same_is_meant(below: httpx.AsyncClient, path: str, status: int) -> None:
    """As a proxy leaves it, or takes it off; and what asks for a key asks for it either way."""
    answer = asyncio.run(below.get(path))
    assert answer.status_code == status
    if status == 401:
        known = asyncio.run(below.get(path, headers={"Authorization": "Bearer stm_one"}))
        assert known.status_code != 401


def test_the_prefix_alone_leads_to_the_page(below: httpx.AsyncClient) -> None:
    answer = asyncio.run(below.get("/cam"))
    assert (answer.status_code, answer.headers["location"]) == (308, "/cam/")
    assert 'src="web/app.js"' in asyncio.run(below.get("/cam/")).text


def test_the_document_of_routes_names_the_prefix(below: httpx.AsyncClient) -> None:
    answer = asyncio.run(below.get("/cam/openapi.json", headers={"Authorization": "Bearer stm_one"}))
    assert answer.json()["servers"] == [{"url": "/cam"}]
    assert "/v1/detect" in answer.json()["paths"]
