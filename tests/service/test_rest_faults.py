"""While a slow worker runs: results on their way, clients that vanish, processes that are killed."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from drills import without_a_core_s
from faulty_worker import MODULE, slowly
from posting import (
    DECODER,
    MP4,
    NDJSON,
    WORKER,
    at_rest,
    busy_decoder,
    connected,
    conserved,
    eventually,
    frees_everything,
    lines_of,
    made_video,
    metric,
    post,
    problem,
    read_until,
    request_head,
    same_actors,
)
from serving import Server, running_server

WALK, FALL = OWN_CLIPS / "walk.mp4", OWN_CLIPS / "fall.mp4"


@pytest.fixture(scope="module")
def slow_server(tiny_weights: Path) -> Iterator[Server]:
    """A worker that takes 300 ms for every keyframe."""
    with running_server(
        weights=tiny_weights, worker_module=MODULE, environment=slowly(300), max_batch=1, max_streams=2
    ) as server:
        yield server


# -- results on their way


def test_timings_add_up_to_the_time_taken(slow_server: Server) -> None:
    def starved_ms() -> float:
        return 1000 * without_a_core_s(slow_server).get(slow_server.process.pid, 0.0)

    before = starved_ms()
    keyframes = post(slow_server, FALL, score_threshold=0.9).json()["keyframes"]
    starved = starved_ms() - before
    assert keyframes
    for keyframe in keyframes:
        taken_ms = (keyframe["sent_at_us"] - keyframe["received_at_us"]) / 1000
        assert keyframe["timings_ms"]["inference"] >= 300
        # what is left is the way from the worker's answer to the socket: the event loop's turn, once it has a core
        assert sum(keyframe["timings_ms"].values()) == pytest.approx(taken_ms, abs=50 + starved)


def test_lines_arrive_while_the_upload_still_runs(slow_server: Server) -> None:
    arrived: list[tuple[float, dict[str, Any]]] = []
    with httpx.stream(
        "POST", slow_server.url + "/v1/detect", params={"score_threshold": "0", "top_k": "2"},
        content=WALK.read_bytes(), headers={"Accept": NDJSON}, timeout=60,
    ) as response:  # fmt: skip
        assert response.headers["content-type"] == NDJSON
        for line in response.iter_lines():
            arrived.append((time.time(), json.loads(line)))
    *keyframes, (_, tail) = arrived
    assert [keyframe["seq"] for _, keyframe in keyframes] == list(range(7))
    assert set(tail) == {"model", "trained", "summary", "warnings"}
    conserved(tail["summary"])
    # each of the 7 takes 300 ms: the first line is here long before the last keyframe is even begun
    assert keyframes[0][0] < keyframes[-1][1]["sent_at_us"] / 1e6 - 5 * 0.3
    assert all(line["sent_at_us"] / 1e6 <= at for at, line in keyframes)


# -- clients that vanish


def cancelled(server: Server) -> float:
    return metric(server, "keyframes_total", source="upload", outcome="cancelled")


@pytest.mark.parametrize("accept", [NDJSON, "application/json", MP4])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_vanishes_while_it_waits_for_results(slow_server: Server, accept: str, reset: bool) -> None:
    server, body = slow_server, WALK.read_bytes()
    before, runs = cancelled(server), metric(server, "inferences_total", worker="0")
    with frees_everything(server), connected(server) as connection:
        path = "/v1/detect?score_threshold=0&top_k=1&keyframe_hz=5"
        connection.sendall(request_head(server, len(body), path, Accept=accept) + body)
        if accept == NDJSON:
            read_until(connection, b'"seq":0')
        else:
            eventually(lambda: metric(server, "inferences_total", worker="0"), lambda n: n > runs)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # 35 keyframes of 300 ms each: only a few of them can have run
    assert metric(server, "inferences_total", worker="0") - runs < 25
    assert cancelled(server) > before
    assert not [line for line in server.log if "Traceback" in line]


# -- full


def test_a_full_service_says_so_before_the_body_is_sent(slow_server: Server) -> None:
    rejected = metric(slow_server, "streams_rejected_total", reason="capacity")
    clip = WALK.read_bytes()
    with frees_everything(slow_server), connected(slow_server) as one, connected(slow_server) as two:
        for connection in (one, two):
            connection.sendall(request_head(slow_server, len(clip)) + clip)
        eventually(lambda: metric(slow_server, "streams_active", source="upload"), lambda n: n == 2)
        response = post(slow_server, clip)
        problem(response, 503, "capacity")
        assert int(response.headers["retry-after"]) > 0
        with connected(slow_server) as three:
            three.sendall(request_head(slow_server, 300 * 2**20))  # and nothing after it
            assert b" 503 " in read_until(three, b"capacity")
    assert metric(slow_server, "streams_rejected_total", reason="capacity") == rejected + 2
    assert post(slow_server, made_video(128, 96, 8)).status_code == 200


# -- processes that are killed


KILLS_TOO_MANY = 3


def kill_the_decoder(server: Server, frames: int) -> int:
    """Once that many more frames are there; its process id."""
    received = metric(server, "frames_received_total", source="upload")
    decoder = busy_decoder(server)
    eventually(lambda: metric(server, "frames_received_total", source="upload") - received, lambda n: n >= frames)
    decoder.kill()
    decoder.wait(5)
    return decoder.pid


@pytest.mark.slow
def test_a_decoder_killed_at_any_moment_costs_an_upload_nothing(slow_server: Server) -> None:
    clip = made_video(640, 360, 1500)  # long enough that no kill comes after its end
    whole = post(slow_server, clip, keyframe_hz=0.1, score_threshold=0, top_k=2).json()
    for wait_for_frames in (0, 40, 130):
        with frees_everything(slow_server), ThreadPoolExecutor(1) as pool:
            answer: Future[httpx.Response] = pool.submit(
                post, slow_server, clip, keyframe_hz=0.1, score_threshold=0, top_k=2
            )
            kill_the_decoder(slow_server, wait_for_frames)
            found = answer.result().json()
        assert found["summary"] == whole["summary"]
        assert ["SIGKILL" in warning for warning in found["warnings"]] == [True]
        for ours, theirs in zip(found["keyframes"], whole["keyframes"], strict=True):
            assert ours["pts_us"] == theirs["pts_us"]
            same_actors(ours["actors"], theirs["actors"])


def test_an_upload_that_kills_decoders_is_explained_and_the_counts_hold(slow_server: Server) -> None:
    clip = made_video(640, 360, 1500)
    explained = set()
    for wait_for_frames in (0, 40):
        with frees_everything(slow_server), ThreadPoolExecutor(1) as pool:
            # one keyframe only: its window is soon complete, and the decoder runs on without waiting for anything
            answer: Future[httpx.Response] = pool.submit(post, slow_server, clip, keyframe_hz=0.001)
            for _ in range(KILLS_TOO_MANY):
                kill_the_decoder(slow_server, wait_for_frames)
            response = answer.result()
        if response.status_code == 200:
            conserved(response.json()["summary"])
            explained.add("crashed the decoder" in response.json()["warnings"][-1])
        else:
            explained.add("crashed the decoder" in problem(response, 422, "unreadable"))
    assert explained == {True}


def test_decoders_killed_later_leave_what_was_done(slow_server: Server) -> None:
    before = {child.pid for child in at_rest(slow_server) and slow_server.children_of(DECODER)}
    with frees_everything(slow_server), connected(slow_server) as connection:
        body = WALK.read_bytes()
        path = "/v1/detect?score_threshold=0&top_k=1&keyframe_hz=4"
        connection.sendall(request_head(slow_server, len(body), path, Accept=NDJSON, Connection="close") + body)
        seen = read_until(connection, b'"seq":0')
        killed = {kill_the_decoder(slow_server, 0) for _ in range(KILLS_TOO_MANY)}
        while got := connection.recv(65536):
            seen += got
    head, _, text = seen.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    *keyframes, tail = [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]
    conserved(tail["summary"])
    assert 1 <= len(keyframes) == tail["summary"]["ok"] < 28
    assert "crashed the decoder" in tail["warnings"][-1]
    after = {child.pid for child in slow_server.children_of(DECODER)}
    assert not killed & after
    assert len(after) == 2
    assert len(before) == 2


def test_idle_decoders_that_die_are_replaced(slow_server: Server) -> None:
    at_rest(slow_server)
    for child in slow_server.children_of(DECODER):
        child.kill()
        child.wait(5)
    response = post(slow_server, made_video(128, 96, 8))
    assert response.status_code == 200
    at_rest(slow_server)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing_but_time(slow_server: Server) -> None:
    server = slow_server
    expected = lines_of(post(server, FALL, accept=NDJSON, score_threshold=0, keyframe_hz=2))
    before = at_rest(server)
    restarts, old = metric(server, "worker_restarts_total", worker="0", reason="exit"), server.children_of(WORKER)[0]
    ready: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            ready.append(httpx.get(server.url + "/readyz").status_code)
            stop.wait(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with httpx.stream(
            "POST", server.url + "/v1/detect", params={"score_threshold": "0", "keyframe_hz": "2"},
            content=FALL.read_bytes(), headers={"Accept": NDJSON}, timeout=90,
        ) as response:  # fmt: skip
            lines = response.iter_lines()
            found = [json.loads(next(lines))]
            old.kill()
            found += [json.loads(line) for line in lines]
        eventually(lambda: ready[-1], lambda status: status == 200)
    finally:
        stop.set()
        watcher.join()
    assert len(found) == len(expected) == 12
    for ours, theirs in zip(found[:-1], expected[:-1], strict=True):
        assert (ours["seq"], ours["pts_us"], ours["warming"]) == (theirs["seq"], theirs["pts_us"], theirs["warming"])
        same_actors(ours["actors"], theirs["actors"])
    assert found[-1]["summary"] == expected[-1]["summary"]
    assert found[-1]["warnings"] == []
    assert set(ready) == {200, 503}
    changes = [a for a, b in zip([0, *ready], ready, strict=False) if a != b]
    assert len(changes) == 3, ready  # ready, not ready, ready
    assert server.children_of(WORKER)[0].pid != old.pid
    assert metric(server, "worker_restarts_total", worker="0", reason="exit") == restarts + 1
    assert metric(server, "worker_up", worker="0") == 1
    eventually(lambda: at_rest(server).descriptors, lambda n: n <= before.descriptors)
