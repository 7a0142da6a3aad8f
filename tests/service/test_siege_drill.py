"""`make drill`: everything that one who means harm can do from outside, one thing after another and all at once, while
cameras run. DRILL_SIEGE_S: seconds of each (20).

Without a key, from one address; with one key, from many addresses; with many keys, from one address: what bounds an
address is not what bounds a key. The besiegers come from 127.0.0.2 and on, cameras from 127.0.0.1. Who does harm, and
who asks /healthz, are processes of their own; what the service's event loop computes for long it says itself
(``watched_service``), so that it can be told from a machine that has too few cores for all of this.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import OWN_CLIPS
from drills import complaints, deaths, write_report
from posting import at_rest, busy_decoders, eventually, samples
from serving import Server, running_server
from watched_service import stalls
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from ws_client import Client, jpeg, paced

from bench.abusers import ATTACKS, Camp, doing_harm
from bench.asker import asking, p99
from stmixer.service.key_file import Key, KeyFile, digest, new_secret, write_keys

SECONDS = float(os.environ.get("DRILL_SIEGE_S", "20"))
CAMERAS, KEYFRAME_HZ = 3, 2
MANY = 8
"""Keys at one address, and addresses that one key comes from."""
HEALTHZ_P99_S, LONGEST_GAP_S, GROWTH_BYTES = 0.1, 5.0, 64 * 2**20
LOOP_CPU_MS = 50
"""What the event loop may compute without looking at anything else: half of what /healthz may take."""
_GONE = (OSError, WebSocketException, httpx.HTTPError, AssertionError)
"""How the service ends what one who means harm does."""

# -- what takes a hand on the service's own processes; all else is in bench/abusers.py

Inside = Callable[[Server, Camp, frozenset[int], threading.Event], None]
"""The service, whence it comes, decoders that are others', and when to stop."""


def again_and_again(once: Inside) -> Inside:
    """Whatever the service does about it, it begins anew."""

    def attack(server: Server, camp: Camp, others: frozenset[int], stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(*_GONE):
                once(server, camp, others, stop)
            stop.wait(0.05)

    return attack


@again_and_again
def stopped_decoder(server: Server, camp: Camp, others: frozenset[int], stop: threading.Event) -> None:
    with camp.camera() as opened:
        for number in paced(5, 2):  # the first is written to the ring once others are there
            opened.send(jpeg(number % 50))
        busy = eventually(lambda: [d for d in busy_decoders(server) if d.pid not in others])
        busy[0].suspend()
        STOPPED.append(busy[0])
        for number in paced(5, 60):  # until it is given up, however short the siege
            opened.send(jpeg(number % 50))
            if not busy[0].is_running():
                return


@again_and_again
def full_disk(server: Server, camp: Camp, others: frozenset[int], stop: threading.Event) -> None:
    """What a full disk does to the service, without filling one."""
    process = psutil.Process(server.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    try:
        process.rlimit(psutil.RLIMIT_FSIZE, (2**16, before[1]))
        clip = (OWN_CLIPS / "fall.mp4").read_bytes()
        with httpx.Client(transport=httpx.HTTPTransport(local_address=camp.address)) as client:
            client.post(server.url + "/v1/detect", content=clip, headers=camp.headers, timeout=10)
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


STOPPED: list[psutil.Process] = []
"""Decoders that were; psutil knows each from a later process of its number."""
INSIDE: dict[str, Inside] = {"stopped_decoder": stopped_decoder, "full_disk": full_disk}
WITHOUT_A_KEY = ("silent_sockets", "dripping_uploads", "unread_answers", "floods", "small_messages", "large_messages")
WITH_ONE = (*ATTACKS, *INSIDE)


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


def besieged(
    server: Server, camp: Camp, others: frozenset[int], names: tuple[str, ...], results: list[list[float]]
) -> dict[str, Any]:
    """What others see of the service meanwhile, and what its event loop says of itself."""
    stop, said, began = threading.Event(), len(server.log), time.monotonic()
    outside, stopped = tuple(name for name in names if name in ATTACKS), len(STOPPED)
    with asking(server.url) as taken, ThreadPoolExecutor(len(INSIDE)) as pool:
        inside = [pool.submit(INSIDE[name], server, camp, others, stop) for name in names if name in INSIDE]
        try:
            if "stopped_decoder" in names:  # first: beside the others it may find no place
                eventually(lambda: len(STOPPED) > stopped, timeout_s=60)
            with doing_harm(camp, outside):
                stop.wait(SECONDS)
        finally:
            stop.set()
        for future in inside:
            future.result()
    ended = time.monotonic()
    seen = [[began, *(at for at in times if began <= at <= ended), ended] for times in results]
    gaps = [max(after - before for before, after in itertools.pairwise(times)) for times in seen]
    long = stalls(server.log[said:])
    return {
        "seconds": round(ended - began, 1), "healthz_asked": len(taken), "healthz_p99_ms": round(p99(taken) * 1e3, 1),
        "results_per_camera": [len(times) - 2 for times in seen], "longest_gap_s": round(max(gaps), 2),
        "loop_cpu_ms": max((cpu for cpu, _, _ in long), default=0), "loop_longest": long[:3],
        "loop_ms": max((wall for _, wall, _ in long), default=0),
    }  # fmt: skip


def decoders_lost(server: Server) -> dict[str, float]:
    """By reason."""
    found = samples(server).items()
    counts = {dict(labels)["reason"]: n for (name, labels), n in found if name == "stmixer_decoders_lost_total"}
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_a_siege(tiny_weights: Path, tmp_path: Path) -> None:
    crowd = [f"besieger-{number}" for number in range(MANY)]
    secrets = {name: new_secret() for name in ("cameras", "watch", *crowd)}
    keys = [  # without limits a minute: else those would end most of it before it has begun
        Key(
            name=name, sha256=digest(secret), scopes=("admin",) if name == "watch" else ("detect", "stream"),
            requests_per_minute=None, megabytes_per_minute=None,
        )
        for name, secret in secrets.items()
    ]  # fmt: skip
    keys_file = tmp_path / "keys.json"
    write_keys(keys_file, KeyFile(keys=tuple(keys)))
    with running_server(weights=tiny_weights, keys=keys_file, service_module="watched_service") as server:
        server.admin_key = secrets["watch"]
        stop, process = threading.Event(), psutil.Process(server.process.pid)
        results: list[list[float]] = [[] for _ in range(CAMERAS)]
        with ThreadPoolExecutor(CAMERAS) as pool:
            cameras = [pool.submit(film, server, secrets["cameras"], stop, seen) for seen in results]
            try:
                eventually(lambda: all(len(seen) > 2 for seen in results), timeout_s=60)
                others = frozenset(d.pid for d in busy_decoders(server))
                addresses = tuple(f"127.0.0.{number}" for number in range(2, 2 + MANY))
                nobody, somebody = Camp(server.url), Camp(server.url, (secrets[crowd[0]],), addresses)
                many = Camp(server.url, tuple(secrets[name] for name in crowd))

                def siege(camp: Camp, *names: str) -> dict[str, Any]:
                    return besieged(server, camp, others, names, results)

                report = {"in peace": siege(nobody)}
                memory = process.memory_info().rss
                report |= {f"{name}, no key": siege(nobody, name) for name in WITHOUT_A_KEY}
                report["all at once, no key"] = siege(nobody, *WITHOUT_A_KEY)
                report |= {f"{name}, one key": siege(somebody, name) for name in WITH_ONE}
                report["all at once from one key"] = siege(somebody, *WITH_ONE)
                report["all at once from one address"] = siege(many, *WITH_ONE)
            finally:
                stop.set()
            for future in cameras:
                future.result()
        at_rest(server)
        growth = process.memory_info().rss - memory
        lost = decoders_lost(server)
        figures: dict[str, Any] = {
            "cameras": CAMERAS,
            "keyframe_hz": KEYFRAME_HZ,
            "sieges": report,
            "lost": lost,
            "stopped": len(STOPPED),
        }
        write_report("drill_siege", {**figures, "api_memory_mib": round(growth / 2**20, 1)})
        # among all the others a stream may be ended for what else its key or address does: its decoder goes with it
        assert lost.get("stuck", 0) >= 1, "a stopped decoder is noticed"
        assert len(STOPPED) >= 3, "one in each siege that stops decoders"
        assert not any(decoder.is_running() for decoder in STOPPED)
        assert not deaths(server)
        assert not complaints(server)
    for name, seen in report.items():
        assert seen["healthz_p99_ms"] < HEALTHZ_P99_S * 1e3, (name, seen)
        assert seen["longest_gap_s"] < LONGEST_GAP_S, (name, seen)
        assert seen["loop_cpu_ms"] < LOOP_CPU_MS, (name, seen)
    assert growth < GROWTH_BYTES
