"""Looking at pulled streams over the wire: WebSocket, snapshot, MJPEG, and tokens where no header can be sent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from posting import eventually, problem
from serving import Server, running_server
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from ws_client import Client

from stmixer.media.encode import decode_jpeg
from stmixer.media.limits import Limits
from stmixer.service.access import MOST_TOKENS, TOKEN_S, Access
from stmixer.service.api.app import create_app
from stmixer.service.api.service import Service
from stmixer.service.errors import AccessError
from stmixer.service.key_file import Key, KeyFile, digest, write_keys
from stmixer.service.settings import Settings

KEYS = [("boss", ("admin", "stream")), ("viewer", ("stream",)), ("other", ("stream",)), ("poster", ("detect",))]


def key_file(folder: Path) -> Path:
    """Each key's secret is its name."""
    path = folder / "keys.json"
    write_keys(path, KeyFile(keys=tuple(Key(name=n, sha256=digest(n), scopes=s) for n, s in KEYS)))
    return path


@pytest.fixture(scope="module")
def service(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = key_file(tmp_path_factory.mktemp("keys"))
    with running_server(weights=tiny_weights, allow_files=OWN_CLIPS, keys=keys) as server:
        server.admin_key = "boss"
        yield server


@pytest.fixture(scope="module")
def walk(service: Server) -> str:
    """The address of a stream of the viewer's that shows people, for ever."""
    order = {"url": "file:walk.mp4", "loop": True, "score_threshold": 0, "keyframe_hz": 2, "top_k": 1}
    answer = httpx.post(service.url + "/v1/streams", json=order, headers=bearer("viewer"))
    assert answer.status_code == 201, answer.text
    address = f"{service.url}/v1/streams/{answer.json()['id']}"
    problem(httpx.get(service.url + "/v1/streams/9999/snapshot.jpg", headers=bearer("viewer")), 404, "not_found")
    eventually(lambda: look(address), lambda stream: stream["pulled"]["freshness_ms"] is not None, 60)
    return address


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def look(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(address, headers=bearer("viewer")).json()
    return found


@contextlib.contextmanager
def following(address: str, **start: object) -> Iterator[Client]:
    """Connected, and said so."""
    with connect(address.replace("http", "ws") + "/ws", subprotocols=["stmixer.v1"]) as socket:  # type: ignore[list-item]
        client = Client(socket)
        client.say("start", **start)
        yield client


def test_the_messages_of_a_socket_are_those_of_events_and_go_on_where_one_was(walk: str) -> None:
    with following(walk, api_key="viewer") as client:
        ready = client.first("ready")
        assert (ready["pulled"]["url"], ready["session_id"]) == ("file:walk.mp4", walk.rpartition("/")[2])
        assert (ready["keyframe_hz"], ready["labels"][0]["id"]) == (2, 1)
        client.wait(lambda: len(client.of("result")) >= 3, 60)
        results = client.of("result")
        assert [r["seq"] for r in results] == sorted({r["seq"] for r in results})
        assert any(result["actors"] for result in results)
        numbered = [m["event_id"] for m in client.messages if m["type"] != "ready"]
        assert numbered == list(range(numbered[0], numbered[0] + len(numbered)))
        client.say("stop")
        eventually(lambda: client.close_code)
        assert (client.close_code, client.close_reason) == (1000, "stopped")
    said = {m["event_id"]: m for m in client.messages if m["type"] != "ready"}
    with following(walk, api_key="viewer", last_event_id=numbered[0]) as again:
        again.wait(lambda: len(again.messages) >= len(numbered), 60)
        for message in again.messages[1 : len(numbered)]:
            before = said[message["event_id"]]
            assert {**message, "at": 0} == {**before, "at": 0}


def test_who_may_not_follow_is_told_and_closed(service: Server, walk: str) -> None:
    cases = [
        (walk, {"api_key": "nobody"}, 4401, "unauthorized"), (walk, {}, 4401, "unauthorized"),
        (walk, {"api_key": "poster"}, 4401, "forbidden"), (walk, {"api_key": "other"}, 4404, "not_found"),
        (service.url + "/v1/streams/9999", {"api_key": "viewer"}, 4404, "not_found"),
        (walk, {"api_key": "viewer", "codec": "jpeg"}, 4400, "bad_message"),
    ]  # fmt: skip
    for address, start, close, code in cases:
        with following(address, **start) as client:
            assert client.first("error")["code"] == code, start
            eventually(lambda client=client: client.close_code)
            assert client.close_code == close
    with following(walk, api_key="viewer") as client:
        client.first("ready")
        client.socket.send(b"\xff\xd8")
        assert client.first("error")["code"] == "bad_message"
    answer = httpx.get(walk + "/ws", headers=bearer("viewer"))
    problem(answer, 426, "upgrade_required")


def test_a_socket_ends_with_its_stream(service: Server) -> None:
    order = {"url": "file:walk.mp4", "loop": True}
    number = httpx.post(service.url + "/v1/streams", json=order, headers=bearer("viewer")).json()["id"]
    address = f"{service.url}/v1/streams/{number}"
    with following(address, api_key="boss") as client:
        client.first("ready")
        assert httpx.delete(address, headers=bearer("viewer")).status_code == 204
        eventually(lambda: client.close_code)
        assert (client.close_code, client.close_reason) == (1000, "the stream has ended")
        assert [message["type"] for message in client.messages].index("summary") == len(client.messages) - 1


def test_a_socket_ends_with_a_file_that_is_played_once(service: Server) -> None:
    order = {"url": "file:fall.mp4"}
    address = service.url + "/v1/streams/"
    address += httpx.post(service.url + "/v1/streams", json=order, headers=bearer("viewer")).json()["id"]
    with following(address, api_key="viewer", last_event_id=0) as client:
        eventually(lambda: client.close_code, timeout_s=60)
        assert (client.close_code, client.close_reason) == (1000, "the stream has ended")
        assert [message["type"] for message in client.messages].index("summary") == len(client.messages) - 1
    assert look(address)["pulled"]["state"] == "ended"
    assert httpx.delete(address, headers=bearer("viewer")).status_code == 204


def test_who_comes_while_the_service_leaves_is_told_to_come_again() -> None:
    leaving = Service(Settings())
    leaving.begin_drain()
    with TestClient(create_app(leaving)).websocket_connect("ws://localhost/v1/streams/1/ws") as socket:
        socket.send_json({"type": "start"})
        error = socket.receive_json()
        assert (error["code"], error["retryable"]) == ("draining", True)
        assert socket.receive()["code"] == 1013


def test_a_number_of_any_length_is_that_of_no_stream(service: Server) -> None:
    for digits in (18, 19, 5000):
        address = f"{service.url}/v1/streams/{'9' * digits}"
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/ws"), ("GET", "/snapshot.jpg")):
            if (digits, path) != (18, "/ws"):
                problem(httpx.request(method, address + path, headers=bearer("viewer")), 404, "not_found")
    statuses = []
    for path in ("/v1/nowhere", f"/v1/streams/{'9' * 5000}/ws"):
        with pytest.raises(InvalidStatus) as refused, connect(service.url.replace("http", "ws") + path):
            pass
        statuses.append(refused.value.response.status_code)
    assert statuses == [403, 403]
    assert "Traceback" not in "\n".join(service.log)


def test_a_snapshot_and_a_preview_show_the_stream(service: Server, walk: str) -> None:
    answer = httpx.get(walk + "/snapshot.jpg", headers=bearer("viewer"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "no-store"
    height, width, _ = decode_jpeg(answer.content, Limits()).shape
    assert abs(width / height - 16 / 9) < 0.02
    token = httpx.post(service.url + "/v1/tokens", headers=bearer("viewer")).json()["token"]
    with httpx.stream("GET", walk + "/preview.mjpg", params={"token": token}, timeout=60) as preview:
        assert preview.headers["content-type"] == "multipart/x-mixed-replace; boundary=picture"
        data = b""
        for chunk in preview.iter_raw():
            data += chunk
            if data.count(b"--picture\r\n") >= 3:
                break
    parts = data.split(b"--picture\r\n")[1:3]
    pictures = [part.partition(b"\r\n\r\n")[2][:-2] for part in parts]
    assert [decode_jpeg(picture, Limits()).shape for picture in pictures] == [(height, width, 3)] * 2
    assert pictures[0] != pictures[1]
    assert token not in "\n".join(service.log)


@pytest.mark.parametrize("what", ["preview.mjpg", "events"])
def test_head_of_what_never_ends_ends(walk: str, what: str) -> None:
    """Its headers are those of GET, and the connection can be asked again."""
    with httpx.Client(headers=bearer("viewer"), timeout=20) as client:
        for _ in range(2):
            head = client.head(f"{walk}/{what}")
            with client.stream("GET", f"{walk}/{what}") as got:
                assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
                assert head.headers["content-type"] == got.headers["content-type"]


EVENTS = "/v1/streams/1/events"


def test_a_token_opens_what_its_key_may_see_and_nothing_else(service: Server, walk: str) -> None:
    problem(httpx.post(service.url + "/v1/tokens"), 401, "unauthorized")
    problem(httpx.post(service.url + "/v1/tokens", headers=bearer("poster")), 403, "forbidden")
    made = httpx.post(service.url + "/v1/tokens", headers=bearer("viewer"))
    assert (made.status_code, made.json()["expires_in_s"]) == (201, 60)
    mine = {"token": made.json()["token"]}
    other = {"token": httpx.post(service.url + "/v1/tokens", headers=bearer("other")).json()["token"]}
    assert httpx.get(walk + "/snapshot.jpg", params=mine).status_code == 200
    problem(httpx.get(walk + "/snapshot.jpg", params=other), 404, "not_found")
    problem(httpx.get(walk + "/snapshot.jpg", params={"token": "x"}), 401, "unauthorized")
    problem(httpx.get(walk + "/snapshot.jpg"), 401, "unauthorized")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/ws")):
        problem(httpx.request(method, walk + path, params=mine), 401, "unauthorized")
    problem(httpx.get(service.url + "/v1/streams", params=mine), 401, "unauthorized")
    with httpx.stream("GET", walk + "/events", params=mine, timeout=60) as events:
        assert events.status_code == 200
        assert "result" in next(json.loads(line[6:])["type"] for line in events.iter_lines() if '"result"' in line)


@pytest.mark.parametrize(("opens", "other"), [("snapshot.jpg", "preview.mjpg"), ("events", "snapshot.jpg")])
def test_a_token_may_be_for_one_address(service: Server, walk: str, opens: str, other: str) -> None:
    path = f"{walk.removeprefix(service.url)}/{opens}"
    made = httpx.post(service.url + "/v1/tokens", headers=bearer("viewer"), json={"path": path})
    assert made.status_code == 201
    mine = {"token": made.json()["token"]}
    assert "another address" in problem(httpx.get(f"{walk}/{other}", params=mine), 401, "unauthorized")
    with httpx.stream("GET", f"{walk}/{opens}", params=mine, timeout=60) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "body", [{"path": "/v1/streams"}, {"path": "/v1/streams/1/events/x"}, {"path": 1}, {"paths": []}]
)
def test_a_token_opens_nothing_else(service: Server, body: dict[str, object]) -> None:
    answer = httpx.post(service.url + "/v1/tokens", headers=bearer("viewer"), json=body)
    assert answer.status_code == 422


def test_a_token_expires_and_lapses_with_its_key(tmp_path: Path) -> None:
    now = [0.0]
    access = Access(key_file(tmp_path), clock=lambda: now[0])
    caller = access.caller("viewer")
    token = access.token(caller)
    now[0] = TOKEN_S - 0.1
    assert access.caller_of_token(token, EVENTS) is caller
    now[0] = TOKEN_S
    with pytest.raises(AccessError):
        access.caller_of_token(token, EVENTS)
    fresh = access.token(caller)
    others = access.token(access.caller("other"))
    tokens = [access.token(caller) for _ in range(MOST_TOKENS)]
    with pytest.raises(AccessError, match="not known here"):  # its own oldest has given way
        access.caller_of_token(fresh, EVENTS)
    assert access.caller_of_token(others, EVENTS).name == "other"
    assert [access.caller_of_token(token, EVENTS) for token in tokens] == [caller] * MOST_TOKENS
    fresh = tokens[-1]
    caller.lapse("this key was taken away")
    with pytest.raises(AccessError, match="taken away"):
        access.caller_of_token(fresh, EVENTS)
