"""What the log says of requests and streams, and how it is found from an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from posting import eventually, post
from serving import Server, running_server
from ws_client import jpeg, stream

FALL = OWN_CLIPS / "fall.mp4"


@pytest.fixture(scope="module")
def talking(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, log_format="json") as server:
        yield server


def lines(server: Server, message: str, **wanted: Any) -> list[dict[str, Any]]:
    """Its log's lines of one kind; every line must be an object."""
    parsed = [json.loads(line) for line in [*server.log]]
    return [line for line in parsed if line["message"] == message and wanted.items() <= line.items()]


def one(server: Server, message: str, **wanted: Any) -> dict[str, Any]:
    found = eventually(lambda: lines(server, message, **wanted))
    assert len(found) == 1
    return found[0]


def test_an_upload_leaves_a_line_for_the_request_and_one_for_the_stream(talking: Server) -> None:
    answer = httpx.post(
        talking.url + "/v1/detect?top_k=1", content=FALL.read_bytes(), headers={"X-Request-Id": "my-clip.1"}, timeout=60
    )
    assert answer.headers["x-request-id"] == "my-clip.1"
    line = one(talking, "request", request_id="my-clip.1")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/detect", 200)
    assert line["took_ms"] > 0
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    ended = one(talking, "stream ended", request_id="my-clip.1")
    assert ended["summary"] == answer.json()["summary"]
    assert (ended["source"], ended["ended"]) == ("upload", "finished")


def test_a_problem_carries_the_id_of_its_line(talking: Server) -> None:
    answer = post(talking, b"not a video")
    assert answer.status_code == 400
    request_id = answer.json()["request_id"]
    assert answer.headers["x-request-id"] == request_id
    assert one(talking, "request", request_id=request_id)["status"] == 400
    assert one(talking, "stream ended", request_id=request_id)["ended"] == answer.json()["code"]


def test_a_camera_leaves_a_line_for_its_socket_and_one_for_its_stream(talking: Server) -> None:
    with stream(talking, keyframe_hz=4, lookahead_ms=0) as client:
        assert client.socket.response is not None
        request_id = client.socket.response.headers["x-request-id"]
        for number in range(3):
            client.picture(jpeg(number))
        summary = client.stop()
    line = one(talking, "request", request_id=request_id)
    assert (line["method"], line["status"], line["close_code"]) == ("WEBSOCKET", 101, 1000)
    told = one(talking, "stream ended", request_id=request_id)
    assert told["ended"] == "finished"
    assert {name: summary[name] for name in told["summary"]} == told["summary"]


@pytest.mark.parametrize("offered", ["two words", "x" * 65, 'quote"d', ""])
def test_an_id_that_a_line_cannot_hold_is_replaced(talking: Server, offered: str) -> None:
    given = httpx.get(talking.url + "/v1/labels", headers={"X-Request-Id": offered}).headers["x-request-id"]
    assert given != offered
    one(talking, "request", request_id=given, path="/v1/labels")


def test_neither_a_query_nor_a_line_break_gets_into_a_line(talking: Server) -> None:
    given = httpx.get(talking.url + "/no%0Asuch?token=secret", headers={"X-Request-Id": "broken"})
    assert given.status_code == 404
    assert one(talking, "request", request_id="broken")["path"] == "/no%0Asuch"
    assert not any("secret" in line for line in talking.log)


def test_console_lines_say_the_same(server: Server) -> None:
    httpx.get(server.url + "/v1/labels", headers={"X-Request-Id": "for-people"})
    (line,) = eventually(lambda: [line for line in [*server.log] if "request_id=for-people" in line])
    assert line.startswith("request method=GET path=/v1/labels client=127.0.0.1 status=200 took_ms=")


def test_probes_and_scrapes_that_go_well_are_for_debugging(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"):
        assert httpx.get(server.url + path, headers={"X-Request-Id": "probe"}).status_code == 200
    assert httpx.post(server.url + "/healthz", headers={"X-Request-Id": "wrong"}).status_code == 405
    httpx.get(server.url + "/v1/labels", headers={"X-Request-Id": "after-them"})
    eventually(lambda: [line for line in [*server.log] if "request_id=after-them" in line])
    assert [line for line in [*server.log] if "request_id=wrong" in line]
    assert not [line for line in [*server.log] if "request_id=probe" in line]
