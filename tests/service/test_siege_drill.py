"""`make drill`: everything that one who means harm can do from outside, one thing after another and all at once, while
cameras run. DRILL_SIEGE_S: seconds of each (20).

From one address, without a key, and again with a key: the besiegers come from 127.0.0.2, cameras from 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import OWN_CLIPS
from drills import complaints, deaths, write_report
from posting import at_rest, busy_decoders, eventually, request_head
from serving import Server, running_server
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from ws_client import Client, jpeg, paced, prefixed

from stmixer.service.key_file import Key, KeyFile, digest, new_secret, write_keys

SECONDS = float(os.environ.get("DRILL_SIEGE_S", "20"))
CAMERAS, KEYFRAME_HZ = 3, 2
HEALTHZ_P99_S, LONGEST_GAP_S, GROWTH_BYTES = 0.1, 5.0, 64 * 2**20
BESIEGERS = ("127.0.0.2", 0)
SILENT, DRIPPING, UNREAD = 300, 12, 20
HOUR_US = 3_600_000_000
_GONE = (OSError, WebSocketException, httpx.HTTPError, AssertionError)
"""How the service ends what one who means harm does."""


@dataclass(frozen=True)
class Camp:
    """Whence they come: the service, a key or none, and the decoders that are others'."""

    server: Server
    secret: str | None
    others: frozenset[int]

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.secret is None else {"Authorization": f"Bearer {self.secret}"}

    @contextlib.contextmanager
    def tcp(self) -> Iterator[socket.socket]:
        host, port = self.server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10, source_address=BESIEGERS) as connection:
            yield connection

    @contextlib.contextmanager
    def camera(self, **start: Any) -> Iterator[Client]:
        with connect(
            self.server.ws_url, subprotocols=["stmixer.v1"], ping_interval=None, max_size=None,  # type: ignore[list-item]
            additional_headers=self.headers, source_address=BESIEGERS, close_timeout=1,
        ) as opened:  # fmt: skip
            client = Client(opened)
            client.say("start", **start)
            yield client


Attack = Callable[[Camp, threading.Event], None]


def again_and_again(once: Attack) -> Attack:
    """Whatever the service does about it, it begins anew."""

    def attack(camp: Camp, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(*_GONE):
                once(camp, stop)
            stop.wait(0.05)

    return attack


@again_and_again
def silent_sockets(camp: Camp, stop: threading.Event) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            with contextlib.suppress(OSError):
                stack.enter_context(camp.tcp()).sendall(b"GET /healthz HTT")
        stop.wait(5)


@again_and_again
def dripping_uploads(camp: Camp, stop: threading.Event) -> None:
    clip = (OWN_CLIPS / "fall.mp4").read_bytes()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(camp.tcp()) for _ in range(DRIPPING)]
        for connection in connections:
            connection.sendall(request_head(camp.server, 100 * 2**20, **camp.headers))
        for byte in clip:
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(bytes([byte]))
            if stop.wait(0.5):
                return


@again_and_again
def unread_answers(camp: Camp, stop: threading.Event) -> None:
    ask = b"GET /web/stage.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200
    with contextlib.ExitStack() as stack:
        for _ in range(UNREAD):
            connection = stack.enter_context(camp.tcp())
            connection.settimeout(1)
            with contextlib.suppress(OSError):
                connection.sendall(ask)
        stop.wait(10)


@again_and_again
def clock_leaps(camp: Camp, stop: threading.Event) -> None:
    with camp.camera(keyframe_hz=30, timestamps="prefix", policy="all") as client:
        client.first("ready")
        for number in range(10_000):
            client.socket.send(prefixed(number % 2 * HOUR_US + number * 40_000, jpeg(number % 50)))
            if stop.wait(0.05):
                return


@again_and_again
def small_messages(camp: Camp, stop: threading.Event) -> None:
    with camp.camera() as client:
        client.first("ready")
        while not stop.is_set():
            client.socket.send(b"x")


@again_and_again
def large_messages(camp: Camp, stop: threading.Event) -> None:
    with camp.camera() as client:
        client.first("ready")
        client.socket.send(bytes(8 * 2**20))
        client.closed()


@again_and_again
def stopped_decoder(camp: Camp, stop: threading.Event) -> None:
    with camp.camera() as client:
        client.first("ready")
        client.picture(jpeg(0))
        busy = eventually(lambda: [d for d in busy_decoders(camp.server) if d.pid not in camp.others])
        busy[0].suspend()
        for number in paced(5, 30):
            client.picture(jpeg(number % 50))
            if stop.is_set():
                return


@again_and_again
def full_disk(camp: Camp, stop: threading.Event) -> None:
    """What a full disk does to the service, without filling one."""
    process = psutil.Process(camp.server.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    try:
        process.rlimit(psutil.RLIMIT_FSIZE, (2**16, before[1]))
        clip = (OWN_CLIPS / "fall.mp4").read_bytes()
        httpx.post(camp.server.url + "/v1/detect", content=clip, headers=camp.headers, timeout=10)
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


ATTACKS: dict[str, Attack] = {
    "silent_sockets": silent_sockets, "dripping_uploads": dripping_uploads, "unread_answers": unread_answers,
    "clock_leaps": clock_leaps, "small_messages": small_messages, "large_messages": large_messages,
    "stopped_decoder": stopped_decoder, "full_disk": full_disk,
}  # fmt: skip
WITHOUT_A_KEY = ("silent_sockets", "dripping_uploads", "unread_answers", "small_messages", "large_messages")


def healthz(server: Server, stop: threading.Event, taken: list[float]) -> None:
    """Ask, a new connection each time; seconds that it took, infinite where it was not answered."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            httpx.get(server.url + "/healthz", timeout=10).raise_for_status()
            taken.append(time.monotonic() - began)
        except httpx.HTTPError:
            taken.append(float("inf"))
        stop.wait(0.05)


def film(server: Server, secret: str, stop: threading.Event, results: list[float]) -> None:
    """A camera with a key, for as long as it takes; when its results came."""
    with connect(
        server.ws_url, subprotocols=["stmixer.v1"], ping_interval=None, max_size=None,  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {secret}"},
    ) as opened:  # fmt: skip
        client = Client(opened)
        client.say("start", keyframe_hz=KEYFRAME_HZ, lookahead_ms=0, score_threshold=1)
        client.first("ready", 60)
        for number in paced(10, 24 * 3600):
            if stop.is_set():
                break
            client.picture(jpeg(number % 50))
            results[:] = [result["at"] for result in client.of("result")]
        client.stop()


def p99(taken: list[float]) -> float:
    return sorted(taken)[min(len(taken) - 1, round(0.99 * len(taken)))]


def besieged(camp: Camp, names: tuple[str, ...], results: list[list[float]]) -> dict[str, Any]:
    """What others see of the service meanwhile."""
    stop, taken, began = threading.Event(), list[float](), time.monotonic()
    with ThreadPoolExecutor(len(names) + 1) as pool:
        asking = pool.submit(healthz, camp.server, stop, taken)
        attacks = [pool.submit(ATTACKS[name], camp, stop) for name in names]
        stop.wait(SECONDS)
        stop.set()
        for future in (asking, *attacks):
            future.result()
    ended = time.monotonic()
    seen = [[began, *(at for at in times if began <= at <= ended), ended] for times in results]
    gaps = [max(after - before for before, after in itertools.pairwise(times)) for times in seen]
    return {
        "seconds": round(ended - began, 1), "healthz_asked": len(taken), "healthz_p99_ms": round(p99(taken) * 1e3, 1),
        "results_per_camera": [len(times) - 2 for times in seen], "longest_gap_s": round(max(gaps), 2),
    }  # fmt: skip


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_a_siege(tiny_weights: Path, tmp_path: Path) -> None:
    secrets = {name: new_secret() for name in ("cameras", "besiegers", "watch")}
    keys = [
        Key(name=name, sha256=digest(secret), scopes=("admin",) if name == "watch" else ("detect", "stream"))
        for name, secret in secrets.items()
    ]
    write_keys(tmp_path / "keys.json", KeyFile(keys=tuple(keys)))
    with running_server(weights=tiny_weights, keys=tmp_path / "keys.json") as server:
        server.admin_key = secrets["watch"]
        stop, process = threading.Event(), psutil.Process(server.process.pid)
        results: list[list[float]] = [[] for _ in range(CAMERAS)]
        with ThreadPoolExecutor(CAMERAS) as pool:
            cameras = [pool.submit(film, server, secrets["cameras"], stop, seen) for seen in results]
            try:
                eventually(lambda: all(len(seen) > 2 for seen in results), timeout_s=60)
                others = frozenset(d.pid for d in busy_decoders(server))
                without, with_key = (Camp(server, key, others) for key in (None, secrets["besiegers"]))
                report = {"in peace": besieged(without, (), results)}
                memory = process.memory_info().rss
                report |= {f"{name}, no key": besieged(without, (name,), results) for name in WITHOUT_A_KEY}
                report["all at once from one address, no key"] = besieged(without, WITHOUT_A_KEY, results)
                report |= {f"{name}, one key": besieged(with_key, (name,), results) for name in ATTACKS}
                report["all at once from one key"] = besieged(with_key, tuple(ATTACKS), results)
            finally:
                stop.set()
            for future in cameras:
                future.result()
        at_rest(server)
        growth = process.memory_info().rss - memory
        figures: dict[str, Any] = {"cameras": CAMERAS, "keyframe_hz": KEYFRAME_HZ, "sieges": report}
        write_report("drill_siege", {**figures, "api_memory_mib": round(growth / 2**20, 1)})
        assert not deaths(server)
        assert not complaints(server)
    for name, seen in report.items():
        assert seen["healthz_p99_ms"] < HEALTHZ_P99_S * 1e3, (name, seen)
        assert seen["longest_gap_s"] < LONGEST_GAP_S, (name, seen)
    assert growth < GROWTH_BYTES
