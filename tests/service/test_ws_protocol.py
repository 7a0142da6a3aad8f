"""The WebSocket protocol `stmixer.v1`, said by a real client to a real service."""

from __future__ import annotations

import contextlib
import socket as sockets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from drills import answer_within
from serving import Server, running_server
from websockets.exceptions import ConnectionClosed
from ws_client import Client, check_conservation, jpeg, metric, noise, paced, plain_socket, poll, prefixed, stream

from stmixer.service.api import stream_ws
from stmixer.service.errors import StmixerError

FRAME_US = 33_333
ALL: dict[str, Any] = {"policy": "all", "timestamps": "prefix", "score_threshold": 0}
STEP_US = 500_000


def send(client: Client, numbers: range) -> None:
    """Pictures of a 30 fps camera, as fast as they go."""
    for number in numbers:
        client.picture(jpeg(number), number * FRAME_US)


def clip(server: Server, pictures: list[tuple[int, bytes]], **start: Any) -> tuple[Client, dict[str, Any]]:
    """Send pictures with their times, stop; the client and the checked summary."""
    with stream(server, **{**ALL, **start}) as client:
        for pts_us, data in pictures:
            client.picture(data, pts_us)
        return client, client.stop()


@pytest.fixture(scope="module")
def strict(tiny_weights: Path) -> Iterator[Server]:
    """A service whose limits come soon."""
    with running_server(
        weights=tiny_weights, max_streams=1, idle_timeout_s=1, write_timeout_s=1, max_frame_bytes=100_000
    ) as server:
        yield server


# -- a whole conversation


def test_a_conversation_from_start_to_summary(server: Server) -> None:
    with stream(server, **ALL, keyframe_hz=2, top_k=3) as client:
        assert client.socket.subprotocol == "stmixer.v1"
        assert "Sec-WebSocket-Extensions" not in client.socket.response.headers  # permessage-deflate is off
        ready = client.first("ready")
        assert set(ready) - {"at"} == {
            "type", "session_id", "resume_token", "resume_ttl_s", "max_frame_bytes", "lookahead_ms", "keyframe_hz",
            "model", "trained", "labels",
        }  # fmt: skip
        assert (ready["model"], ready["trained"], ready["keyframe_hz"]) == ("tiny", False, 2)
        assert ready["resume_ttl_s"] == 0
        assert ready["max_frame_bytes"] == 2 * 2**20
        assert ready["lookahead_ms"] == pytest.approx(8000 / 15)
        assert len(ready["labels"]) == 80
        assert all(set(label) == {"id", "name"} for label in ready["labels"])
        send(client, range(90))
        summary = client.stop()
    assert summary["received"] == 90
    assert summary["dropped"] == {}
    assert summary["keyframes_due"] == summary["ok"] == 6
    assert summary["warnings"] == []
    results = client.of("result")
    assert [(r["seq"], r["pts_us"]) for r in results] == [(k, k * STEP_US) for k in range(6)]
    for r in results:
        assert set(r) - {"at"} == {
            "type", "seq", "pts_us", "received_at_us", "sent_at_us", "warming", "timings_ms", "dropped_since_last",
            "frame", "actors", "model",
        }  # fmt: skip
        assert set(r["timings_ms"]) == {"lookahead", "decode", "queue", "inference", "postprocess"}
        assert all(0 <= ms < 60_000 for ms in r["timings_ms"].values())
        assert r["frame"] == {"width": 320, "height": 240}
        assert 0 <= r["sent_at_us"] - r["received_at_us"] < 60e6
        assert abs(r["sent_at_us"] / 1e6 - time.time()) < 60
        assert r["warming"] is (r["pts_us"] < 1_033_000)
        assert r["actors"]
        for actor in r["actors"]:
            assert set(actor) == {"track_id", "box_px", "box", "person_score", "actions"}
            assert actor["track_id"] >= 1
            assert actor["box_px"] == pytest.approx([v * s for v, s in zip(actor["box"], (320, 240) * 2, strict=True)])
            assert all(set(action) == {"id", "name", "score", "smoothed"} for action in actor["actions"])
            assert all(0 < action["smoothed"] < 1 for action in actor["actions"])
            scores = [action["score"] for action in actor["actions"]]
            assert len(scores) == 3
            assert scores == sorted(scores, reverse=True)
    here, left = set[int](), 0
    for message in client.messages:
        if message["type"] == "track":
            assert set(message) - {"at"} == {"type", "track_id", "state", "seq", "pts_us"}
            assert message["pts_us"] == message["seq"] * STEP_US
            assert (message["track_id"] in here) is (message["state"] == "end")
            here ^= {message["track_id"]}
            left += message["state"] == "end"
        elif message["type"] == "result":
            assert {actor["track_id"] for actor in message["actors"]} <= here, "who is seen has come before"
    assert left >= 1
    assert not here, "in the end everybody has gone"


def test_a_client_without_the_subprotocol_is_served_without_one(server: Server) -> None:
    with plain_socket(server, subprotocols=None) as socket:
        assert socket.subprotocol is None
        client = Client(socket)
        client.say("start")
        client.first("ready")


def test_compression_is_declined_to_one_who_asks(server: Server) -> None:
    with plain_socket(server, compression="deflate") as socket:
        assert "Sec-WebSocket-Extensions" in socket.request.headers
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


def test_a_given_token_yields_a_warning_and_a_new_stream(server: Server) -> None:
    with stream(server) as first:
        ready = first.first("ready")
        with stream(server, resume_token=ready["resume_token"]) as second:
            warning = second.first("warning")
            assert warning["code"] == "resume_expired"
            assert "new stream" in warning["message"]
            assert second.first("ready")["session_id"] != ready["session_id"]
            second.stop()
        first.stop()


def test_a_stream_without_pictures_stops_with_an_empty_summary(server: Server) -> None:
    with stream(server) as client:
        client.first("ready")
        summary = client.stop()
    assert summary["received"] == summary["keyframes_due"] == 0


# -- what a client may not say

FIRST_WORDS: list[tuple[str, str | bytes, str]] = [
    ("binary", b"\xff\xd8", "first message"),
    ("no json", "{start", "JSON"),
    ("not an object", "[1]", "object"),
    ("no type", "{}", "type"),
    ("another type", '{"type": "begin"}', "begin"),
    ("stop first", '{"type": "stop"}', "must be start"),
    ("unknown field", '{"type": "start", "keyframe_rate": 2}', "keyframe_rate: there is no such field"),
    ("wrong type", '{"type": "start", "keyframe_hz": "often"}', "keyframe_hz"),
    ("out of range", '{"type": "start", "keyframe_hz": 0}', "keyframe_hz"),
    ("hardly ever", '{"type": "start", "keyframe_hz": 1e-310}', "keyframe_hz"),
    ("NaN", '{"type": "start", "score_threshold": NaN}', "score_threshold"),
    ("unknown codec", '{"type": "start", "codec": "gif"}', "codec"),
    ("prefix in a container", '{"type": "start", "codec": "webm", "timestamps": "prefix"}', "containers"),
    ("top_k", '{"type": "start", "top_k": 0}', "top_k"),
    ("very long", '{"type": "start", "api_key": "' + "x" * 70_000 + '"}', "65536"),
]


@pytest.mark.parametrize(("what", "words", "cause"), FIRST_WORDS, ids=[w[0] for w in FIRST_WORDS])
def test_wrong_first_words_are_refused_in_words(server: Server, what: str, words: str | bytes, cause: str) -> None:
    with plain_socket(server) as socket:
        client = Client(socket)
        socket.send(words)
        close, code, message = client.refused()
    assert close == (1009 if what == "very long" else 4400)
    assert code in ("bad_message", "no_start", "too_large")
    assert cause in message
    assert "\n" not in message
    assert "ready" not in [m["type"] for m in client.messages]


def test_start_has_to_come_within_five_seconds(server: Server) -> None:
    with plain_socket(server) as socket, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        close, code, message = answer_within(pool.submit(Client(socket).refused), server, 8)
        assert time.monotonic() - began > 4.5
    assert (close, code) == (4400, "no_start")
    assert "5 s" in message


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ('{"type": "start"}', "already"),
        ('{"type": "pause"}', "pause"),
        ('{"type": "update", "keyframe_hz": 2}', "keyframe_hz cannot change"),
        ('{"type": "update", "lookahead_ms": 2}', "lookahead_ms cannot change"),
        ('{"type": "update", "colour": 2}', "colour: there is no such field"),
        ('{"type": "update", "score_threshold": null}', "score_threshold"),
        ('{"type": "update", "score_threshold": 2}', "score_threshold"),
        ('{"type": "stop", "now": true}', "now"),
        ("nonsense", "JSON"),
        ("data:image/jpeg;base64,/9j/4AAQSkZJRg==", "binary"),
        ('{"type": "frame", "data": "/9j/4AAQSkZJRg=="}', "media are binary messages"),
        ('{"image": "/9j/4AAQSkZJRg=="}', "it has no type; pictures and other media are binary messages"),
        ('"/9j/4AAQSkZJRg=="', "media are binary messages"),
        (b"\0\0\0", "8 bytes"),
        (b"\xff" * 9, "range"),
    ],
)
def test_wrong_words_in_a_stream_are_refused_in_words(server: Server, words: str | bytes, cause: str) -> None:
    with stream(server, **ALL) as client:
        client.first("ready")
        client.socket.send(words)
        close, code, message = client.refused()
    assert (close, code) == (4400, "bad_message")
    assert cause in message


def test_a_whole_picture_as_text_is_told_how_pictures_come(server: Server) -> None:
    """It is longer than any message of text may be."""
    with stream(server, **ALL) as client:
        client.first("ready")
        client.socket.send("data:image/jpeg;base64," + "A" * 100_000)
        close, code, message = client.refused()
    assert (close, code) == (1009, "too_large")
    assert "pictures and other media are binary messages" in message


# -- orders


def test_update_changes_later_results(server: Server) -> None:
    with stream(server, **ALL, keyframe_hz=2, top_k=2) as client:
        send(client, range(40))  # the keyframes at 0 and 0.5 s are complete
        client.wait(lambda: len(client.of("result")) == 2)
        client.say("update", top_k=5, action_threshold=0.0)
        send(client, range(40, 55))  # … at 1.0 s
        client.wait(lambda: len(client.of("result")) == 3)
        client.say("update", score_threshold=1.0)
        send(client, range(55, 70))
        client.wait(lambda: len(client.of("result")) == 4)
        client.say("update", score_threshold=0, action_threshold=1.0)
        send(client, range(70, 85))
        client.wait(lambda: len(client.of("result")) == 5)
        client.say("update", action_threshold=0, top_k=None)
        client.stop()
    results = client.of("result")
    assert [{len(a["actions"]) for a in r["actors"]} for r in results] == [{2}, {2}, {5}, set(), {0}, {80}]


def test_flush_runs_what_waits_for_its_look_ahead(server: Server) -> None:
    with stream(server, **ALL, keyframe_hz=1) as client:
        send(client, range(5))
        client.say("flush")
        status = client.first("status")
        assert status["summary"]["received"] == 5  # after the pictures sent before it
        result = client.first("result")
        assert result["seq"] == 0
        check_open(status["summary"])
        summary = client.stop()
    assert summary["keyframes_due"] == summary["ok"] == 1


def test_flush_in_a_live_stream(server: Server) -> None:
    with stream(server, timestamps="prefix", score_threshold=0, keyframe_hz=1) as client:
        client.picture(jpeg(1), 0)
        client.say("flush")
        assert client.first("result", 10)["seq"] == 0
        summary = client.stop()
    assert summary["keyframes_due"] == summary["ok"] == 1


def check_open(summary: dict[str, Any]) -> None:
    outcomes = ("ok", "superseded", "deadline", "error", "worker_lost", "cancelled", "pending")
    assert summary["keyframes_due"] == sum(summary[o] for o in outcomes)


def test_a_live_stream_counts_what_it_skips(server: Server) -> None:
    """Unpaced, most pictures and keyframes cannot be served; every one is accounted for."""
    before = {o: metric(server, "keyframes_total", source="ws", outcome=o) for o in ("ok", "superseded")}
    with stream(server, timestamps="prefix", keyframe_hz=4, score_threshold=0) as client:
        send(client, range(300))
        summary = client.stop()
    assert summary["received"] == 300
    assert summary["dropped"].get("mailbox", 0) > 0
    assert summary["keyframes_due"] >= 30
    assert summary["superseded"] > 0
    for outcome, count in before.items():
        assert metric(server, "keyframes_total", source="ws", outcome=outcome) - count == summary[outcome]


# -- pictures


def test_garbage_is_dropped_and_counted(server: Server) -> None:
    good = [(n * FRAME_US, jpeg(n)) for n in range(60)]
    bad = {
        10: b"",
        20: b"not a picture",
        30: jpeg(30)[: len(jpeg(30)) // 2],
        40: jpeg(40)[:-2],
        45: b"\xff\xd8" + b"\0" * 500,
    }
    pictures = [(pts, bad.get(n, data)) for n, (pts, data) in enumerate(good)]
    # a picture that the grid does not keep is never decoded: at 15 fps all are kept
    kept = [(2 * pts, data) for pts, data in pictures]
    _, summary = clip(server, kept, keyframe_hz=2)
    assert summary["received"] == 60
    assert summary["dropped"] == {"corrupt": 4}  # number 40 lacks nothing but its end marker
    assert summary["sampled"] == 56
    assert summary["ok"] == summary["keyframes_due"] == 8


def test_each_thing_that_is_wrong_with_pictures_is_told_once(server: Server) -> None:
    """A sender that cuts its JPEGs in two: every second message is the first half of one."""
    whole = jpeg(3)
    with stream(server, policy="all", score_threshold=1) as client:
        for _ in range(10):
            client.picture(whole[: len(whole) // 2])
            client.picture(whole[len(whole) // 2 :])
        summary = client.stop()
    assert summary["dropped"] == {"corrupt": 20}
    assert sorted(warning["message"] for warning in client.of("warning")) == [
        "the JPEG is cut off; send a complete JPEG", "this is not a JPEG; send a complete JPEG",
    ]  # fmt: skip


def test_garbage_at_a_live_keyframes_moment_is_counted_once(server: Server) -> None:
    with stream(server, timestamps="prefix", keyframe_hz=2, lookahead_ms=0) as client:
        for n in range(30):
            client.picture(b"garbage" if n in (0, 1, 15, 16, 22) else jpeg(n), n * FRAME_US)
            client.say("flush")  # so that none is displaced in the mailbox
            client.wait(lambda n=n: len(client.of("status")) > n)
        summary = client.stop()
    assert summary["received"] == 30
    assert set(summary["dropped"]) == {"corrupt"}
    assert 4 <= summary["dropped"]["corrupt"] <= 5


def test_nothing_but_garbage(server: Server) -> None:
    _, summary = clip(server, [(n * FRAME_US, b"garbage") for n in range(5)])
    assert summary["dropped"] == {"corrupt": 5}
    assert summary["keyframes_due"] == 0


def test_pictures_out_of_order_are_dropped_and_counted(server: Server) -> None:
    times = [0, 100_000, 50_000, 100_000, 200_000, 150_000, 300_000]
    _, summary = clip(server, [(5_000_000 + t, jpeg(n)) for n, t in enumerate(times)])
    assert summary["received"] == 7
    assert summary["dropped"] == {"out_of_order": 3}


def test_a_senders_clock_that_is_set_anew_does_not_end_or_flood_the_stream(server: Server) -> None:
    """A leap of days must not make millions of keyframes due; a step back of days must not drop all that follows."""
    times = [n * FRAME_US for n in range(30)]
    leap = [n * FRAME_US + 10**13 for n in range(30)]
    back = [n * FRAME_US + 7 for n in range(30)]
    pictures = [(t, jpeg(n)) for n, t in enumerate([*times, *leap, *back])]
    client, summary = clip(server, pictures, keyframe_hz=4)
    assert summary["received"] == 90
    assert summary["dropped"] == {}
    assert summary["keyframes_due"] == summary["ok"] == 12  # of 90 pictures at 30 fps
    assert client.of("result")[-1]["pts_us"] == 2_750_000


def test_a_long_pause_in_a_live_stream_costs_no_time(server: Server) -> None:
    with stream(server, timestamps="prefix", keyframe_hz=30, score_threshold=1) as client:
        client.picture(jpeg(0), 0)
        assert poll(lambda: metric(server, "ring_bytes") > 0)
        client.picture(jpeg(1), 1_800_000_000)  # half an hour, 54,000 keyframes
        with ThreadPoolExecutor(1) as pool:
            summary = answer_within(pool.submit(client.stop), server, 15)
    assert summary["keyframes_due"] == 54_001
    assert summary["ok"] >= 1


def test_each_result_is_in_its_own_picture(server: Server) -> None:
    """A camera that is set to more pixels, then a phone that is turned."""
    sizes = [(320, 240)] * 20 + [(640, 480)] * 20 + [(480, 640)] * 20
    pictures = [(n * 2 * FRAME_US, jpeg(n, *size)) for n, size in enumerate(sizes)]
    client, summary = clip(server, pictures, keyframe_hz=2, score_threshold=0.0)
    assert summary["sampled"] == 60
    assert summary["dropped"] == {}
    assert summary["warnings"] == ["changes of the picture size: 2"]
    results = client.of("result")
    larger_us, upright_us = 20 * 2 * FRAME_US, 40 * 2 * FRAME_US
    shown = [
        sizes[0] if r["pts_us"] < larger_us else sizes[20] if r["pts_us"] < upright_us else sizes[40] for r in results
    ]
    assert [(r["frame"]["width"], r["frame"]["height"]) for r in results] == shown
    assert set(shown) == {(320, 240), (640, 480), (480, 640)}
    for result, (width, height) in zip(results, shown, strict=True):
        for actor in result["actors"]:
            x1, y1, x2, y2 = actor["box_px"]
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
            assert actor["box"] == pytest.approx([x1 / width, y1 / height, x2 / width, y2 / height], abs=1e-3)
    warnings = [w["message"] for w in client.of("warning") if w["code"] == "picture_size"]
    assert len(warnings) == 2


def test_a_picture_too_elongated_is_refused(server: Server) -> None:
    with stream(server, **ALL) as client:
        client.picture(jpeg(0, 640, 200), 0)
        close, code, message = client.refused()
    assert (close, code) == (4400, "aspect_unsupported")
    assert "640" in message


def test_a_refused_stream_leaves_its_decoder_fit_for_the_next(server: Server) -> None:
    """While the refusal comes, large pictures are on their way to the decoder: they must not meet the next stream."""
    large = noise(1200, 1000)
    for policy in ("all", "latest") * 3:
        with stream(server, timestamps="prefix", policy=policy) as client:
            client.picture(jpeg(0, 640, 200), 0)
            with contextlib.suppress(ConnectionClosed):  # when the refusal is quicker
                for n in range(1, 20):
                    client.picture(large, n * FRAME_US)
            assert client.closed() == 4400
        _, summary = clip(server, [(n * FRAME_US, jpeg(n)) for n in range(10)])
        assert summary["ok"] == 1


def test_timestamps_of_arrival(server: Server) -> None:
    with stream(server, policy="all", keyframe_hz=10, lookahead_ms=0, score_threshold=0) as client:
        client.picture(jpeg(0))
        assert poll(lambda: metric(server, "ring_bytes") > 0)
        began = time.monotonic()
        poll(lambda: time.monotonic() - began > 0.45)
        client.picture(jpeg(1))
        summary = client.stop()
    assert summary["keyframes_due"] >= 5


# -- limits


@pytest.mark.parametrize(("code", "close"), [("capacity", 1013), ("over_limit", 4429), ("unreadable", 4400)])
def test_what_ends_a_stream_early_has_the_close_code_of_its_kind(code: str, close: int) -> None:
    ended = stream_ws._early_end(SimpleNamespace(error=StmixerError(code, "so it is", 503)))  # type: ignore[arg-type]
    assert (ended.close, ended.code, ended.retryable) == (close, code, True)


def test_capacity_is_1013_and_counted(strict: Server) -> None:
    before = metric(strict, "streams_rejected_total", reason="capacity")
    with stream(strict) as first:
        first.first("ready")
        with stream(strict) as second:
            close, code, message = second.refused()
        assert (close, code) == (1013, "capacity")
        assert second.first("error")["retryable"] is True
        assert "1 streams" in message
        assert metric(strict, "streams_rejected_total", reason="capacity") == before + 1
        first.stop()
    with stream(strict) as third:  # room again
        third.first("ready")
        third.stop()


def test_no_media_is_4408(strict: Server) -> None:
    with stream(strict, **ALL) as client:
        client.first("ready")
        client.picture(jpeg(0), 0)
        client.say("update", top_k=3)  # words are no media
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            close, code, message = answer_within(pool.submit(client.refused), strict, 3)
        assert time.monotonic() - began > 0.7
    assert (close, code) == (4408, "no_media")
    assert client.first("error")["retryable"] is True
    assert "1 s" in message


def test_transport_without_tables_is_waited_for_as_long_as_pictures_are(strict: Server) -> None:
    """Packets that carry nothing come all the time: three idle times, and whoever sends it may come again."""
    with stream(strict, codec="mpegts") as client:
        client.first("ready")
        with contextlib.suppress(ConnectionClosed):
            for _ in paced(5, 15):
                client.socket.send((b"\x47\x1f\xff\x10" + bytes(184)) * 500)
        close, code, message = client.refused()
    assert (close, code) == (4408, "no_media")
    assert client.first("error")["retryable"] is True
    assert message == "no picture came out of the media for 3 s"


@pytest.mark.parametrize("size", [100_001, 199_000, 250_000, 3_000_000])
def test_a_message_too_large_is_1009(strict: Server, size: int) -> None:
    with stream(strict) as client:
        client.first("ready")
        with contextlib.suppress(ConnectionClosed):
            client.socket.send(b"\0" * size)
        assert client.closed() == 1009
        if size < 200_000:
            assert client.refused()[1] == "too_large"
    assert poll(lambda: metric(strict, "streams_active", source="ws") == 0)


def test_the_largest_message_is_taken(strict: Server) -> None:
    with stream(strict, **ALL) as client:
        client.socket.send(prefixed(0, jpeg(0).ljust(99_992, b"\0")))
        summary = client.stop()
    assert summary["sampled"] == 1
    assert summary["dropped"] == {}


def test_a_client_that_never_reads_is_cut_off(strict: Server) -> None:
    """Large results at 30 Hz into a socket that nobody reads: the stream ends, the connection too, memory stays."""
    process = psutil.Process(strict.process.pid)
    host, port = strict.url.removeprefix("http://").split(":")
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect((host, int(port)))
    request = (
        f"GET /v1/streams/ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    raw.sendall(request.encode())
    assert b"101" in raw.recv(15)
    before_rss = process.memory_info().rss
    start = b'{"type": "start", "policy": "all", "timestamps": "prefix", "keyframe_hz": 30, "score_threshold": 0}'
    raw.sendall(frame(1, start))
    raw.settimeout(0.05)
    over = Event()

    def pour() -> None:
        number, left = 0, b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not over.is_set():
                if not left:
                    left = frame(2, prefixed(number * FRAME_US, jpeg(number % 50)))
                    number += 1
                with contextlib.suppress(TimeoutError):
                    left = left[raw.send(left) :]
                if number % 20 == 0 and number > 100 and metric(strict, "streams_active", source="ws") == 0:
                    break

    with ThreadPoolExecutor(1) as pool:
        try:
            answer_within(pool.submit(pour), strict, 25)
        finally:
            over.set()
    assert poll(lambda: metric(strict, "streams_active", source="ws") == 0)
    assert poll(lambda: metric(strict, "ring_bytes") == 0)
    assert process.memory_info().rss - before_rss < 40 * 2**20
    # the socket too, although the client holds its end open
    local = raw.getsockname()
    assert poll(lambda: local not in [c.raddr for c in process.net_connections("tcp") if c.raddr])
    raw.close()


def frame(opcode: int, data: bytes) -> bytes:
    """A client's WebSocket frame, masked with zeros."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + data


def test_conservation_is_checked() -> None:
    good = {"received": 3, "sampled": 1, "not_sampled": 1, "dropped": {"corrupt": 1}, "pending": 0, "keyframes_due": 1}
    good |= dict.fromkeys(("ok", "superseded", "deadline", "error", "worker_lost", "cancelled"), 0) | {"ok": 1}
    check_conservation(good)
    for wrong in ({"received": 4}, {"keyframes_due": 2}, {"pending": 1}):
        with pytest.raises(AssertionError):
            check_conservation(good | wrong)
