"""Two workers, each with cores of its own: who serves whom, the same results from both, and one that stays away."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from conftest import OWN_CLIPS
from posting import WORKER, conserved, eventually, metric, post, same_actors
from serving import Server, running_server
from ws_client import Client, jpeg, paced, stream

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers on the CPU want a core each"),
]
CLIP = OWN_CLIPS / "walk.mp4"
ASKED = {"keyframe_hz": 2, "score_threshold": 0.0}


@pytest.fixture(scope="module")
def two(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, device="cpu,cpu") as server:
        yield server


def seated(server: Server) -> list[int]:
    """Streams of each seat."""
    return [int(metric(server, "seat_streams", worker=number)) for number in ("0", "1")]


def of_seat(server: Server, number: int) -> list[psutil.Process]:
    """A seat's workers, by the cores that they keep to."""
    cores = sorted(os.sched_getaffinity(0))
    own = [cores[: len(cores) // 2], cores[len(cores) // 2 :]][number]
    return [child for child in server.children_of(WORKER) if child.cpu_affinity() == own]


def test_each_keeps_to_its_cores_and_both_say_the_same(two: Server) -> None:
    assert [len(of_seat(two, number)) for number in (0, 1)] == [1, 1]
    first = post(two, CLIP, **ASKED).json()
    with stream(two, keyframe_hz=1) as camera:  # has the first seat
        camera.first("ready")
        assert seated(two) == [1, 0]
        second = post(two, CLIP, **ASKED).json()
        camera.stop()
    ran = [metric(two, "inferences_total", worker=number) for number in ("0", "1")]
    assert min(ran) >= len(second["keyframes"]) > 3
    for one, other in zip(first["keyframes"], second["keyframes"], strict=True):
        assert (one["seq"], one["pts_us"]) == (other["seq"], other["pts_us"])
        same_actors(one["actors"], other["actors"])


def test_the_streams_of_one_that_stays_away_go_on_with_the_other(two: Server) -> None:
    with ExitStack() as clients:
        cameras = [
            clients.enter_context(stream(two, keyframe_hz=1, score_threshold=1, lookahead_ms=0)) for _ in range(8)
        ]
        for camera in cameras:
            camera.first("ready")
        assert seated(two) == [4, 4]
        moved_at: float | None = None
        for n in paced(5, 90):
            for camera in cameras:
                camera.picture(jpeg(n % 50))
            if moved_at is None and min(len(camera.of("result")) for camera in cameras) >= 2:
                for worker in of_seat(two, 0):  # as often as one comes
                    worker.kill()
                moved_at = time.monotonic() if seated(two) == [0, 8] else None
            elif moved_at is not None and all(since(camera, moved_at) >= 3 for camera in cameras):
                break
        assert moved_at is not None
        summaries = [camera.stop() for camera in cameras]
    for summary in summaries:
        conserved(summary)
        assert summary["error"] == summary["worker_lost"] == 0
    assert any("its streams go to the others" in line for line in two.log)
    eventually(lambda: metric(two, "worker_up", worker="0"), lambda up: up == 1, 60)
    assert metric(two, "seat_capacity", worker="0") > 0


def since(camera: Client, moment: float) -> int:
    """Results that came after a moment."""
    return sum(result["at"] > moment for result in camera.of("result"))
