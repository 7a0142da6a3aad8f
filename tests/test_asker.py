"""Who asks /healthz for benches and drills, and what a watched service says of its loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import watched_service
from posting import eventually

from bench.asker import ask, asking, p99


class Answers(BaseHTTPRequestHandler):
    status = 200
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_process_asks_until_it_is_told_to_stop(port: int) -> None:
    before = Answers.asked
    with asking(f"http://127.0.0.1:{port}") as taken:
        eventually(lambda: Answers.asked >= before + 3)
        assert not taken
    assert len(taken) >= 3
    assert all(0 < seconds < math.inf for seconds in taken)


def test_another_answer_or_none_took_for_ever(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "status", 503)
    assert ask("127.0.0.1", port) == math.inf
    assert ask("127.0.0.1", 1) == math.inf


def test_all_but_one_of_a_hundred() -> None:
    assert p99([0.001] * 99 + [9.0]) == 9.0
    assert p99([0.001] * 199 + [9.0]) == 0.001


def test_what_the_loop_computes_for_long_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asyncio.events.Handle, "_run", asyncio.events.Handle._run)
    watched_service.watch()

    async def computes() -> None:
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass

    async def both() -> None:
        await asyncio.create_task(computes())
        await asyncio.sleep(0)

    asyncio.run(both())
    (stall, *_) = watched_service.stalls(capsys.readouterr().err.splitlines())
    assert stall[0] >= 60
    assert stall[1] >= 60
    assert "computes" in stall[2]
