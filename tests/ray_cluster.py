"""The service on a Ray cluster of this machine (``ray_nodes``) for drills, and cameras that come back to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from conftest import OWN_CLIPS
from drills import write_report
from websockets.exceptions import WebSocketException
from ws_client import jpeg, poll

from stmixer.service import client as ours

START_S = 600.0
BACK_S = 120.0
"""For what takes seconds on a machine that has nothing else to do (docs/cluster.md, What was tried)."""
WHOLE = 2
"""From this keyframe on a window may be whole: on a busy machine those before are not always told."""
CAMERA = {"codec": "jpeg", "timestamps": "prefix", "keyframe_hz": 1, "lookahead_ms": 0}


@dataclass
class Cluster:
    """``url`` of Serve's proxy; ``arguments`` as they were deployed."""

    url: str
    process: subprocess.Popen[str]
    arguments: dict[str, Any]

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws") + "/v1/streams/ws"

    def asked(self, *order: Any) -> Any:
        """What it says to an order, once it has done that."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def do(self, *order: Any) -> None:
        """Have something happen to it, and wait until it has."""
        assert self.asked(*order) == "done"

    def streams(self) -> list[dict[str, Any]]:
        """What runs, wherever."""
        return httpx.get(f"{self.url}/v1/streams", timeout=60).raise_for_status().json()["streams"]

    def replicas(self) -> set[str]:
        """That answer."""
        return set(self.uploads())

    def uploads(self) -> dict[str, int]:
        """On their way to each replica."""
        return self._of_each("uploads_waiting")

    def fetching(self) -> dict[str, int]:
        """Pulled streams of each replica."""
        return self._of_each("streams_active", 'source="pull"')

    def _of_each(self, gauge: str, label: str = "") -> dict[str, int]:
        text = httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status().text
        series = rf'^stmixer_{gauge}{{replica="(\w+)"{label and "," + label}}} (\S+)$'
        return {replica: int(float(count)) for replica, count in re.findall(series, text, re.MULTILINE)}


@contextmanager
def running_cluster(
    weights: Path, folder: Path, replicas: int, proxies: str = "HeadOnly", head_cpus: int = 1, **environment: str
) -> Iterator[Cluster]:
    """Three nodes, served. ``folder``: for its caches and its log."""
    arguments = {
        "replicas": replicas, "weights": str(weights), "device": "cpu", "max_streams": 32, "spare_workers": 0,
        "idle_decoders": 1, "allow_files": str(OWN_CLIPS), "allow_networks": "127.0.0.0/8", "shutdown_timeout": 6,
        "cache_dir": str(folder), "allow_anonymous": True,
    }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STMIXER_", "RAY_"))}
    environment |= inherited | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RAY_prestart_worker_first_driver": "0",  # processes that nobody would use
        # on a machine that has much else to do
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    }
    log = folder / "log.txt"
    script = str(OWN_CLIPS.parent / "ray_nodes.py")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, script, json.dumps(arguments), proxies, str(head_cpus)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
            assert line, log.read_text()[-5000:]
            timer.cancel()
            yield Cluster(json.loads(line)["url"], process, arguments)
        finally:
            timer.cancel()
            process.stdin.close()
            process.wait(60)
            process.stdout.close()
    assert process.returncode == 0, log.read_text()[-5000:]


class Camera:
    """A client that films on, and comes back as ours do: with its token, to the replica that it names."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._ends = cluster, threading.Event()
        self.readies: list[tuple[float, str]] = []
        """When it was ready, and the replica."""
        self.results: list[tuple[float, bool]] = []
        """When one came, and whether its window was whole or said that it was warming."""
        self.closes: list[tuple[float, int, bool]] = []
        """When a socket was closed, by which code, and whether ``goaway`` had come."""
        self._thread = threading.Thread(target=self._film, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ends.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def home(self) -> str:
        """The replica that it is at."""
        return self.readies[-1][1]

    def _film(self) -> None:
        token: str | None = None
        while not self._ends.is_set():
            try:
                with ours.Client(self._cluster.url).stream(**CAMERA, resume_token=token) as stream:
                    token = stream.ready.resume_token
                    self.readies.append((time.monotonic(), token.partition(".")[0]))
                    code = self._once(stream)
                    self.closes.append((time.monotonic(), code, stream.going_away_in_ms is not None))
            except (ours.ServiceError, OSError, TimeoutError, WebSocketException) as error:
                print("camera:", repr(error))
            self._ends.wait(0.3)

    def _once(self, stream: ours.LiveStream) -> int:
        over = threading.Event()

        def send() -> None:
            began = time.monotonic()
            for number in range(10**6):
                if over.wait(max(0.0, began + number / 5 - time.monotonic())) or self._ends.is_set():
                    break
                stream.send(jpeg(number % 64), round(number * 1e6 / 5))
            if self._ends.is_set():
                stream.stop()

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for result in stream:
                self.results.append((time.monotonic(), result.warming or result.seq >= WHOLE))
            return 1000
        except ours.ServiceError as error:
            return error.status
        finally:
            over.set()
            sender.join()


@contextmanager
def cameras(cluster: Cluster, count: int) -> Iterator[list[Camera]]:
    found = [Camera(cluster) for _ in range(count)]
    try:
        assert poll(lambda: all(camera.results for camera in found), 60)
        yield found
    finally:
        for camera in found:
            camera.end()


def begin(cluster: Cluster, name: str) -> str:
    """A stream that is pulled: a file, again and again."""
    order = {"url": "file:walk.mp4", "loop": True, "name": name}
    answer = httpx.post(f"{cluster.url}/v1/streams", json=order, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def results_of(cluster: Cluster, number: str) -> int:
    """That a pulled stream has told; -1 while nobody has it."""
    answer = httpx.get(f"{cluster.url}/v1/streams/{number}", timeout=60)
    return int(answer.json()["summary"]["ok"]) if answer.status_code == 200 else -1


def back_at(camera: Camera, readies: int) -> tuple[float, bool] | tuple[()]:
    """Its first result since it came back, as in ``results``; empty while it has none."""
    if len(camera.readies) <= readies:
        return ()
    return next((result for result in camera.results if result[0] > camera.readies[readies][0]), ())


def seconds(moments: Iterable[float], since: float) -> list[float]:
    """From one moment to each, as a report has them."""
    return sorted(round(moment - since, 1) for moment in moments)


def report(name: str, **figures: Any) -> None:
    """``bench/results/NAME.json``, with Ray's version."""
    write_report(name, {"ray": metadata.version("ray"), "model": "tiny", **figures})
