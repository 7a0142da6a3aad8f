"""A real fall through a real service: one event, whatever happens meanwhile; and the routes of rules and events."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
import yaml
from conftest import OWN_CLIPS
from posting import eventually, problem
from serving import WORKER_MODULE, Server, running_server
from ws_client import Client, check_conservation, plain_socket

from stmixer.media.encode import encode_jpeg

FALL = {"id": "fall", "label": "fall", "min_score": 0.45, "for_s": 0.5, "clear_s": 60}
START: dict[str, Any] = {
    "policy": "all", "timestamps": "prefix", "keyframe_hz": 4, "score_threshold": 0.3, "rules": [FALL],
}  # fmt: skip
WITHIN_S = 240.0
RATE, SWING = 15, 22
"""Pictures a second of the film, and how many of its last ones a camera that plays on shows again."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("events")
    terms = {"resume_ttl_s": 600, "idle_timeout_s": 600, "allow_files": OWN_CLIPS}
    with running_server(**terms, events_file=folder / "events.db") as server:
        yield server


@pytest.fixture(scope="module")
def pictures() -> list[tuple[int, bytes]]:
    """Somebody falls at 2.5 s and stays down: (µs, JPEG)."""
    with av.open(str(OWN_CLIPS / "fall.mp4")) as clip:
        frames = [(round(frame.time * 1e6), frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
    return [(at_us, encode_jpeg(frame)) for at_us, frame in frames]


def events_of(*clients: Client) -> list[dict[str, Any]]:
    return [message["event"] for client in clients for message in client.of("event")]


def check_one_fall(server: Server, events: list[dict[str, Any]]) -> None:
    """One, told from its start to its end."""
    told = [event for event in events if event["state"] != "update"]
    assert [(event["rule"], event["state"]) for event in told] == [("fall", "start"), ("fall", "end")]
    start, end = told
    assert (end["event_id"], end["reason"]) == (start["event_id"], "stream_ended")
    assert end["score_max"] >= start["score_max"] >= 0.36
    assert start["started_at_us"] <= end["ended_at_us"]
    assert start["box"][3] > 0.8  # on the floor
    address, mine = server.url + "/v1/events", {"stream": start["stream"]}
    listed = httpx.get(address, params=mine).json()
    latest = listed.pop("latest")
    assert listed == {"events": [end], "next": None, "clips": False}
    assert httpx.get(address, params={**mine, "after": 0}).json()["events"] == [end]
    assert httpx.get(address, params={**mine, "after": latest}).json()["events"] == []


def send(client: Client, pictures: list[tuple[int, bytes]]) -> None:
    for at_us, picture in pictures:
        client.picture(picture, at_us)


@pytest.mark.slow
def test_a_fall_is_one_event(service: Server, pictures: list[tuple[int, bytes]]) -> None:
    with plain_socket(service) as socket:
        client = Client(socket)
        client.say("start", **START)
        send(client, pictures)
        client.stop(WITHIN_S)
        check_one_fall(service, events_of(client))
        kinds = [message["type"] for message in client.messages]
        assert kinds[-1] == "summary"
        assert kinds.index("event") > kinds.index("result")


@pytest.mark.slow
def test_it_is_one_with_the_worker_killed_in_the_middle(service: Server, pictures: list[tuple[int, bytes]]) -> None:
    with plain_socket(service) as socket:
        client = Client(socket)
        client.say("start", **START)
        half = len(pictures) * 9 // 10  # 4.8 s: smoothed, half a second of the fall is there
        send(client, pictures[:half])
        client.first("event", WITHIN_S)
        for worker in service.children_of(WORKER_MODULE):
            worker.kill()
        send(client, pictures[half:])
        client.stop(WITHIN_S)
        check_one_fall(service, events_of(client))


@pytest.mark.slow
def test_it_is_one_with_the_socket_lost_and_resumed(service: Server, pictures: list[tuple[int, bytes]]) -> None:
    half = len(pictures) * 9 // 10  # 4.8 s: smoothed, half a second of the fall is there
    with plain_socket(service) as socket:
        first = Client(socket)
        first.say("start", **START)
        send(first, pictures[:half])
        first.first("event", WITHIN_S)
        token = first.first("ready")["resume_token"]
        first.socket.socket.close()  # no farewell
    with plain_socket(service) as socket:
        second = Client(socket)
        second.say("start", resume_token=token, **START)
        second.first("ready", WITHIN_S)
        send(second, pictures[half:])
        second.say("stop")
        check_conservation(second.first("summary", WITHIN_S))
        check_one_fall(service, events_of(first, second))


@contextmanager
def playing(pictures: list[tuple[int, bytes]]) -> Iterator[str]:
    """A camera by HTTP that plays on whoever looks, from when somebody first does; after the film its last second and a
    half, to and fro. Its address.
    """
    ends, began, last = threading.Event(), list[float](), len(pictures) - 1

    def shown() -> bytes:
        number = int(RATE * (time.monotonic() - began[0]))
        swing = (number - last) % (2 * SWING)
        return pictures[number if number <= last else last - min(swing, 2 * SWING - swing)][1]

    class Film(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            began.append(time.monotonic())
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with suppress(ConnectionError):
                while not ends.wait(1 / RATE):
                    picture = shown()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Film) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hall.mjpg"
        finally:
            ends.set()
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_of_a_pulled_stream_it_is_one_though_the_service_is_killed_and_begins_again(
    tmp_path: Path, pictures: list[tuple[int, bytes]]
) -> None:
    """The camera plays on meanwhile, and who fell stays down."""

    def listed(server: Server) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(server.url + "/v1/events").json()["events"]
        return found

    with playing(pictures) as url:
        order = {"name": "hall", "url": url, "keyframe_hz": 2, "score_threshold": 0.3, "rules": [{**FALL, "for_s": 0}]}
        (tmp_path / "streams.yaml").write_text(yaml.safe_dump({"streams": [order]}))
        terms = {"streams": tmp_path / "streams.yaml", "events_file": tmp_path / "events.db"}
        with running_server(**terms, allow_networks="127.0.0.1") as server:
            (before,) = eventually(lambda: listed(server), timeout_s=WITHIN_S)
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait(10)
            server.process.returncode = 0  # running_server expects a service that ends by itself
        assert before["stream"] == "hall"
        assert before["state"] in ("start", "update"), "it goes on"
        with running_server(**terms, allow_networks="127.0.0.1") as server:
            number = httpx.get(server.url + "/v1/streams").json()["streams"][0]["id"]
            (after,) = eventually(
                lambda: listed(server), lambda events: events[0]["track_id"] > before["track_id"], WITHIN_S
            )
            assert (after["event_id"], after["state"]) == (before["event_id"], "update")
            assert httpx.delete(f"{server.url}/v1/streams/{number}").status_code == 204
            (end,) = eventually(lambda: listed(server), lambda events: events[0]["state"] == "end", 30)
            assert (end["event_id"], end["reason"]) == (before["event_id"], "stream_ended")


def test_rules_of_a_stream_are_read_and_changed_while_it_runs(service: Server) -> None:
    order = {"url": "file:fall.mp4", "loop": True, "rules": [FALL]}
    number = httpx.post(service.url + "/v1/streams", json=order).raise_for_status().json()["id"]
    address = f"{service.url}/v1/streams/{number}/rules"
    (rule,) = httpx.get(address).json()["rules"]
    assert rule == {**FALL, "person": None, "zone": None, "count": None, "cooldown_s": None, "clip": None}
    here = {"id": "here", "person": True, "zone": [[0, 0], [1, 0], [1, 1]]}
    (changed,) = httpx.put(address, json={"rules": [here]}).raise_for_status().json()["rules"]
    assert (changed["id"], changed["zone"]) == ("here", here["zone"])
    said = problem(httpx.put(address, json={"rules": [{**FALL, "label": "fal"}]}), 422, "bad_rule")
    assert "did you mean 'fall'?" in said
    assert httpx.get(address).json()["rules"] == [changed]
    problem(httpx.put(address, json={"rules": [{"id": "x"}]}), 422, "bad_option")
    problem(httpx.post(service.url + "/v1/streams", json={**order, "rules": [FALL, FALL]}), 422, "bad_rule")
    assert httpx.delete(f"{service.url}/v1/streams/{number}").status_code == 204
    problem(httpx.get(address), 404, "not_found")
    problem(httpx.put(address, json={"rules": []}), 404, "not_found")


def test_a_socket_whose_rules_cannot_be_is_refused(service: Server) -> None:
    with plain_socket(service) as socket:
        client = Client(socket)
        client.say("start", rules=[{**FALL, "zone": [[0, 0], [1, 1]]}])
        code, name, message = client.refused()
        assert (code, name) == (4400, "bad_rule")
        assert message == "rule 'fall': zone: an area has at least 3 corners, not 2"
