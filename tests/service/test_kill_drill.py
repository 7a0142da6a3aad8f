"""`make drill`: workers and decoders killed again and again under load. DRILL_KILLS sets how many workers (100)."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from conftest import OWN_CLIPS
from drills import complaints, deaths, write_report
from posting import (
    DECODER,
    WORKER,
    both_warm,
    busy_decoders,
    conserved,
    descriptors,
    eventually,
    metric,
    post,
    same_actors,
)
from serving import Server, running_server
from ws_client import OUTCOMES, jpeg, paced, stream

FALL = OWN_CLIPS / "fall.mp4"
KILLS = int(os.environ.get("DRILL_KILLS", "100"))
DECODER_KILLS = min(KILLS, 20)
CAMERAS, UPLOADS = 8, 4
APART_S = 13.0
WITHIN_S = 3.0
UPLOAD: dict[str, Any] = {"keyframe_hz": 2, "score_threshold": 0, "top_k": 3}


def camera(server: Server, stop: threading.Event) -> tuple[list[float], dict[str, Any]]:
    """When results came, and the summary, of a camera that is never closed."""
    with stream(server, keyframe_hz=2, score_threshold=1, lookahead_ms=0) as client:
        client.first("ready", 60)
        for n in paced(10, 24 * 3600):
            if stop.is_set():
                break
            client.picture(jpeg(n % 50))
        summary = client.stop()
        return [result["at"] for result in client.of("result")], summary


def uploads(server: Server, stop: threading.Event, expected: list[dict[str, Any]]) -> int:
    """Post one clip over and over; how often it was answered, completely and correctly."""
    count = 0
    while not stop.is_set():
        answer = post(server, FALL, **UPLOAD)
        assert answer.status_code == 200, answer.text
        conserved(answer.json()["summary"])
        keyframes = answer.json()["keyframes"]
        assert [k["seq"] for k in keyframes] == [k["seq"] for k in expected]
        for ours, theirs in zip(keyframes, expected, strict=True):
            same_actors(ours["actors"], theirs["actors"])
        count += 1
    return count


@dataclass
class Night:
    """What the cameras and uploaders of one drill saw, and what it left in the API process."""

    killed: list[float]
    seen: list[tuple[list[float], dict[str, Any]]]
    answered: list[int]
    growth: int
    descriptors: int

    def waits(self, transit_s: float) -> list[float]:
        """Per kill, seconds until every stream had a result that was not on its way already: the slowest stream's."""
        return [
            max(min(at - moment for at in times if at > moment + transit_s) for times, _ in self.seen)
            for moment in self.killed
        ]

    def totals(self) -> dict[str, int]:
        return {outcome: sum(summary[outcome] for _, summary in self.seen) for outcome in OUTCOMES}

    def report(self, waits: list[float], **more: Any) -> dict[str, Any]:
        return {
            "kills": len(self.killed), "cameras": CAMERAS, "uploaders": UPLOADS, "uploads_answered": sum(self.answered),
            "slowest_stream_after_a_kill_s": {"median": round(median(waits), 2), "worst": round(max(waits), 2)},
            "live_keyframes": self.totals(), **more,
            "api_memory_mib": round(self.growth / 2**20, 1), "api_descriptors": self.descriptors,
        }  # fmt: skip


def night(server: Server, kill: Callable[[Server, threading.Event], list[float]]) -> Night:
    """Eight cameras and four uploaders, while ``kill`` does what it does and says when."""
    both_warm(server)
    expected = post(server, FALL, **UPLOAD).json()["keyframes"]
    process, stop = psutil.Process(server.process.pid), threading.Event()
    with ThreadPoolExecutor(CAMERAS + UPLOADS) as pool:
        post(server, FALL, **UPLOAD)  # what a first load leaves in caches is there before
        eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2)
        before, memory = descriptors(server), process.memory_info().rss
        cameras = [pool.submit(camera, server, stop) for _ in range(CAMERAS)]
        posting = [pool.submit(uploads, server, stop, expected) for _ in range(UPLOADS)]
        try:
            killed = kill(server, stop)
        finally:
            stop.set()
        seen = [future.result() for future in cameras]
        answered = [future.result() for future in posting]
    eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2, 60)
    eventually(lambda: descriptors(server), lambda n: n == before, 60)
    growth = process.memory_info().rss - memory
    return Night(killed, seen, answered, growth, descriptors(server) - before)


def kill_workers(server: Server, stop: threading.Event) -> list[float]:
    """Kill the worker in service KILLS times, at random moments, once there is a spare again; when."""
    chance, moments = random.Random(1), []
    for number in range(KILLS):
        worker = both_warm(server)[0]
        apart = APART_S + chance.uniform(0, 3)
        stop.wait(max(chance.uniform(0, 3), moments[-1] + apart - time.monotonic()) if moments else apart)
        victim = next((child for child in server.children_of(WORKER) if child.pid == worker), None)
        assert victim is not None, (f"worker {worker} went by itself", server.log[-20:])
        victim.kill()
        moments.append(time.monotonic())
        victim.wait(10)  # else it may be taken for a warm one while it dies
        print(f"kill {number + 1} at {moments[-1] - moments[0]:.1f} s", flush=True)
    both_warm(server)
    stop.wait(WITHIN_S)
    return moments


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_workers_may_die_as_often_as_they_like(tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, spare_workers=1) as server:
        seen = night(server, kill_workers)
        waits, totals = seen.waits(0.1), seen.totals()
        apart = min(after - before for before, after in itertools.pairwise(seen.killed))
        write_report("drill_worker_kills", seen.report(waits, least_seconds_apart=round(apart, 1)))
        assert max(waits) <= WITHIN_S
        assert apart >= APART_S
        assert min(seen.answered) > 0
        assert totals["error"] == totals["worker_lost"] == totals["cancelled"] == 0
        assert metric(server, "worker_restarts_total", worker="0", reason="exit") == KILLS
        assert seen.growth < 64 * 2**20


def kill_decoders(server: Server, stop: threading.Event) -> list[float]:
    """Kill a decoder that holds a ring DECODER_KILLS times, at random moments; when."""
    chance, moments = random.Random(2), []
    for _ in range(DECODER_KILLS):
        stop.wait(APART_S + chance.uniform(0, 3))
        busy = eventually(lambda: busy_decoders(server))
        chance.choice(busy).kill()
        moments.append(time.monotonic())
    stop.wait(WITHIN_S)
    return moments


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_decoders_may_die_as_often_as_they_like(tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, spare_workers=1) as server:
        seen = night(server, kill_decoders)
        waits, totals = seen.waits(0.0), seen.totals()
        dropped = sum(summary["dropped"].get("decoder", 0) for _, summary in seen.seen)
        replaced = sum(len(summary["warnings"]) for _, summary in seen.seen)
        write_report(
            "drill_decoder_kills",
            seen.report(waits, live_streams_that_lost_a_decoder=replaced, pictures_lost=dropped),
        )
        assert max(waits) <= WITHIN_S
        assert min(seen.answered) > 0
        assert totals["error"] == totals["worker_lost"] == totals["cancelled"] == 0
        assert seen.growth < 64 * 2**20
        assert not deaths(server)
        assert not complaints(server)
