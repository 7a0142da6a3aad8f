"""`make drill`: workers and decoders killed again and again under load. DRILL_KILLS sets how many workers (100)."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from conftest import OWN_CLIPS
from drills import complaints, deaths, write_report
from posting import DECODER, WORKER, both_warm, conserved, eventually, metric, open_files, post, same_actors
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


def kill_workers(server: Server, stop: threading.Event) -> list[float]:
    """Kill the worker in service KILLS times, at random moments; when."""
    chance, moments = random.Random(1), []
    for _ in range(KILLS):
        worker = both_warm(server)[0]
        stop.wait(APART_S + chance.uniform(0, 3))
        next(child for child in server.children_of(WORKER) if child.pid == worker).kill()
        moments.append(time.monotonic())
    both_warm(server)
    stop.wait(WITHIN_S)
    return moments


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_workers_may_die_as_often_as_they_like(tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, spare_workers=1) as server:
        both_warm(server)
        expected = post(server, FALL, **UPLOAD).json()["keyframes"]
        process, stop = psutil.Process(server.process.pid), threading.Event()
        with ThreadPoolExecutor(CAMERAS + UPLOADS) as pool:  # what a first load leaves in caches is there before
            post(server, FALL, **UPLOAD)
            eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2)
            descriptors, memory = process.num_fds(), process.memory_info().rss
            cameras = [pool.submit(camera, server, stop) for _ in range(CAMERAS)]
            posting = [pool.submit(uploads, server, stop, expected) for _ in range(UPLOADS)]
            try:
                killed = kill_workers(server, stop)
            finally:
                stop.set()
            seen = [future.result() for future in cameras]
            answered = [future.result() for future in posting]
        waits = [min(at - moment for times, _ in seen for at in times if at > moment + 0.1) for moment in killed]
        lost = sum(summary["worker_lost"] + summary["error"] for _, summary in seen)
        eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2, 60)
        eventually(process.num_fds, lambda n: n == descriptors, 60)
        growth = process.memory_info().rss - memory
        totals = {outcome: sum(summary[outcome] for _, summary in seen) for outcome in OUTCOMES}
        write_report("drill_worker_kills", {
            "kills": KILLS, "cameras": CAMERAS, "uploaders": UPLOADS, "uploads_answered": sum(answered),
            "first_result_after_a_kill_s": {"median": round(median(waits), 2), "worst": round(max(waits), 2)},
            "live_keyframes": totals, "live_keyframes_lost": lost, "api_memory_mib": round(growth / 2**20, 1),
            "api_descriptors": process.num_fds() - descriptors,
        })  # fmt: skip
        assert max(waits) <= WITHIN_S
        assert min(answered) > 0
        assert metric(server, "worker_restarts_total", worker="0", reason="exit") == KILLS
        assert growth < 64 * 2**20


def kill_decoders(server: Server, stop: threading.Event) -> list[float]:
    """Kill a decoder that holds a ring DECODER_KILLS times, at random moments; when."""
    chance, moments = random.Random(2), []
    for _ in range(DECODER_KILLS):
        stop.wait(APART_S + chance.uniform(0, 3))
        busy = eventually(
            lambda: [d for d in server.children_of(DECODER) if any("stmixer-ring" in f for f in open_files(d))]
        )
        chance.choice(busy).kill()
        moments.append(time.monotonic())
    stop.wait(WITHIN_S)
    return moments


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_decoders_may_die_as_often_as_they_like(tiny_weights: Path) -> None:
    with running_server(weights=tiny_weights, spare_workers=1) as server:
        both_warm(server)
        expected = post(server, FALL, **UPLOAD).json()["keyframes"]
        process, stop = psutil.Process(server.process.pid), threading.Event()
        with ThreadPoolExecutor(CAMERAS + UPLOADS) as pool:
            post(server, FALL, **UPLOAD)
            eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2)
            descriptors, memory = process.num_fds(), process.memory_info().rss
            cameras = [pool.submit(camera, server, stop) for _ in range(CAMERAS)]
            posting = [pool.submit(uploads, server, stop, expected) for _ in range(UPLOADS)]
            try:
                killed = kill_decoders(server, stop)
            finally:
                stop.set()
            seen = [future.result() for future in cameras]
            answered = [future.result() for future in posting]
        # of the streams that lost theirs: those with a warning; each has results again within the time
        waits = [max(min(at - moment for at in times if at > moment) for times, _ in seen) for moment in killed]
        eventually(lambda: len(server.children_of(DECODER)), lambda n: n == 2, 60)
        eventually(process.num_fds, lambda n: n == descriptors, 60)
        growth = process.memory_info().rss - memory
        totals = {outcome: sum(summary[outcome] for _, summary in seen) for outcome in OUTCOMES}
        dropped = sum(summary["dropped"].get("decoder", 0) for _, summary in seen)
        replaced = sum(len(summary["warnings"]) for _, summary in seen)
        write_report("drill_decoder_kills", {
            "kills": DECODER_KILLS, "cameras": CAMERAS, "uploaders": UPLOADS, "uploads_answered": sum(answered),
            "live_streams_that_lost_a_decoder": replaced, "pictures_lost": dropped, "live_keyframes": totals,
            "slowest_stream_after_a_kill_s": {"median": round(median(waits), 2), "worst": round(max(waits), 2)},
            "api_memory_mib": round(growth / 2**20, 1), "api_descriptors": process.num_fds() - descriptors,
        })  # fmt: skip
        assert max(waits) <= WITHIN_S
        assert min(answered) > 0
        assert totals["error"] == totals["worker_lost"] == totals["cancelled"] == 0
        assert growth < 64 * 2**20
        assert not deaths(server)
        assert not complaints(server)
