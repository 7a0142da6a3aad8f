"""Workers that die of themselves or are killed, with a warm one behind them: what it costs, and what is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from faulty_worker import MODULE, POISON
from posting import WORKER, both_warm, conserved, eventually, made_video, metric, post
from serving import Server, running_server
from ws_client import jpeg, paced, stream

from stmixer.model.labels import AVA_LABELS
from stmixer.model.zoo import variant
from stmixer.service.api.service import check_memory
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.worker import COMPILING_S, Shapes, Worker
from stmixer.service.errors import StartError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.memory import available_bytes, oom_kills

TINY = ModelInfo(variant("tiny"), AVA_LABELS, False, None, None, None, None, "cpu")


@pytest.fixture(scope="module")
def guarded(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, spare_workers=1, worker_module=MODULE) as server:
        yield server


def restarts(server: Server) -> dict[str, float]:
    return {reason: metric(server, "worker_restarts_total", worker="0", reason=reason) for reason in POISON}


@pytest.mark.slow
def test_the_spare_takes_over_and_is_replaced(guarded: Server) -> None:
    worker, spare = both_warm(guarded)
    before = restarts(guarded)
    with stream(guarded, keyframe_hz=4, score_threshold=1, lookahead_ms=0) as client:
        client.first("ready")
        killed_at = 0.0
        for n in paced(15, 30):
            client.picture(jpeg(n % 50))
            results = client.of("result")
            if not killed_at and len(results) >= 2:
                next(child for child in guarded.children_of(WORKER) if child.pid == worker).kill()
                killed_at, seen = time.monotonic(), len(results)
            elif killed_at and len(results) >= seen + 4:
                break
        first_after = client.of("result")[seen + 1]["at"] - killed_at  # the one before may have been on its way
        summary = client.stop()
    assert first_after < 3
    assert summary["worker_lost"] == summary["error"] == 0
    assert spare in both_warm(guarded)
    assert restarts(guarded) == before | {"exit": before["exit"] + 1}
    assert httpx.get(guarded.url + "/readyz").status_code == 200


@pytest.mark.slow
def test_a_spare_that_dies_waiting_costs_nothing(guarded: Server) -> None:
    worker, spare = both_warm(guarded)
    before = restarts(guarded)
    next(child for child in guarded.children_of(WORKER) if child.pid == spare).kill()
    assert post(guarded, made_video(128, 96, 8)).json()["summary"]["ok"] == 1
    eventually(lambda: restarts(guarded), lambda now: now == before | {"exit": before["exit"] + 1})
    assert worker in both_warm(guarded)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("exit", marks=pytest.mark.slow),
        *(pytest.param(how, marks=pytest.mark.drill) for how in ("stuck", "oom", "cuda")),
    ],
)
def test_a_poison_keyframe_costs_one_worker_lost_and_nothing_else(tiny_weights: Path, how: str) -> None:
    with running_server(weights=tiny_weights, spare_workers=1, worker_module=MODULE, batch_wait_ms=50) as server:
        both_warm(server)
        clip = made_video(128, 96, 8)
        healthy = post(server, clip).json()
        with stream(server, keyframe_hz=2, score_threshold=1, lookahead_ms=0) as live, ThreadPoolExecutor(4) as pool:
            live.first("ready")
            poison = pool.submit(post, server, clip, top_k=POISON[how])
            others = [pool.submit(post, server, clip) for _ in range(3)]
            for n in paced(10, 90):
                live.picture(jpeg(n % 50))
                if poison.done() and all(other.done() for other in others):
                    break
            summary = live.stop()
        assert summary["worker_lost"] == summary["error"] == 0
        assert summary["ok"] > 0
        lost = poison.result().json()
        conserved(lost["summary"])
        assert (lost["summary"]["worker_lost"], lost["summary"]["ok"]) == (1, 0)
        assert "worker_lost" in lost["warnings"][-1]
        for other in others:
            assert other.result().json()["summary"] == healthy["summary"]
        assert restarts(server) == dict.fromkeys(POISON, 0.0) | {how: 3.0}
        assert httpx.get(server.url + "/readyz").status_code == 200
        both_warm(server)


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_a_slow_batch_of_the_largest_variant_is_let_live() -> None:
    """On a CPU a keyframe of ViT-L takes many times what is "stuck" for a small model."""
    with running_server(model="vit_l", spare_workers=0, max_batch=2) as server, ThreadPoolExecutor(2) as pool:
        clip = made_video(320, 240, 8)
        answers = [pool.submit(post, server, clip, timeout=1200) for _ in range(2)]
        for answer in answers:
            response = answer.result()
            assert response.status_code == 200, response.text
            (keyframe,) = response.json()["keyframes"]
            print(f"vit_l: {keyframe['timings_ms']}")
            assert response.json()["summary"]["ok"] == 1
        assert restarts(server) == dict.fromkeys(POISON, 0.0)


def test_a_slow_batch_is_not_taken_for_a_stuck_one() -> None:
    slow = Worker("0", cast(Child, SimpleNamespace(channel=None)), TINY, {1: 30.0})
    assert slow.stuck_after_s(Shapes(None, 1, 0)) == 300
    assert slow.stuck_after_s(Shapes(None, 8, 0)) == 2400
    fast = Worker("0", cast(Child, SimpleNamespace(channel=None)), TINY, {1: 0.01, 2: 0.015, 4: 4.0})
    assert [fast.stuck_after_s(Shapes(None, n, 0)) for n in (1, 3, 4, 6)] == [10, 10, 40, 60]


def test_a_worker_that_compiles_is_not_taken_for_a_stuck_one() -> None:
    """Until a batch of those shapes has come back."""
    child = cast(Child, SimpleNamespace(channel=None))
    worker = Worker("0", child, replace(TINY, runtime="compile"), {1: 0.01, 4: 70.0})
    wide, tall = Shapes((448, 256), 1, 8), Shapes((256, 448), 1, 8)
    assert [worker.stuck_after_s(shapes) for shapes in (wide, tall)] == [COMPILING_S, COMPILING_S]
    worker.ran(wide)
    assert [worker.stuck_after_s(shapes) for shapes in (wide, tall)] == [10, COMPILING_S]
    assert worker.stuck_after_s(wide._replace(new_frames=3)) == COMPILING_S
    assert worker.stuck_after_s(wide._replace(keyframes=4)) == 700
    eager = Worker("0", child, TINY, {1: 0.01})
    assert eager.stuck_after_s(wide) == 10


def test_memory_as_the_kernel_tells_of_it(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert available_bytes(meminfo, cgroup) is None
    assert oom_kills(cgroup) == 0
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    assert available_bytes(meminfo, cgroup) == 4_096_000
    cgroup.mkdir()
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("3000000\n")
    assert available_bytes(meminfo, cgroup) == 4_096_000
    (cgroup / "memory.max").write_text("5000000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert available_bytes(meminfo, cgroup) == 2_500_000
    (cgroup / "memory.events").write_text("oom 3\noom_kill 2\n")
    assert oom_kills(cgroup) == 2


def test_memory_too_small_for_one_stream() -> None:
    with pytest.raises(StartError) as refused:
        check_memory(TINY, 100 * 2**20)
    assert "100 MiB" in str(refused.value)
    assert "tiny" in str(refused.value)
    check_memory(TINY, 2**34)
    check_memory(replace(TINY, device="cuda"), None)
