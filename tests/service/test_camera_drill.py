"""`make drill`: sixteen pulled cameras while things go wrong with each, at random; then with one at a time; then with
clocks that run off. DRILL_CAMERAS_S: seconds of each (1800; the last takes twice that); DRILL_CAMERAS: how many."""

from __future__ import annotations

import io
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
from cameras import ENCODINGS, Camera, running_cameras
from drills import complaints, write_report
from following import look, pull
from posting import DECODER, descriptors, eventually
from rtsp_wire import RtspWire
from serving import Server, running_server

SECONDS = float(os.environ.get("DRILL_CAMERAS_S", "1800"))
FPS, PIECE_S = 10, 10
KINDS = [("h264", "tcp"), ("h265", "tcp"), ("mjpeg", "tcp"), ("h264", "udp")] * 4
COUNT = int(os.environ.get("DRILL_CAMERAS", "16"))
USER, RIGHT, WRONG = "us er", "hunter2", "another"
SOON_S, SLOW_S, FIRST_PICTURE_S = 8.0, 30.0, 10.0
"""Between attempts, where time alone can help and where a person has to; what a first picture may take: connecting, a
key interval, and starting a process on a machine that starts cameras besides."""
TAKES_S = {
    "killed": 10.0,
    "silent": 25.0,
    "half_open": 1.0,
    "password": 20.0,
    "resolution": 5.0,
    "loss": 15.0,
    "clock": 1.0,
}
"""Faults, and for how long each lasts."""


# -- films


def picture(number: int, width: int, height: int) -> np.ndarray:
    """Something that moves."""
    rows, columns = np.mgrid[0:height, 0:width]
    level = (columns + 4 * number) % 256
    return np.stack([level, rows * 255 // height, np.full_like(level, 128)], axis=2).astype(np.uint8)


def long_film(folder: Path, codec: str, width: int, height: int, seconds: float) -> Path:
    """Ten seconds, a key interval of one, again and again without being encoded anew."""
    encoding, once = ENCODINGS[codec], io.BytesIO()
    with av.open(once, "w", format="mov") as output:
        track = output.add_stream(encoding.encoder, rate=FPS)
        track.width, track.height, track.pix_fmt = width, height, encoding.pixels
        track.options = {**encoding.options, **({"g": str(FPS), "bf": "0"} if codec == "h264" else {})}
        if codec == "h265":
            track.options = {"x265-params": f"bframes=0:keyint={FPS}:open-gop=0:pools=1:log-level=none"}
        for number in range(FPS * PIECE_S):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    path = folder / f"{codec}-{width}.mov"
    with av.open(str(path), "w", format="mov") as output:
        made: Any = None
        for piece in range(int(seconds / PIECE_S) + 1):
            with av.open(io.BytesIO(once.getvalue())) as source:
                read = source.streams.video[0]
                made = made or output.add_stream_from_template(read)
                for packet in source.demux(read):
                    if packet.dts is None or packet.pts is None or packet.time_base is None:
                        continue
                    later = round(piece * PIECE_S / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, made
                    output.mux(packet)
    return path


# -- cameras that can be hit


@dataclass
class Standing:
    """A camera behind a wire. ``films``: what it may show, of which it shows the first."""

    name: str
    codec: str
    transport: str
    films: list[Path]
    wire: RtspWire
    password: str = RIGHT
    camera: Camera | None = None
    running: ExitStack = field(default_factory=ExitStack)
    stream: str = ""

    def start(self) -> None:
        """Turn it on."""
        mounts = {"/cam": (self.codec, self.films[0])}
        self.camera = self.running.enter_context(running_cameras(mounts, "digest", USER, self.password))
        self.wire.port = self.camera.port
        self.wire.accept()

    def kill(self) -> None:
        """It loses its power."""
        self.wire.refuse()
        self.running.close()
        self.wire.cut()

    def begin(self, fault: str, chance: random.Random) -> None:
        """Something goes wrong with it."""
        assert self.camera is not None
        match fault:
            case "killed":
                self.kill()
            case "silent":
                self.camera.fall_silent()
            case "half_open":
                self.wire.leave_half_open()
            case "password":
                self.password = WRONG
                self.kill()
                self.start()
            case "resolution":
                self.films = self.films[::-1]
                self.kill()
            case "loss":
                self.wire.loss = 0.2
            case "clock":
                self.wire.shift = chance.randrange(2**31)

    def end(self, fault: str) -> None:
        """It is as it was."""
        assert self.camera is not None
        match fault:
            case "killed" | "resolution":
                self.start()
            case "silent":
                self.camera.go_on()
            case "password":
                self.password = RIGHT
                self.kill()
                self.start()
            case "loss":
                self.wire.loss = 0.0


@contextmanager
def standing(
    folder: Path, seconds: float, kinds: list[tuple[str, str]], rates: list[float]
) -> Iterator[list[Standing]]:
    """So many that run."""
    films = {
        codec: [long_film(folder, codec, width, height, seconds) for width, height in ((320, 240), (384, 216))]
        for codec in dict.fromkeys(codec for codec, _ in kinds)
    }
    with ExitStack() as running:
        cameras = []
        for number, ((codec, transport), rate) in enumerate(zip(kinds, rates, strict=True)):
            wire = running.enter_context(RtspWire(0, rate))
            cameras.append(Standing(f"camera {number}", codec, transport, list(films[codec]), wire))
            running.callback(cameras[-1].running.close)
            cameras[-1].start()
        yield cameras


# -- what is seen of them


@dataclass(frozen=True)
class Look:
    """At a moment: a stream's state, attempts, and the monotonic moment of its newest picture."""

    at: float
    state: str
    attempts: int
    picture_at: float


@dataclass
class Seen:
    """Of all streams: looks, and when results came and how fresh they were, s; and what a key would tell of each."""

    looks: dict[str, list[Look]] = field(default_factory=dict)
    fresh: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def p95_ms(self, since: float, until: float, names: list[str] | None = None) -> float:
        """Of results that came in between."""
        wanted = self.fresh if names is None else names
        found = [s * 1000 for name in wanted for at, s in self.fresh[name] if since <= at < until]
        return round(quantiles(found, n=20)[-1], 1) if len(found) > 1 else float("nan")


class Watch:
    """Looks at all streams twice a second, and follows what they say."""

    def __init__(self, server: Server, cameras: list[Standing]) -> None:
        self.seen, self._server, self._stop = Seen(), server, threading.Event()
        names = {camera.stream: camera.name for camera in cameras}
        self.seen.looks = {name: [] for name in names.values()}
        self.seen.fresh = {name: [] for name in names.values()}
        self._threads = [threading.Thread(target=self._look, args=(names,), daemon=True)]
        self._threads += [threading.Thread(target=self._follow, args=item, daemon=True) for item in names.items()]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[0].join(20)

    def _look(self, names: dict[str, str]) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.wait(0.5):
                with suppress(httpx.HTTPError):
                    listed = client.get(self._server.url + "/v1/streams").json()["streams"]
                    now = time.monotonic()
                    for stream in listed:
                        said = stream["pulled"]
                        came = now - (said["silent_ms"] or 1e9) / 1000
                        self.seen.looks[names[stream["id"]]].append(Look(now, said["state"], said["attempts"], came))

    def _follow(self, stream: str, name: str) -> None:
        with (
            suppress(httpx.HTTPError),
            httpx.stream("GET", f"{self._server.url}/v1/streams/{stream}/events", timeout=None) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    said = json.loads(line[6:])
                    if said["type"] == "result":
                        fresh = (said["sent_at_us"] - said["received_at_us"]) / 1e6
                        self.seen.fresh[name].append((time.monotonic(), fresh))

    def back(self, camera: Standing, since: float) -> Look | None:
        """The first look that finds it live, with a picture of after then."""
        for one in list(self.seen.looks[camera.name]):
            if one.at > since and one.state == "live" and one.picture_at > since:
                return one
        return None

    def attempts(self, camera: Standing) -> int:
        """That have begun so far."""
        return int(look(self._server, camera.stream)["pulled"]["attempts"])


# -- faults


@dataclass(frozen=True)
class Hit:
    """One fault: which, when it began and was over, how many attempts there were by then, and at which it was back."""

    camera: str
    fault: str
    began: float
    over: float
    attempts: int
    back_s: float
    at_attempt: int

    def is_late(self) -> bool:
        """Whether it was not back at the next attempt, or that came too late."""
        most_s = (SLOW_S if self.fault == "password" else SOON_S) + FIRST_PICTURE_S
        if self.fault in ("silent", "half_open"):
            most_s += 2 * FIRST_PICTURE_S  # one that hears nothing is under way, which is noticed first
        return self.back_s > most_s or self.at_attempt > self.attempts + 1


def hit(watch: Watch, camera: Standing, fault: str, chance: random.Random) -> Hit:
    """Have something go wrong with it for a while, and wait until it is back."""
    began = time.monotonic()
    camera.begin(fault, chance)
    time.sleep(TAKES_S[fault])
    camera.end(fault)
    over = time.monotonic()
    attempts = watch.attempts(camera)
    deadline = over + 4 * SLOW_S
    while (back := watch.back(camera, over)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    back_s = round((back.at if back else time.monotonic()) - over, 1)
    return Hit(camera.name, fault, began, over, attempts, back_s, back.attempts if back else 999)


WAIT = re.compile(r"next attempt in (\d+) s")


def waits(server: Server) -> dict[str, float]:
    """The longest wait before an attempt by its reason, as the log has them, s, in the first two minutes of an outage:
    none here lasts longer."""
    longest: dict[str, float] = {}
    for line in server.log:
        with suppress(ValueError):
            said = json.loads(line)
            if found := WAIT.search(said.get("message", "")):
                reason = said.get("reason", "")
                longest[reason] = max(longest.get(reason, 0.0), float(found[1]))
    return longest


def worst(hits: list[Hit]) -> dict[str, Any]:
    """Of each fault how often, and how long until all was well again, s."""
    return {
        fault: {"times": len(backs), "median_s": round(median(backs), 1), "worst_s": max(backs)}
        for fault in TAKES_S
        if (backs := [one.back_s for one in hits if one.fault == fault])
    }


# -- the drills


@contextmanager
def sixteen(tiny_weights: Path, folder: Path, seconds: float) -> Iterator[tuple[Server, list[Standing], Watch]]:
    """A service that pulls from sixteen cameras, all of them live; what it holds in the end is what it held before."""
    kinds = KINDS[:COUNT]
    with (
        standing(folder, seconds + 600, kinds, [1.0] * len(kinds)) as cameras,
        running_server(weights=tiny_weights, allow_networks="127.0.0.1", log_format="json") as server,
    ):
        at_start = holds(server)
        for camera in cameras:
            order(server, camera, keyframe_hz=0.5)
        eventually(lambda: not_live(server), lambda those: not those, 180)
        with Watch(server, cameras) as watch:
            yield server, cameras, watch
        for camera in cameras:
            assert httpx.delete(f"{server.url}/v1/streams/{camera.stream}", timeout=30).status_code == 204
        eventually(lambda: holds(server), lambda now: all(now[k] <= at_start[k] for k in at_start), 60)
        assert not complaints(server)
        assert "hunter2" not in "\n".join(server.log)


def order(server: Server, camera: Standing, **options: object) -> None:
    """Have a camera pulled."""
    url = f"rtsp://us%20er:{RIGHT}@127.0.0.1:{camera.wire.near}/cam"
    more = {"score_threshold": 0.5, "lookahead_ms": 0, **options}
    camera.stream = pull(server, url, name=camera.name, transport=camera.transport, **more)["id"]


def not_live(server: Server) -> list[str]:
    """Those that are not, and why."""
    listed = httpx.get(server.url + "/v1/streams", timeout=30).json()["streams"]
    said = [stream["pulled"] for stream in listed]
    return [f"{one['name']}: {one['state']}, {one['error']}" for one in said if one["state"] != "live"]


def holds(server: Server) -> dict[str, float]:
    """Descriptors and decoders of a service."""
    return {"descriptors": descriptors(server), "decoders": len(server.children_of(DECODER))}


def memory(server: Server) -> float:
    """MiB of its API process."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_sixteen_cameras_of_which_each_is_hit_at_random(tiny_weights: Path, tmp_path: Path) -> None:
    part_s = SECONDS / 6
    hits: list[Hit] = []
    with sixteen(tiny_weights, tmp_path, SECONDS) as (server, cameras, watch):
        began, before = time.monotonic(), memory(server)

        def trouble(camera: Standing, number: int) -> None:
            chance = random.Random(number)
            time.sleep(chance.uniform(0, min(60.0, part_s)))
            while time.monotonic() < began + SECONDS - min(60.0, part_s):
                hits.append(hit(watch, camera, chance.choice(list(TAKES_S)), chance))
                time.sleep(chance.uniform(5, 60))

        run_all([lambda c=camera, n=number: trouble(c, n) for number, camera in enumerate(cameras)])  # type: ignore[misc]
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        ended, grown = time.monotonic(), memory(server) - before
        first, last = watch.seen.p95_ms(began, began + part_s), watch.seen.p95_ms(ended - part_s, ended)
        eventually(lambda: not_live(server), lambda those: not those, 60)
        longest = waits(server)
        late = [one for one in hits if one.is_late()]
        write_report("drill_cameras", {
            "seconds": round(SECONDS), "cameras": len(cameras), "hits": len(hits), "back": worst(hits),
            "late": [[one.fault, one.back_s, one.attempts, one.at_attempt] for one in late],
            "longest_wait_s": longest, "freshness_p95_ms": {"first": first, "last": last},
            "api_memory_mib": round(grown, 1), "results": sum(map(len, watch.seen.fresh.values())),
        })  # fmt: skip
    assert not late, late
    assert all(wait <= (SLOW_S if reason == "unauthorized" else SOON_S) for reason, wait in longest.items()), longest
    assert last <= 1.1 * first, (first, last)
    assert grown < 64


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_one_camera_that_is_hit_disturbs_no_other(tiny_weights: Path, tmp_path: Path) -> None:
    chance, hits = random.Random(1), list[Hit]()
    with sixteen(tiny_weights, tmp_path, SECONDS) as (_, cameras, watch):
        began = time.monotonic()
        time.sleep(SECONDS / 6)
        quiet = time.monotonic()
        calm = watch.seen.p95_ms(began, quiet)
        while time.monotonic() < began + SECONDS:
            hits.append(hit(watch, cameras[len(hits) % len(cameras)], list(TAKES_S)[len(hits) % len(TAKES_S)], chance))
            time.sleep(5)
        ended = time.monotonic()
        others: dict[str, list[float]] = {}
        for one in hits:
            names = [camera.name for camera in cameras if camera.name != one.camera]
            until = one.over + one.back_s
            others.setdefault(one.fault, []).extend(
                s * 1000 for name in names for at, s in watch.seen.fresh[name] if one.began <= at < until
            )
        p95s = {fault: round(quantiles(found, n=20)[-1], 1) for fault, found in others.items() if len(found) > 1}
        write_report("drill_cameras_one", {
            "seconds": round(SECONDS), "cameras": len(cameras), "hits": len(hits), "back": worst(hits),
            "p95_ms": {"calm": calm, "while_one_is_hit": watch.seen.p95_ms(quiet, ended), "others_by_fault": p95s},
        })  # fmt: skip
    assert not [one for one in hits if one.is_late()]
    assert all(p95 <= max(1.1 * calm, calm + 20) for p95 in p95s.values()), (calm, p95s)


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_cameras_whose_clocks_run_off(tiny_weights: Path, tmp_path: Path) -> None:
    """The real one of tests/engine/test_drifting_clock.py."""
    seconds, kinds = 2 * SECONDS, [("h264", "tcp"), ("h264", "udp")]
    with (
        standing(tmp_path, seconds + 600, kinds, [1.01, 0.99]) as cameras,
        running_server(weights=tiny_weights, allow_networks="127.0.0.1", log_format="json") as server,
    ):
        for camera in cameras:
            order(server, camera, keyframe_hz=1)
        eventually(lambda: not_live(server), lambda those: not those, 180)
        with Watch(server, cameras) as watch:
            began = time.monotonic()
            time.sleep(seconds)
            found = {
                camera.wire.rate: [
                    watch.seen.p95_ms(began + part * seconds / 12, began + (part + 1) * seconds / 12, [camera.name])
                    for part in range(12)
                ]
                for camera in cameras
            }
        write_report("drill_cameras_clocks", {"seconds": round(seconds), "freshness_p95_ms": found})
    for p95s in found.values():
        assert p95s[-1] <= max(1.1 * p95s[0], p95s[0] + 20), found


def run_all(work: list[Callable[[], None]]) -> None:
    """Each in a thread of its own, to its end; what goes wrong in one is raised."""
    wrong: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:  # noqa: BLE001 - raised again below
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
