"""Two workers, each with cores of its own: who serves whom, the same results from both, and one that stays away.

``DRILL_SEAT_ROUNDS`` sets how often the drill takes a seat's worker, and then all that come (4).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import OWN_CLIPS
from drills import complaints, write_report
from posting import OUTCOMES, WORKER, conserved, eventually, metric, post, same_actors
from serving import Server, running_server
from ws_client import Client, jpeg, paced, stream

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers on the CPU want a core each"),
]
CLIP = OWN_CLIPS / "walk.mp4"
ASKED = {"keyframe_hz": 2, "score_threshold": 0.0}
ROUNDS = int(os.environ.get("DRILL_SEAT_ROUNDS", "4"))
CAMERAS = 8
CALM_S = 60.0
SPARE_WITHIN_S, MOVED_WITHIN_S = 3.0, 20.0


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


# -- the drill


class Filming:
    """A camera of five pictures and one keyframe a second, which films until its end."""

    def __init__(self, server: Server, pool: ThreadPoolExecutor) -> None:
        self._stack, self._stop = ExitStack(), threading.Event()
        told = {"keyframe_hz": 1, "score_threshold": 1, "lookahead_ms": 0}
        self.client = self._stack.enter_context(stream(server, **told))
        self.client.first("ready", 60)
        self._sending = pool.submit(self._send)

    def _send(self) -> None:
        for n in paced(5, 24 * 3600):
            if self._stop.is_set():
                return
            self.client.picture(jpeg(n % 50))

    def end(self) -> dict[str, Any]:
        """Its summary."""
        self._stop.set()
        self._sending.result()
        with self._stack:
            return self.client.stop()

    def goes_on_after(self, moment: float) -> float | None:
        """Seconds until a result that was not on its way already; None while there is none."""
        later = [result["at"] for result in self.client.of("result") if result["at"] > moment + 0.1]
        return min(later) - moment if later else None


def latencies_ms(cameras: Iterable[Filming], begin: float, end: float) -> list[float]:
    """What the service added to the results that came meanwhile."""
    return [
        (result["sent_at_us"] - result["received_at_us"]) / 1000
        for camera in cameras
        for result in camera.client.of("result")
        if begin <= result["at"] <= end
    ]


def p95(values: list[float]) -> float:
    return round(float(np.percentile(values, 95)), 1)


def all_warm(server: Server) -> bool:
    """Whether each seat has a worker and a spare that have warmed up, and no other is there."""
    started = sum("batches of" in line for line in server.log)
    ended = sum(", pid " in line and "worker" in line for line in server.log)
    return started - ended == 4 and [len(of_seat(server, number)) for number in (0, 1)] == [2, 2]


def slowest(cameras: list[Filming], moment: float, within_s: float) -> float:
    """Seconds until all of them have a result again."""
    waits = eventually(lambda: [c.goes_on_after(moment) for c in cameras], lambda found: None not in found, within_s)
    return round(max(wait for wait in waits if wait is not None), 2)


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_one_seats_trouble_is_not_the_others(tiny_weights: Path) -> None:
    options: dict[str, object] = {"weights": tiny_weights, "device": "cpu,cpu", "spare_workers": 1}
    with running_server(**options) as server, ThreadPoolExecutor(CAMERAS) as pool:
        eventually(lambda: all_warm(server), timeout_s=120)
        cameras = [Filming(server, pool) for _ in range(CAMERAS)]
        assert seated(server) == [4, 4]
        own, others, ended = cameras[::2], cameras[1::2], list[dict[str, Any]]()
        began, calmly = time.monotonic(), threading.Event()
        calmly.wait(CALM_S)
        calm, spare, dead = latencies_ms(others, began + 5, time.monotonic()), list[float](), list[float]()
        by_spare, moved = list[float](), list[float]()
        for number in range(ROUNDS):
            first = min(of_seat(server, 0), key=lambda worker: worker.create_time())
            first.kill()
            moment = time.monotonic()
            by_spare.append(slowest(own, moment, 60))
            eventually(lambda: all_warm(server), timeout_s=120)
            spare += latencies_ms(others, moment, time.monotonic())
            assert seated(server) == [4, 4], "a spare takes over whom it serves"

            moment = time.monotonic()
            while seated(server) != [0, 8]:
                for worker in of_seat(server, 0):  # as often as one comes
                    worker.kill()
                assert time.monotonic() < moment + 60
                calmly.wait(0.5)  # whoever asks all the time takes the API process from the others
            dead += latencies_ms(others, moment, time.monotonic())
            moved.append(slowest(own, moment, 60))
            eventually(lambda: all_warm(server), timeout_s=120)
            ended += [camera.end() for camera in own]
            eventually(lambda: seated(server), lambda now: now == [0, 4])
            own = [Filming(server, pool) for _ in own]
            assert seated(server) == [4, 4]
            print(f"round {number + 1} at {time.monotonic() - began:.0f} s", flush=True)
        ended += [camera.end() for camera in (*own, *others)]
        write_report("drill_seats", {
            "rounds": ROUNDS, "cameras": CAMERAS, "keyframe_hz": 1, "model": "tiny",
            "own_streams_go_on_after_s": {
                "by_the_spare": {"median": median(by_spare), "worst": max(by_spare)},
                "moved": {"median": median(moved), "worst": max(moved)},
            },
            "other_seats_p95_ms": {"calm": p95(calm), "a_worker_dies": p95(spare), "all_die_until_moved": p95(dead)},
            "other_seats_results": {"calm": len(calm), "a_worker_dies": len(spare), "all_die_until_moved": len(dead)},
            "keyframes": {name: sum(summary[name] for summary in ended) for name in OUTCOMES},
            "load": round(os.getloadavg()[1], 1),
        })  # fmt: skip
        for summary in ended:
            conserved(summary)
            assert summary["error"] == summary["worker_lost"] == 0
        assert max(by_spare) <= SPARE_WITHIN_S
        assert max(moved) <= MOVED_WITHIN_S
        for troubled in (spare, dead):
            assert p95(troubled) <= p95(calm) + max(20.0, 0.1 * p95(calm))
        assert not complaints(server)
