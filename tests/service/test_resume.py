"""Sockets that are lost: the stream waits for its client, who comes back with the token; two who come fight fairly."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_video import video
from serving import Server, running_server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from ws_client import Client, Message, check_conservation, jpeg, metric, noise, paced, plain_socket, poll, stream

TTL_S, FOREVER_S = 10.0, 600.0
CAMERA: dict[str, Any] = {"keyframe_hz": 4, "score_threshold": 1, "lookahead_ms": 0}


@pytest.fixture(scope="module")
def patient(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, resume_ttl_s=TTL_S) as server:
        yield server


@pytest.fixture(scope="module")
def forgiving(tiny_weights: Path) -> Iterator[Server]:
    """Waits longer than any test does: what it does not keep has ended at once, and what it keeps stays."""
    with running_server(weights=tiny_weights, resume_ttl_s=FOREVER_S) as server:
        yield server


def reconnects(server: Server) -> dict[str, float]:
    return {why: metric(server, "stream_reconnects_total", reason=why) for why in ("resumed", "evicted", "expired")}


def vanish(client: Client) -> None:
    """No close frame, no farewell."""
    client.socket.socket.close()


def film(client: Client, first: int, results: int, fps: float = 20) -> int:
    """Pictures until there are so many results; the number of the next picture."""
    for n in paced(fps, 30):
        client.picture(jpeg((first + n) % 100))
        if len(client.of("result")) >= results:
            return first + n + 1
    raise AssertionError(client.messages[-3:])


def lost(server: Server, results: int = 3, **start: Any) -> tuple[Message, list[int], int]:
    """A stream whose client vanishes: its ready, the keyframes it saw, its next picture."""
    with plain_socket(server) as socket:
        client = Client(socket)
        client.say("start", **CAMERA | start)
        ready = client.first("ready")
        number = film(client, 0, results)
        vanish(client)
    return ready, [r["seq"] for r in client.of("result")], number


@pytest.mark.parametrize(
    ("breach", "close"),
    [(lambda socket: socket.send(bytes(5 * 2**20)), 1009), (lambda socket: socket.send(b"\xff", text=True), 1007),
     (lambda socket: socket.socket.sendall(b"\x8f\x80\0\0\0\0"), 1002)],
    ids=["larger than any message", "no text", "no frame"],
)  # fmt: skip
def test_a_socket_that_we_close_for_what_it_sent_keeps_no_stream(
    forgiving: Server, breach: Callable[[ClientConnection], None], close: int
) -> None:
    """Its client has broken the protocol: the stream's decoder and place are not held for it."""
    before = metric(forgiving, "streams_active", source="ws")
    with stream(forgiving, **CAMERA) as client:
        token = client.first("ready")["resume_token"]
        with contextlib.suppress(ConnectionClosed):
            breach(client.socket)
        assert client.closed() == close
    assert poll(lambda: metric(forgiving, "streams_active", source="ws") == before)
    with stream(forgiving, **CAMERA, resume_token=token) as client:
        assert client.first("ready")["resume_token"] != token
        client.stop()


def test_a_client_that_comes_back_has_its_stream(patient: Server) -> None:
    assert poll(lambda: metric(patient, "streams_active", source="ws") == 0)  # a test that failed may have left one
    before = reconnects(patient)
    ready, seen, number = lost(patient)
    assert ready["resume_ttl_s"] == TTL_S
    time.sleep(0.7)  # a gap in time, which the stream has as well
    assert metric(patient, "streams_active", source="ws") == 1
    with stream(patient, **CAMERA, resume_token=ready["resume_token"]) as client:
        again = client.first("ready")
        assert {name: again[name] for name in ("session_id", "resume_token", "keyframe_hz")} == {
            name: ready[name] for name in ("session_id", "resume_token", "keyframe_hz")
        }
        film(client, number, 4)
        client.say("stop")
        summary = client.first("summary")
        assert client.closed() == 1000
    check_conservation(summary)
    results = client.of("result")
    assert results[0]["seq"] > seen[-1]
    assert any(r["warming"] for r in results)  # the gap
    assert summary["received"] > number
    assert summary["ok"] >= len(seen) + len(results)
    assert not client.of("warning")
    assert reconnects(patient) == before | {"resumed": before["resumed"] + 1}
    assert poll(lambda: metric(patient, "ring_bytes") == 0)


def test_the_one_who_comes_evicts_the_one_who_has_it(patient: Server) -> None:
    before = reconnects(patient)
    with stream(patient, **CAMERA) as first:
        token = first.first("ready")["resume_token"]
        number = film(first, 0, 2)
        with stream(patient, **CAMERA, resume_token=token) as second:
            second.first("ready")
            close, code, message = first.refused()
            assert (close, code) == (4409, "evicted")
            assert "another socket" in message
            assert first.first("error")["retryable"] is False
            film(second, number, 2)
            second.say("stop")
            summary = second.first("summary")
            assert second.closed() == 1000
    check_conservation(summary)
    assert second.of("result")[0]["seq"] > first.of("result")[-1]["seq"]
    assert reconnects(patient) == before | {"evicted": before["evicted"] + 1}


def test_many_who_come_at_once_leave_one(patient: Server) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(stream(patient, **CAMERA))
        token = first.first("ready")["resume_token"]
        film(first, 0, 1)
        rest = [stack.enter_context(stream(patient, **CAMERA, resume_token=token)) for _ in range(4)]
        everyone = [first, *rest]
        assert poll(lambda: sum(c.close_code == 4409 for c in everyone) == 4)
        (left,) = [c for c in everyone if c.close_code is None]
        film(left, 0, 2)
        left.say("stop")
        check_conservation(left.first("summary"))
        assert left.closed() == 1000
    assert poll(lambda: metric(patient, "streams_active", source="ws") == 0)


def test_a_stream_waits_no_longer_than_it_said(patient: Server) -> None:
    before = reconnects(patient)
    ready, _, _ = lost(patient, 1)
    assert poll(lambda: metric(patient, "streams_active", source="ws") == 0, TTL_S + 5)
    assert poll(lambda: metric(patient, "ring_bytes") == 0)
    with stream(patient, **CAMERA, resume_token=ready["resume_token"]) as late:
        assert late.first("warning")["code"] == "resume_expired"
        assert late.first("ready")["session_id"] != ready["session_id"]
        late.stop()
    assert reconnects(patient) == before | {"expired": before["expired"] + 1}


@pytest.mark.parametrize("farewell", [1000, 1001])
def test_a_client_that_says_goodbye_is_not_waited_for(forgiving: Server, farewell: int) -> None:
    before = metric(forgiving, "streams_active", source="ws")
    with stream(forgiving, **CAMERA) as client:
        client.first("ready")
        client.picture(jpeg(0))
        client.socket.close(farewell)
    assert poll(lambda: metric(forgiving, "streams_active", source="ws") == before)


def test_what_is_resumed_keeps_its_terms(patient: Server) -> None:
    ready, _, number = lost(patient, 1)
    token = ready["resume_token"]
    with stream(patient, **CAMERA | {"keyframe_hz": 2}, resume_token=token) as other:
        close, code, message = other.refused()
    assert (close, code) == (4400, "bad_message")
    assert "keyframe_hz" in message
    with stream(patient, **CAMERA | {"score_threshold": 0, "top_k": 3}, resume_token=token) as client:
        client.first("ready")
        film(client, number, 3)
        newest = client.of("result")[-1]
        client.say("stop")
        client.first("summary")
    assert newest["actors"]
    assert all(len(actor["actions"]) == 3 for actor in newest["actors"])


@pytest.mark.parametrize("kind", ["vp8", "h264"])
def test_a_container_goes_on_in_another_one(patient: Server, kind: str) -> None:
    codec, data, ends = video(kind, 90)
    start = {"codec": codec, "keyframe_hz": 4, "score_threshold": 1, "lookahead_ms": 0}
    with plain_socket(patient) as socket:
        client = Client(socket)
        client.say("start", **start)
        ready = client.first("ready")
        client.socket.send(data[: ends[60] + 7])  # in the middle of a frame
        client.wait(lambda: client.of("result"))
        began = time.monotonic()
        vanish(client)
    seen = client.of("result")[-1]
    time.sleep(0.5)
    with stream(patient, **start, resume_token=ready["resume_token"]) as again:
        assert again.first("ready")["session_id"] == ready["session_id"]
        again.socket.send(data)
        again.wait(lambda: again.of("result"))
        gap_s = time.monotonic() - began
        again.say("stop")
        summary = again.first("summary", 60)
        assert again.closed() == 1000
    check_conservation(summary)
    results = again.of("result")
    assert results[0]["seq"] > seen["seq"]
    assert results[0]["pts_us"] - seen["pts_us"] < (gap_s + 3) * 1e6
    assert summary["received"] > 90 + 30
    assert poll(lambda: metric(patient, "ring_bytes") == 0)


def test_half_a_picture_left_on_its_way_costs_no_stream(patient: Server) -> None:
    """A sender of large pictures goes in the middle: a decoder that waits for the rest of one is replaced."""
    big = noise(1280, 960)
    for _ in range(3):
        with plain_socket(patient) as socket:
            client = Client(socket)
            client.say("start", **CAMERA, policy="all")
            token = client.first("ready")["resume_token"]
            with contextlib.suppress(ConnectionClosed):
                for _ in range(12):
                    client.picture(big)
            client.wait(lambda client=client: client.of("result"))
            vanish(client)
        with stream(patient, **CAMERA, policy="all", resume_token=token) as again:
            again.first("ready")
            for _ in range(6):
                again.picture(big)
            again.say("stop")
            check_conservation(again.first("summary", 60))
            assert again.closed() == 1000


@pytest.mark.slow
def test_a_waiting_stream_does_not_hold_up_the_end(tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, resume_ttl_s=60) as server:
        lost(server, 1)
        with stream(server, **CAMERA) as there:
            token = there.first("ready")["resume_token"]
            film(there, 0, 1)
            asked = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            there.first("goaway")
            with plain_socket(server) as socket:
                socket.send(json.dumps({"type": "start", **CAMERA, "resume_token": token}))
                assert json.loads(socket.recv(10))["code"] == "draining"
            assert there.closed() == 1001
        server.process.wait(15)
        assert time.monotonic() - asked < 12
