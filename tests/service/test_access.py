"""Who gets in: keys, scopes, limits, Host and Origin, as one table over every route and the WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import OWN_CLIPS
from fastapi.routing import APIRoute, APIWebSocketRoute
from posting import eventually, made_video, problem
from pydantic import ValidationError
from serving import Server, running_server
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from wire import Wire
from ws_client import jpeg, plain_socket

from stmixer.service.access import Access, Budget
from stmixer.service.api import (
    asyncapi,
    detect,
    draw,
    events,
    following,
    meta,
    models,
    previews,
    pulled,
    stream_ws,
    teach,
)
from stmixer.service.api.app import PUBLIC, create_app
from stmixer.service.api.server import check_certificate
from stmixer.service.api.service import Service
from stmixer.service.cli import app
from stmixer.service.errors import AccessError, InputError, StartError
from stmixer.service.key_file import Key, KeyFile, digest, new_secret, read_keys, write_keys
from stmixer.service.settings import Settings

HTTP = [
    ("GET", "/v1/models", None), ("GET", "/v1/labels", None), ("GET", "/v1/streams", None),
    ("GET", "/openapi.json", None), ("GET", "/asyncapi.json", None), ("GET", "/docs", None),
    ("GET", "/v1/status", "admin"), ("GET", "/metrics", "admin"), ("POST", "/v1/detect", "detect"),
    ("GET", "/nowhere", None), ("GET", "/v1/events", "stream"), ("POST", "/v1/draw", "detect"),
    ("GET", "/v1/drawings/{request_id}", None),
    ("GET", "/v1/teach", "admin"),
]  # fmt: skip
ELSE = {"/nowhere": 404, "/v1/teach": 404, "/v1/drawings/{request_id}": 404, "/v1/draw": 400}
"""What is answered to who may ask, where that is not 200: a video alone cannot be drawn, nothing is being drawn, and
this service takes no lessons."""
OPEN = sorted(PUBLIC | {"/web/index.html"})
NOT_HTTP = "/v1/streams/ws"
SECURITY = ("content-security-policy", "x-content-type-options", "referrer-policy", "permissions-policy")


def add_key(path: Path, name: str, scopes: tuple[str, ...] = ("detect", "stream"), **limits: int) -> str:
    """As `stmixer keys add` does it."""
    secret, before = new_secret(), read_keys(path).keys if path.exists() else ()
    key = Key(name=name, sha256=digest(secret), scopes=scopes, **limits)
    write_keys(path, KeyFile(keys=(*before, key)))
    return secret


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def secrets(key_file: Path) -> dict[str, str]:
    """Keys by their names; ``thin`` and ``lone`` have one stream, ``poor`` a megabyte a minute."""
    return {
        "detect": add_key(key_file, "detect", ("detect",)),
        "stream": add_key(key_file, "stream", ("stream",)),
        "other": add_key(key_file, "other", ("stream",)),
        "admin": add_key(key_file, "admin", ("admin",)),
        "thin": add_key(key_file, "thin", streams=1),
        "lone": add_key(key_file, "lone", streams=1),
        "poor": add_key(key_file, "poor", megabytes_per_minute=1),
    }


@pytest.fixture(scope="module")
def locked(tiny_weights: Path, key_file: Path, secrets: dict[str, str]) -> Iterator[Server]:
    with running_server(weights=tiny_weights, keys=key_file, resume_ttl_s=5) as server:
        yield server


def ask(server: Server, method: str, path: str, secret: str | None = None, **headers: str) -> httpx.Response:
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"
    body = made_video(128, 96, 8) if method == "POST" else None
    return httpx.request(method, server.url + path, headers=headers, content=body, timeout=60)


# -- the table


@pytest.mark.parametrize(("method", "path", "scope"), HTTP, ids=[row[1] for row in HTTP])
@pytest.mark.parametrize("who", ["nobody", "wrong", "basic", "right", "wrong scope", "foreign origin", "foreign host"])
def test_http(locked: Server, secrets: dict[str, str], method: str, path: str, scope: str | None, who: str) -> None:
    right = secrets[scope or "detect"]
    other = secrets["stream" if scope in ("detect", "admin") else "admin"]
    match who:
        case "nobody":
            answer = ask(locked, method, path)
            assert "Bearer" in problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        case "wrong":
            problem(ask(locked, method, path, "stm_" + 43 * "x"), 401, "unauthorized")
        case "basic":
            problem(ask(locked, method, path, Authorization="Basic eDp5"), 401, "unauthorized")
        case "right":
            answer = ask(locked, method, path, right)
            assert answer.status_code == ELSE.get(path, 200), answer.text
        case "wrong scope" if scope is None:
            assert ask(locked, method, path, other).status_code == ELSE.get(path, 200)
        case "wrong scope":
            assert scope in problem(ask(locked, method, path, other), 403, "forbidden")
        case "foreign origin":
            problem(ask(locked, method, path, right, Origin="https://evil.example"), 403, "forbidden")
        case "foreign host":
            problem(ask(locked, method, path, right, Host="evil.example"), 403, "forbidden")
    if who != "right":
        assert all(header in ask(locked, method, path).headers for header in SECURITY)


@pytest.mark.parametrize("path", OPEN)
def test_what_is_open_is_open_but_not_to_other_pages(locked: Server, path: str) -> None:
    answer, status = ask(locked, "GET", path), 426 if path == NOT_HTTP else 200
    assert answer.status_code == status
    assert all(header in answer.headers for header in SECURITY)
    assert ask(locked, "GET", path, Origin=locked.url).status_code == status
    problem(ask(locked, "GET", path, Origin="null"), 403, "forbidden")
    problem(ask(locked, "GET", path, Host="evil.example:8000"), 403, "forbidden")


def test_the_table_knows_every_route() -> None:
    web = create_app(Service(Settings()))
    routers = (meta, models, detect, draw, stream_ws, pulled, following, previews, events, teach, asyncapi)
    routes = [*web.routes, *(route for part in routers for route in part.router.routes), *models.changes.routes]
    asked = {route.path for route in routes if isinstance(route, APIRoute)} | {web.openapi_url}
    # test_whose_a_pulled_stream_is, and test_looking.py
    looks = {pulled.ONE + what for what in ("", "/events", "/rules", "/ws", "/snapshot.jpg", "/preview.mjpg")}
    ours = looks | {"/v1/tokens"}
    ours |= {f"/v1/events/{{event_id}}/{what}" for what in ("clip.mp4", "thumbnail.jpg")}  # test_clip_routes.py
    ours |= {models.ONE, models.ONE + "/default"}  # test_models.py
    taught = ("/clips", "/clips/{clip_id}", "/lesson", "/draft.html", "/kept", "/trial")  # test_teach_routes.py
    ours |= {teach.TEACH + what for what in taught}
    assert asked == {path for _, path, _ in HTTP if path != "/nowhere"} | PUBLIC | ours
    assert {route.path for route in routes if isinstance(route, APIWebSocketRoute)} == {
        "/v1/streams/ws", pulled.ONE + "/ws"
    }  # fmt: skip


def socket_says(server: Server, header: str | None, in_start: str | None, say_start: bool = True) -> tuple[str, int]:
    """What comes first of a stream: the type or the error's code; and the close code, 0 for none."""
    headers = {} if header is None else {"Authorization": f"Bearer {header}"}
    with plain_socket(server, additional_headers=headers) as socket:
        if say_start:
            with contextlib.suppress(ConnectionClosed):  # refused already
                socket.send(json.dumps({"type": "start"} | ({} if in_start is None else {"api_key": in_start})))
        message = json.loads(socket.recv(20))
        if message["type"] == "ready":
            return "ready", 0
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None
        return message["code"], closed.value.rcvd.code


SOCKET = [
    ("nobody", None, None, ("unauthorized", 4401)),
    ("wrong header", "stm_wrong", None, ("unauthorized", 4401)),
    ("wrong in start", None, "stm_wrong", ("unauthorized", 4401)),
    ("right header, wrong in start", "stream", "stm_wrong", ("unauthorized", 4401)),
    ("wrong header, right in start", "stm_wrong", "stream", ("unauthorized", 4401)),
    ("header", "stream", None, ("ready", 0)),
    ("start", None, "stream", ("ready", 0)),
    ("wrong scope", "detect", None, ("forbidden", 4401)),
    ("admin is not stream", None, "admin", ("forbidden", 4401)),
]


@pytest.mark.parametrize(("name", "header", "in_start", "expected"), SOCKET, ids=[row[0] for row in SOCKET])
def test_websocket(
    locked: Server, secrets: dict[str, str], name: str, header: str | None, in_start: str | None, expected: object
) -> None:
    known = dict(secrets)
    found = socket_says(locked, header and known.get(header, header), in_start and known.get(in_start, in_start))
    assert found == expected


def test_a_wrong_header_is_refused_before_start(locked: Server) -> None:
    assert socket_says(locked, "stm_wrong", None, say_start=False) == ("unauthorized", 4401)


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}], ids=str)
def test_websocket_of_another_page(locked: Server, secrets: dict[str, str], headers: dict[str, str]) -> None:
    host, port = locked.url.removeprefix("http://").split(":")
    foreign = Server(f"http://{headers.get('Host', f'{host}:{port}')}", locked.process)
    tcp = sockets.create_connection((host, int(port)))
    with pytest.raises(InvalidStatus) as refused, plain_socket(foreign, sock=tcp, origin=headers.get("Origin")):
        pass
    assert refused.value.response.status_code == 403


def test_another_keys_stream_is_none(locked: Server, secrets: dict[str, str]) -> None:
    """Its token opens it for its own key alone, and tells another one no more than a made-up token would."""
    start = {"type": "start", "keyframe_hz": 4, "score_threshold": 1, "lookahead_ms": 0}

    def begun(socket: ClientConnection, secret: str, **more: str) -> tuple[str, list[str]]:
        socket.send(json.dumps(start | {"api_key": secret} | more))
        ready = json.loads(socket.recv(20))
        assert ready["type"] == "ready"
        said = [json.loads(socket.recv(20))["code"]] if more and ready["resume_token"] != more["resume_token"] else []
        return ready["resume_token"], said

    with contextlib.ExitStack() as stack:

        def connected() -> ClientConnection:  # each only when it begins: a socket that does not is closed
            return stack.enter_context(plain_socket(locked))

        owners = connected()
        token, _ = begun(owners, secrets["stream"])
        for guess in (token, "made-up"):
            other, said = begun(connected(), secrets["other"], resume_token=guess)
            assert said == ["resume_expired"]
            assert other != token
        owners.send(jpeg(0))
        assert json.loads(owners.recv(20))["type"] == "result"  # undisturbed
        assert begun(connected(), secrets["stream"], resume_token=token) == (token, [])


# -- limits


def test_a_key_has_its_own_streams(locked: Server, secrets: dict[str, str]) -> None:
    start = json.dumps({"type": "start", "api_key": secrets["thin"]})
    admin = {"Authorization": f"Bearer {secrets['admin']}"}
    with plain_socket(locked) as first:
        first.send(start)
        assert json.loads(first.recv(20))["type"] == "ready"
        assert socket_says(locked, None, secrets["thin"]) == ("over_limit", 1013)
        answer = ask(locked, "POST", "/v1/detect", secrets["thin"])
        assert "1 streams" in problem(answer, 429, "over_limit")
        assert int(answer.headers["retry-after"]) >= 1
        assert "1 streams" in problem(ask(locked, "POST", "/v1/draw", secrets["thin"]), 429, "over_limit")
        assert ask(locked, "POST", "/v1/detect", secrets["detect"]).status_code == 200
    text = httpx.get(locked.url + "/metrics", headers=admin).text
    assert 'stmixer_streams_rejected_total{reason="key_limit"} 3.0' in text
    eventually(lambda: ask(locked, "POST", "/v1/detect", secrets["thin"]).status_code, lambda status: status == 200)


def test_a_keys_stream_that_nobody_is_connected_to_gives_way_to_its_next(
    locked: Server, secrets: dict[str, str]
) -> None:
    start = json.dumps({"type": "start", "api_key": secrets["lone"]})
    with Wire(int(locked.url.rpartition(":")[2])) as wire, plain_socket(Server(wire.url, locked.process)) as first:
        first.send(start)
        assert json.loads(first.recv(20))["type"] == "ready"
        assert socket_says(locked, None, secrets["lone"]) == ("over_limit", 1013)
        wire.cut()
        eventually(lambda: socket_says(locked, None, secrets["lone"]), lambda said: said == ("ready", 0))


def send_for_ever(socket: ClientConnection, data: bytes) -> None:
    while True:
        socket.send(data)


def test_a_key_has_its_own_bytes(locked: Server, secrets: dict[str, str]) -> None:
    picture = jpeg(0) + bytes(300_000)
    with plain_socket(locked) as socket:
        socket.send(json.dumps({"type": "start", "api_key": secrets["poor"]}))
        assert json.loads(socket.recv(20))["type"] == "ready"
        with pytest.raises(ConnectionClosed) as closed:
            send_for_ever(socket, picture)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4429
    answer = httpx.post(
        locked.url + "/v1/detect", content=(OWN_CLIPS / "fall.mp4").read_bytes(), timeout=60,
        headers={"Authorization": f"Bearer {secrets['poor']}"},
    )  # fmt: skip
    assert "MB a minute" in problem(answer, 429, "over_limit")


def test_requests_are_counted_by_the_minute() -> None:
    now = 0.0
    budget = Budget(60, lambda: now)
    assert [budget.spend(1) for _ in range(60)] == [0] * 60
    wait_s = budget.spend(1)
    assert wait_s == 1
    now = float(wait_s)
    assert budget.spend(30) == 0  # overdrawn by one use
    assert budget.spend(1) == 30
    now += 30
    assert budget.spend(1) == 0
    assert Budget(None, lambda: 0.0).spend(1e9) == 0


def test_a_request_too_many_is_refused(tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys.json", "thrifty", requests_per_minute=2)
    other = add_key(tmp_path / "keys.json", "other")
    access = Access(tmp_path / "keys.json", clock=lambda: 0.0)
    transport = httpx.ASGITransport(create_app(Service(Settings(keys=tmp_path / "keys.json"), access=access)))

    async def use() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def asked(key: str) -> httpx.Response:
                return await client.get("/openapi.json", headers={"Authorization": f"Bearer {key}"})

            answers = [await asked(secret) for _ in range(3)]
            assert [answer.status_code for answer in answers[:2]] == [200, 200]
            assert "2 requests a minute" in problem(answers[-1], 429, "over_limit")
            assert answers[-1].headers["retry-after"] == "30"
            assert (await asked(other)).status_code == 200

    asyncio.run(use())


# -- keys as they are kept


def test_only_hashes_are_kept(key_file: Path, secrets: dict[str, str], locked: Server) -> None:
    text = key_file.read_text()
    assert key_file.stat().st_mode & 0o077 == 0
    for name, secret in secrets.items():
        assert name in text
        assert secret not in text
        assert secret.removeprefix("stm_") not in text
        assert digest(secret) in text
        assert not any(secret in line for line in locked.log)


def test_a_key_that_is_taken_away_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    one, two = add_key(path, "one"), add_key(path, "two")
    access = Access(path)
    caller = access.caller(one)
    assert caller.key is not None
    assert caller.key.scopes == ("detect", "stream")
    write_keys(path, KeyFile(keys=[key for key in read_keys(path).keys if key.name != "one"]))
    with pytest.raises(AccessError):
        access.caller(one)
    path.write_text("{")  # an editor in the middle of its work
    assert access.caller(two).key is not None
    with pytest.raises(AccessError):
        access.caller(one)


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{}]}', '{"keys": [], "more": 1}'])
def test_a_key_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(StartError) as refused:
        Access(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("arguments", [["add", "one"], ["add", "two", "--scope", "all"], ["remove", "nobody"]], ids=str)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: list[str]) -> None:
    file = ["--keys", str(tmp_path / "keys.json")]
    add_key(tmp_path / "keys.json", "one")
    refused = CliRunner().invoke(app, ["keys", *arguments, *file])
    assert isinstance(refused.exception, InputError)
    listed = CliRunner().invoke(app, ["keys", "list", *file])
    assert listed.output == "one\tdetect,stream\t8 streams, 600 requests and 4096 MB a minute\n"


# -- TLS, and the names of a service that others reach


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


@pytest.mark.slow
def test_tls_and_names(
    tiny_weights: Path, certificate: tuple[Path, Path], key_file: Path, secrets: dict[str, str]
) -> None:
    chain, key = certificate
    context = ssl.create_default_context(cafile=str(chain))
    settings = {"ssl_certfile": chain, "ssl_keyfile": key, "keys": key_file, "allowed_hosts": "cam.example,stmixer"}
    with running_server(weights=tiny_weights, host="0.0.0.0", **settings) as open_server:
        url = open_server.url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https://")
        for host, status in (
            ("cam.example", 200), ("127.0.0.1", 200), ("10.0.0.7:8000", 200), ("stmixer:8000", 200),
            ("localhost", 200), (sockets.gethostname(), 200),
            ("evil.example", 403), ("cam.example.evil", 403), ("evil", 403), ("stmixer.evil", 403), ("wpad:8000", 403),
        ):  # fmt: skip
            answer = httpx.get(url + "/healthz", headers={"Host": host}, verify=context)
            assert answer.status_code == status, host
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        own = {"Host": "cam.example", "Origin": "https://cam.example"}
        assert httpx.get(url + "/healthz", headers=own, verify=context).status_code == 200
        own["Origin"] = "http://cam.example"
        assert httpx.get(url + "/healthz", headers=own, verify=context).status_code == 403
        host, port = url.removeprefix("https://").split(":")
        with sockets.create_connection((host, int(port)), timeout=30) as silent:  # asyncio would wait for a minute
            assert silent.recv(1) == b""
        server = Server(url, open_server.process)
        for newest, spoken in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_1, None)):
            old = ssl.create_default_context(cafile=str(chain))
            old.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, newest
            with (
                sockets.create_connection((host, int(port)), timeout=30) as connection,
                contextlib.nullcontext() if spoken else pytest.raises(ssl.SSLError),
                old.wrap_socket(connection, server_hostname=host) as client,
            ):
                assert client.version() == spoken
        with plain_socket(server, ssl=context) as socket:
            socket.send(json.dumps({"type": "start", "api_key": secrets["stream"]}))
            assert json.loads(socket.recv(20))["type"] == "ready"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"ssl_keyfile": "key.pem"}, "--ssl-certfile"),
        ({"keys": "none.json", "allow_anonymous": True}, "exclude each other"),
        ({"host": "0.0.0.0"}, "--keys"),
    ],
    ids=str,
)
def test_locks_that_contradict_each_other(options: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Settings.model_validate(options)


def test_a_certificate_that_is_none(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key = certificate
    locked_key = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "rsa", "-aes128", "-passout", "pass:x", "-in", key, "-out", locked_key],
        check=True, capture_output=True,
    )  # fmt: skip
    check_certificate(Settings(ssl_certfile=chain, ssl_keyfile=key))
    for one, other in ((tmp_path / "none.pem", None), (chain, None), (chain, locked_key), (key, key)):
        with pytest.raises(StartError) as refused:
            check_certificate(Settings(ssl_certfile=one, ssl_keyfile=other))
        assert str(one) in str(refused.value)


def test_a_key_is_made_on_the_command_line_and_shown_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = CliRunner().invoke(app, ["keys", "add", "me", "--keys", str(path), "--scope", "admin", "--streams", "3"])
    assert made.exit_code == 0, made.output
    key = Access(path).caller(made.stdout.split()[0]).key
    assert key is not None
    assert (key.name, key.scopes, key.streams) == ("me", ("admin",), 3)
    assert CliRunner().invoke(app, ["keys", "remove", "me", "--keys", str(path)]).exit_code == 0
    assert read_keys(path).keys == ()


def test_whose_a_pulled_stream_is(locked: Server, secrets: dict[str, str]) -> None:
    def said(method: str, path: str, who: str | None, **order: object) -> httpx.Response:
        headers = {} if who is None else {"Authorization": f"Bearer {secrets[who]}"}
        return httpx.request(method, locked.url + path, headers=headers, json=order or None, timeout=60)

    order = {"url": "rtsp://no-such-name.invalid/cam"}
    problem(said("POST", "/v1/streams", None, **order), 401, "unauthorized")
    problem(said("POST", "/v1/streams", "detect", **order), 403, "forbidden")
    begun = said("POST", "/v1/streams", "stream", **order)
    assert begun.status_code == 201, begun.text
    path = f"/v1/streams/{begun.json()['id']}"
    for method, what in (("GET", path), ("DELETE", path), ("GET", path + "/events")):
        problem(said(method, what, None), 401, "unauthorized")
        problem(said(method, what, "other"), 404, "not_found")
    for method, what in (("DELETE", path), ("GET", path + "/events")):
        problem(said(method, what, "detect"), 403, "forbidden")
    assert said("GET", path, "admin").json()["key"] == "stream"
    assert said("GET", path, "stream").status_code == 200
    assert said("DELETE", path, "stream").status_code == 204
