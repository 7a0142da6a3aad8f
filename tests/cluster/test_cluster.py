"""The service on a Ray cluster: one head and two more nodes in processes of this machine, three replicas.

What is told to a client here goes through Serve's own proxy and router; replicas die by SIGKILL.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OWN_CLIPS
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from ws_client import Client, check_conservation, jpeg, poll

from stmixer.service import client as ours

pytestmark = pytest.mark.drill  # a cluster of three nodes takes minutes to begin on two cores

REPLICAS = 3
START_S = 600.0
BACK_S = 120.0
"""For what takes seconds on a machine that has nothing else to do (docs/cluster.md, What was tried)."""
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

    def do(self, *order: Any) -> None:
        """Have something happen to it, and wait until it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == '"done"\n'

    def streams(self) -> list[dict[str, Any]]:
        """What runs, wherever."""
        return httpx.get(f"{self.url}/v1/streams", timeout=60).raise_for_status().json()["streams"]

    def replicas(self) -> set[str]:
        """That answer."""
        return set(self.uploads())

    def uploads(self) -> dict[str, int]:
        """On their way to each replica."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status().text
        found = re.findall(r'^stmixer_uploads_waiting{replica="(\w+)"} (\S+)$', text, re.MULTILINE)
        return {replica: int(float(count)) for replica, count in found}


@pytest.fixture(scope="module")
def cluster(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    arguments = {
        "replicas": REPLICAS, "weights": str(tiny_weights), "device": "cpu", "max_streams": 32, "spare_workers": 0,
        "idle_decoders": 1, "allow_files": str(OWN_CLIPS), "shutdown_timeout": 6,
        "cache_dir": str(tmp_path_factory.mktemp("cache")), "allow_anonymous": True,
    }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STMIXER_", "RAY_"))}
    environment = inherited | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RAY_prestart_worker_first_driver": "0",  # processes that nobody would use
        # on a machine that has much else to do
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    }
    log = tmp_path_factory.mktemp("ray") / "log.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(OWN_CLIPS.parent / "ray_nodes.py"), json.dumps(arguments)], env=environment, text=True,
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
        """When one came, and whether it was warming."""
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
                self.results.append((time.monotonic(), result.warming))
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


def test_sockets_that_open_together_spread_and_a_thousand_frames_are_seen_whole(cluster: Cluster) -> None:
    frames, hz = 1000, 30
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(connect(cluster.ws_url, subprotocols=["stmixer.v1"], max_size=None, compression=None))
            for _ in range(6)
        ]
        clients = [Client(socket) for socket in sockets]
        for client in clients:
            client.say("start", codec="jpeg", timestamps="prefix", policy="all", keyframe_hz=1)
        homes = Counter(client.first("ready", 60)["resume_token"].partition(".")[0] for client in clients)
        assert sorted(homes.values()) == [2, 2, 2]
        numbered, *others = clients
        for number in range(frames):
            numbered.picture(jpeg(number), round(number * 1e6 / hz))
        summary = numbered.stop(120)
        assert (summary["received"], summary["ok"]) == (frames, 1 + (frames - 1) // hz)
        assert [result["seq"] for result in numbered.of("result")] == list(range(summary["ok"]))
        for client in others:
            client.picture(jpeg(0), 0)
            check_conservation(client.stop(60))


def test_it_is_the_same_api(cluster: Cluster) -> None:
    assert httpx.get(f"{cluster.url}/readyz").json() == {"status": "ready"}
    assert "<html" in httpx.get(f"{cluster.url}/").text
    with ours.Client(cluster.url) as client:
        response = client.detect(OWN_CLIPS / "walk.mp4")
    assert len(response.keyframes) == 7
    assert httpx.post(f"{cluster.url}/v1/models", json={"weights": "stmixer-rt"}).json()["code"] == "models_fixed"
    assert httpx.get(f"{cluster.url}/v1/streams/77").status_code == 404
    assert len(poll(lambda: len(cluster.replicas()) == REPLICAS and cluster.replicas(), 30)) == REPLICAS


def test_a_token_brings_a_client_back_to_its_stream(cluster: Cluster) -> None:
    with ours.Client(cluster.url) as client:
        with client.stream(**CAMERA) as first:
            first.send(jpeg(0), 0)
            token, session = first.ready.resume_token, first.ready.session_id
            first._socket.socket.close()  # the line is cut
        for _ in range(3):  # it is no luck
            with client.stream(**CAMERA, resume_token=token) as again:
                assert (again.ready.resume_token, again.ready.session_id) == (token, session)
                again._socket.socket.close()


def test_a_replica_that_dies_takes_nothing_with_it(cluster: Cluster) -> None:
    with cameras(cluster, 6) as filming:
        numbers = [begin(cluster, f"film {number}") for number in range(4)]
        assert len(set(numbers)) == 4
        assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers), BACK_S)
        homes, before = {camera.home for camera in filming}, {camera: len(camera.readies) for camera in filming}
        with ThreadPoolExecutor(6) as pool:
            killed = threading.Event()
            uploads = [pool.submit(upload, cluster, OWN_CLIPS / "walk.mp4", killed) for _ in range(6)]
            assert poll(lambda: sum(cluster.uploads().values()) == len(uploads), BACK_S)
            at_it, dead = max((count, replica) for replica, count in cluster.uploads().items() if replica in homes)
            hit = [camera for camera in filming if camera.home == dead]
            assert (at_it, len(hit)) > (0, 0)
            died_at = time.monotonic()
            cluster.do("kill", dead)
            killed.set()
            assert poll(lambda: all(back_at(camera, before[camera]) for camera in hit), BACK_S)
            assert poll(lambda: all(results_of(cluster, number) > 0 for number in numbers), BACK_S)
            statuses = Counter(upload.result() for upload in uploads)
        print(f"back after {max(back_at(camera, before[camera])[0] for camera in hit) - died_at:.1f} s; {statuses}")
        for camera in hit:
            assert back_at(camera, before[camera])[1], "the window begins anew"
            assert camera.home != dead
            assert camera.closes[-1][1] in (1006, 1012, 1013)
        for camera in set(filming) - set(hit):
            assert len(camera.readies) == before[camera], "the others notice nothing"
        assert statuses == {200: len(uploads) - at_it, 503: at_it}, "those on their way to it may be sent again"
        running = [stream["pulled"]["name"] for stream in cluster.streams() if stream["pulled"] is not None]
        assert sorted(running) == [f"film {number}" for number in range(4)], "none is served twice"
        for number in numbers:
            assert httpx.delete(f"{cluster.url}/v1/streams/{number}", timeout=60).status_code == 204
            assert httpx.get(f"{cluster.url}/v1/streams/{number}", timeout=60).status_code == 404


def back_at(camera: Camera, readies: int) -> tuple[float, bool] | tuple[()]:
    """When it had its first result since it came back, and whether that was warming; empty while it has none."""
    if len(camera.readies) <= readies:
        return ()
    return next((result for result in camera.results if result[0] > camera.readies[readies][0]), ())


def upload(cluster: Cluster, clip: Path, go_on: threading.Event) -> int:
    """The status of an answer, which where it is 503 says when to try again; the other half goes when it may."""
    data = clip.read_bytes()

    def body() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        assert go_on.wait(BACK_S)
        yield data[len(data) // 2 :]

    answer = httpx.post(f"{cluster.url}/v1/detect", content=body(), timeout=120)
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code


def test_a_rolling_upgrade_closes_nothing_without_a_word(cluster: Cluster) -> None:
    assert poll(lambda: len(cluster.replicas()) == REPLICAS, 300)
    old = cluster.replicas()
    with cameras(cluster, 6) as filming:
        number = begin(cluster, "film")
        cluster.do("deploy", cluster.arguments | {"max_streams": 31})
        assert poll(lambda: not cluster.replicas() & old and len(cluster.replicas()) == REPLICAS, 300)
        assert poll(lambda: all(camera.home not in old for camera in filming), 60)
        for camera in filming:
            assert camera.closes, "it had to move"
            assert {(code, told) for _, code, told in camera.closes} == {(1000, True)}
        assert poll(lambda: results_of(cluster, number) > 0, 30)
        assert [s["id"] for s in cluster.streams() if s["pulled"] is not None].count(number) == 1
