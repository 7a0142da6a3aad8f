"""Four cameras and a worker that cannot keep up: newest wins and is counted; or nothing is lost, the sender waits."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from drills import queued_s
from faulty_worker import MODULE, slowly
from serving import Server, running_server
from ws_client import Client, jpeg, metric, noise, paced, prefixed, stream

CAMERAS = 4


@pytest.fixture(scope="module")
def slow(tiny_weights: Path) -> Iterator[Server]:
    """Every batch takes 700 ms longer: two keyframes a batch, under 3 a second, where 16 fall due."""
    with running_server(weights=tiny_weights, worker_module=MODULE, environment=slowly(700), max_batch=2) as server:
        yield server


def memory(server: Server) -> dict[int, int]:
    """RSS by process, bytes."""
    processes = [psutil.Process(server.process.pid), *server.children]
    return {p.pid: p.memory_info().rss for p in processes}


def film(client: Client, seconds: float) -> None:
    """A 30 fps camera whose timestamps are the epoch's."""
    for n in paced(30, seconds):
        client.picture(jpeg(n % 100), time.time_ns() // 1000)


def together(work: list[Any]) -> None:
    threads = [threading.Thread(target=w[0], args=w[1:]) for w in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def keeps_up(server: Server, seconds: float) -> None:
    options = {"keyframe_hz": 4, "timestamps": "prefix", "score_threshold": 1}
    with (
        stream(server, **options) as a, stream(server, **options) as b,
        stream(server, **options) as c, stream(server, **options) as d,
    ):  # fmt: skip
        clients = (a, b, c, d)
        for client in clients:
            client.first("ready")
        starts = [time.time_ns() // 1000] * CAMERAS
        work = [threading.Thread(target=film, args=(client, seconds)) for client in clients]
        for thread in work:
            thread.start()
        samples = []
        while any(thread.is_alive() for thread in work):
            samples.append(memory(server))
            work[0].join(max(0.5, seconds / 12))
        summaries = [client.stop() for client in clients]
    ages = [
        [(r["pts_us"] / 1e6, (r["sent_at_us"] - start - r["pts_us"]) / 1e6) for r in client.of("result")]
        for client, start in zip(clients, starts, strict=True)
    ]
    third = seconds / 3
    early = statistics.median(age for a in ages for t, age in a if third / 2 < t < third * 1.5)
    late = statistics.median(age for a in ages for t, age in a if t > 2 * third)
    worst = max(age for a in ages for _, age in a)
    half, last = samples[len(samples) // 2], samples[-1]
    growth = {pid: (last[pid] - half[pid]) / 2**20 for pid in last.keys() & half.keys()}
    print(f"age: early {early:.2f} s, late {late:.2f} s, worst {worst:.2f} s; RSS growth MiB {growth}; {summaries[0]}")
    assert late < early + 0.4
    assert worst < 5
    assert max(growth.values()) < 24
    for summary in summaries:
        assert summary["received"] == round(30 * seconds)
        assert summary["ok"] >= seconds / 3
        assert summary["superseded"] + summary["deadline"] > 0
        assert summary["error"] == summary["worker_lost"] == summary["cancelled"] == 0
        assert set(summary["dropped"]) <= {"mailbox"}
        assert summary["keyframes_due"] == pytest.approx(4 * seconds, abs=3)


@pytest.mark.slow
def test_four_cameras_stay_fresh_before_a_slow_worker(slow: Server) -> None:
    keeps_up(slow, 12)


@pytest.mark.slow
def test_four_cameras_stay_fresh_for_a_minute(slow: Server) -> None:
    keeps_up(slow, 60)


@pytest.mark.slow
def test_four_cameras_that_lose_nothing_are_slowed_by_the_socket(slow: Server) -> None:
    """More than queue, ring and socket buffers hold: sending has to wait for keyframes."""
    picture, frames, hz = noise(640, 480), 150, 0.5
    took: list[float] = []

    def pour(client: Client) -> None:
        began = time.monotonic()
        for n in range(frames):
            client.socket.send(prefixed(n * 100_000, picture))
        took.append(time.monotonic() - began)

    options = {"policy": "all", "keyframe_hz": hz, "timestamps": "prefix", "score_threshold": 1}
    with (
        stream(slow, **options) as a, stream(slow, **options) as b,
        stream(slow, **options) as c, stream(slow, **options) as d,
    ):  # fmt: skip
        clients = (a, b, c, d)
        for client in clients:
            client.first("ready")
        before = memory(slow)
        together([(pour, client) for client in clients])
        growth = {pid: (rss - before.get(pid, rss)) / 2**20 for pid, rss in memory(slow).items()}
        for client in clients:
            client.say("stop")
        summaries = [client.ended() for client in clients]
    print(f"{len(picture)} B a picture; sending took {took}; growth MiB {growth}")
    assert min(took) > 1
    for client, summary in zip(clients, summaries, strict=True):
        assert summary["received"] == frames
        assert summary["dropped"] == {}
        assert summary["keyframes_due"] == summary["ok"] == 8
        assert [r["seq"] for r in client.of("result")] == list(range(8))


@pytest.mark.slow
def test_a_sender_that_outruns_the_worker_is_blocked(slow: Server) -> None:
    """Without waiting, 75 MB go through loopback in well under a second; here they need the keyframes' time."""
    picture, frames = noise(900, 700), 130
    assert len(picture) * frames > 30e6
    with stream(slow, policy="all", keyframe_hz=2, timestamps="prefix", score_threshold=1) as client:
        client.first("ready")
        began = time.monotonic()
        for n in range(frames):
            client.socket.send(prefixed(n * 33_333 * 3, picture))
        took = time.monotonic() - began
        summary = client.stop(90)
    print(f"{len(picture) * frames / 1e6:.0f} MB sent in {took:.1f} s")
    assert summary["received"] == frames
    assert summary["dropped"] == {}
    assert summary["ok"] == summary["keyframes_due"] == 26
    # two keyframes a batch of 0.7 s: 9 s; ring (57 pictures), queue and socket buffers hold what need not wait
    assert took > 1.5


@dataclass(frozen=True)
class Take:
    """Of one run, seconds: latency as the client's clock has it and as the results have it, and the keyframes' age.

    ``results``: how many; 44 keyframes fall due. ``starved``: what the API process and this one's first thread, where
    the camera is, waited for a core meanwhile, in all.
    """

    clients: float
    told: float
    age: float
    results: int
    starved: float

    @property
    def holds(self) -> bool:
        """Within 10 % or 5 ms, and half a keyframe old. That they waited for a core excuses as much again at most."""
        waited, same, fresh = self.starved / self.results, max(0.1 * self.clients, 0.005), 0.5 * 0.25
        return (
            abs(self.clients - self.told) - min(waited, same) < same
            and self.age - min(waited, fresh) < fresh
            and self.results + 4 * self.starved >= 40
        )


def starved_s(server: Server) -> float:
    """How long the API process and this one's first thread have waited for a core."""
    return sum(queued_s(pid) or 0.0 for pid in (server.process.pid, os.getpid()))


def take(server: Server) -> Take:
    """Ten seconds of a camera; what the metric says is checked to be what the results say."""
    sent: dict[int, float] = {}
    name = "e2e_latency_seconds"
    before = metric(server, f"{name}_sum", source="ws"), metric(server, f"{name}_count", source="ws")
    waited = starved_s(server)
    with stream(server, keyframe_hz=4, lookahead_ms=0, timestamps="prefix", score_threshold=0.99) as client:
        client.first("ready")
        for n in range(100):
            jpeg(n)
        start = time.time_ns() // 1000
        for n in paced(30, 11):
            pts = round(n * 1e6 / 30)
            sent[pts] = time.monotonic()
            client.picture(jpeg(n % 100), start + pts)
        summary = client.stop()
    starved = max(0.0, starved_s(server) - waited)
    results = client.of("result")
    latencies = [r["at"] - sent[min(p for p in sent if p >= r["pts_us"])] for r in results]
    after = metric(server, f"{name}_sum", source="ws"), metric(server, f"{name}_count", source="ws")
    assert after[1] - before[1] == len(results) == summary["ok"]
    assert len(results) >= 20
    server_mean = (after[0] - before[0]) / (after[1] - before[1])
    told = [(r["sent_at_us"] - r["received_at_us"]) / 1e6 for r in results]
    assert abs(statistics.fmean(told) - server_mean) < max(0.1 * server_mean, 0.005)
    ages = [r["sent_at_us"] / 1e6 - start / 1e6 - r["pts_us"] / 1e6 for r in results]
    medians = [statistics.median(seconds) for seconds in (latencies, told, ages)]
    return Take(*medians, len(results), starved)


def test_what_waits_for_a_core_excuses_no_service_that_is_late() -> None:
    """Ten seconds of it do not make a take good."""
    good = Take(clients=0.06, told=0.058, age=0.06, results=44, starved=0.0)
    assert good.holds
    assert replace(good, clients=0.068, starved=1.0).holds
    assert replace(good, age=0.2, results=37, starved=5.0).holds
    assert not replace(good, clients=0.068).holds
    assert not replace(good, results=37).holds
    for late in ({"clients": 0.08}, {"told": 0.5}, {"age": 0.3}):
        assert not replace(good, **late, starved=10.0).holds, late


def test_what_the_client_sees_is_what_the_metric_says(server: Server) -> None:
    """Within 10 % or 5 ms, medians. Neighbours on the machine may spoil a take; what the metric forgets spoils all."""
    takes = []
    for _ in range(3):
        takes.append(take(server))
        if takes[-1].holds:
            return
    raise AssertionError(takes)
