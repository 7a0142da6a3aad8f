"""The way out: SIGTERM while everything runs, a second one, and kill -9."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import OWN_CLIPS
from faulty_worker import MODULE, POISON, slowly
from posting import NDJSON, connected, conserved, eventually, lines_of, made_video, metric, post, problem, request_head
from serving import Server, running_server
from ws_client import check_conservation, jpeg, noise, paced, stream

from stmixer.service.bench.processes import holds_shared_memory

FALL = OWN_CLIPS / "fall.mp4"


@contextmanager
def ending(weights: Path, **settings: object) -> Iterator[Server]:
    """A slow service that is told to end within; it has to end with 0, which ``running_server`` checks."""
    with running_server(
        weights=weights, worker_module=MODULE, environment=slowly(300), max_batch=1, **settings
    ) as server:
        yield server
        assert server.process.wait(20) == 0


@pytest.mark.slow
def test_sigterm_under_load_answers_everyone(tiny_weights: Path) -> None:
    with ending(tiny_weights, shutdown_timeout=20) as server, ThreadPoolExecutor(2) as pool:
        upload = pool.submit(post, server, FALL, keyframe_hz=2, accept=NDJSON)
        with stream(server, keyframe_hz=2, score_threshold=1, lookahead_ms=0) as client:
            client.first("ready")
            asked = 0.0
            for n in paced(10, 40):
                client.picture(jpeg(n % 50))
                if not asked and client.of("result") and metric(server, "streams_active", source="upload"):
                    server.process.send_signal(signal.SIGTERM)
                    asked = time.monotonic()
                if client.of("goaway"):
                    break
            goaway = client.first("goaway")
            assert 0 < goaway["time_left_ms"] <= 5000
            assert goaway["at"] - asked < 2
            refused = post(server, made_video(128, 96, 8))
            problem(refused, 503, "draining")
            assert int(refused.headers["retry-after"]) > 0
            assert httpx.get(server.url + "/readyz").status_code == 503
            assert httpx.get(server.url + "/healthz").status_code == 200
            seen = len(client.of("result"))
            for n in paced(10, 40):
                if client.of("summary"):
                    break
                client.picture(jpeg(n % 50))
            assert client.closed() == 1001
            check_conservation(client.first("summary"))
            assert len(client.of("result")) > seen
        answer = upload.result()
        summary = lines_of(answer)[-1]["summary"]
        conserved(summary)
        assert summary["ok"] == summary["keyframes_due"] > 3


@pytest.mark.slow
def test_a_client_that_is_slowed_down_gets_its_summary(tiny_weights: Path) -> None:
    """Reading has stopped, because nothing is skipped and the queue is full, when the service begins to leave."""
    picture = noise(640, 480)
    with (
        ending(tiny_weights, shutdown_timeout=20) as server,
        stream(server, policy="all", keyframe_hz=10, score_threshold=1) as client,
    ):
        client.first("ready")
        with ThreadPoolExecutor(1) as pool:

            def send() -> None:
                with contextlib.suppress(Exception):  # the service closes
                    for _ in range(4000):
                        client.picture(picture)

            pool.submit(send)
            eventually(lambda: len(client.of("result")), lambda n: n > 2)
            server.process.send_signal(signal.SIGTERM)
            assert client.closed(30) == 1001
        check_conservation(client.first("summary"))
        assert not client.of("error")


@pytest.mark.slow
def test_what_cannot_finish_in_time_is_answered_too(tiny_weights: Path) -> None:
    long = made_video(320, 240, 1800)
    with ending(tiny_weights, shutdown_timeout=6) as server, ThreadPoolExecutor(2) as pool:
        answer = pool.submit(post, server, long, keyframe_hz=4)
        with connected(server) as sending:
            sending.sendall(request_head(server, 10_000_000) + long[:1000])  # and nothing after it
            eventually(lambda: metric(server, "uploads_waiting"), lambda n: n == 1)
            eventually(lambda: metric(server, "keyframes_total", source="upload", outcome="ok"))
            server.process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert sending.recv(4096).startswith(b"HTTP/1.1 503 ")
        body = answer.result().json()
        conserved(body["summary"])
        assert body["summary"]["cancelled"] > 0
        assert len(body["keyframes"]) == body["summary"]["ok"] > 0
        assert "shutting down" in body["warnings"][-1]
        server.process.wait(20)
        assert time.monotonic() - asked < 6 + 2  # the interpreter's own end, on a busy machine


@pytest.mark.slow
def test_a_second_signal_forces_the_end(tiny_weights: Path) -> None:
    with ending(tiny_weights, shutdown_timeout=60) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, server, made_video(320, 240, 1800), keyframe_hz=4)
        eventually(lambda: metric(server, "keyframes_total", source="upload", outcome="ok"))
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(server.url + "/readyz").status_code, lambda status: status == 503)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        assert isinstance(answer.exception(10), httpx.HTTPError)


@pytest.mark.slow
def test_kill_9_leaves_no_process(tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, worker_module=MODULE) as server, ThreadPoolExecutor(1) as pool:
        children = server.children
        assert len(children) == 4, "a worker, what forks decoders, and two of those"
        pool.submit(
            post, server, made_video(320, 240, 300), keyframe_hz=4, top_k=POISON["stuck"]
        )  # a worker that never looks up
        eventually(lambda: any(holds_shared_memory(c.pid) for c in children))
        server.process.kill()
        gone, alive = psutil.wait_procs(children, timeout=10)
        assert len(gone) == 4
        assert not alive
        server.process.wait(10)
        server.process.returncode = 0  # running_server expects a service that ends by itself
