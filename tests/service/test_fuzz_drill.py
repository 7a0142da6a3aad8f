"""`make drill`: nonsense by the thousand: OpenAPI, WebSocket messages, media files. Nothing breaks or stays behind.

DRILL_FUZZ_S, DRILL_MESSAGES and DRILL_FILES say how much.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import psutil
import pytest
from conftest import OWN_CLIPS
from drills import answer_of, complaints, deaths, without_a_core_s, write_report
from live_video import KINDS, video
from posting import at_rest, eventually, made_video, post
from serving import Server, running_server
from websockets.exceptions import ConnectionClosed
from ws_client import jpeg, numbered, plain_socket

SECONDS = float(os.environ.get("DRILL_FUZZ_S", "600"))
MESSAGES = int(os.environ.get("DRILL_MESSAGES", "20000"))
FILES = int(os.environ.get("DRILL_FILES", "5000"))
WAIT_S = 60.0
LAST_S = 3600.0
"""After which a client gives up, whatever the service is at."""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
)  # fmt: skip


@pytest.fixture
def target(tiny_weights: Path) -> Iterator[Server]:
    with running_server(weights=tiny_weights, idle_timeout_s=2, start_timeout_s=2) as server:
        yield server


class Standing:
    """What a server holds and has lost before and after: the same, or it leaks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before, self._rss = at_rest(server), self._memory()

    def _memory(self) -> int:
        return int(psutil.Process(self._server.process.pid).memory_info().rss)

    def settled(self) -> float:
        """MiB that its API process has grown by."""
        eventually(lambda: at_rest(self._server).descriptors, lambda n: n <= self._before.descriptors, WAIT_S)
        assert at_rest(self._server).files == self._before.files
        assert not deaths(self._server)
        assert not complaints(self._server)
        assert httpx.get(self._server.url + "/readyz").status_code == 200
        return round((self._memory() - self._rss) / 2**20, 1)


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_what_the_openapi_allows_and_forbids(target: Server, tmp_path: Path) -> None:
    standing, report = Standing(target), tmp_path / "report.json"
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", target.url + "/openapi.json",
        "--checks", ",".join(CHECKS), "--max-time", str(round(SECONDS)), "--seed", "1", "--request-timeout", "60",
        "--report-json-path", str(report),
    ]  # fmt: skip
    began = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 900, check=False, cwd=tmp_path)
    seconds = round(time.monotonic() - began)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    growth = standing.settled()
    write_report("drill_fuzz_openapi", {
        "seconds": seconds, "checks": CHECKS, "said": ran.stdout.splitlines()[-12:], "api_memory_mib": growth,
    })  # fmt: skip
    assert growth < 64


# -- WebSocket


GOOD: list[dict[str, Any]] = [
    {"type": "start", "codec": "jpeg", "keyframe_hz": 4, "score_threshold": 0.5, "top_k": 3, "policy": "latest",
     "lookahead_ms": 0, "deadline_ms": 1000, "timestamps": "prefix", "resume_token": "x", "api_key": "y"},
    {"type": "start", "codec": "webm"}, {"type": "start", "codec": "mpegts", "policy": "all"}, {"type": "start"},
    {"type": "update", "score_threshold": 0.1, "top_k": 1, "action_threshold": 0.2}, {"type": "flush"},
    {"type": "stop"},
]  # fmt: skip
CODECS = ("jpeg", "jpeg", "webm", "mpegts")
ODD: list[Any] = [
    None, True, -1, 0, 1e308, -1e308, 2**63, "", "\x00", "é" * 100, [], {}, [[[]]], {"type": "start"}, "NaN", "latest",
    0.0001, "jpeg", 1e-320,
]  # fmt: skip


def mutated(chance: random.Random) -> str:
    """A message that was good once."""
    message = dict(chance.choice(GOOD))
    for _ in range(chance.randint(0, 3)):
        name = chance.choice([*message, "more", "type"])
        if chance.random() < 0.3:
            message.pop(name, None)
        else:
            message[name] = chance.choice(ODD)
    text = json.dumps(message)
    if chance.random() < 0.25:
        at = chance.randrange(len(text))
        text = (
            text[:at]
            + chance.choice(["", "}", "{", '"', "\\u0000", "]" * 50, text])
            + text[at + chance.randint(0, 9) :]
        )
    return text


def media(chance: random.Random, good: list[bytes]) -> bytes:
    """A media message that was good once."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.randint(0, 8)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.3 else data)


def talk(server: Server, chance: random.Random, good: list[bytes]) -> tuple[int, str]:
    """One socket: a start, mostly, and then anything, or anything but wrong words, which end it at once.

    How much was said, and the close code; "open" if none came.
    """
    said, code, rude = 0, "open", chance.random() < 0.5
    with plain_socket(server) as socket:
        try:
            start = {"type": "start", "lookahead_ms": 0, "keyframe_hz": 4, "codec": chance.choice(CODECS)}
            socket.send(mutated(chance) if rude and chance.random() < 0.7 else json.dumps(start))
            said += 1
            for _ in range(chance.randint(1, 40)):
                words = mutated(chance) if rude else json.dumps(chance.choice(GOOD[4:6]))
                socket.send(words if chance.random() < 0.2 else media(chance, good))
                said += 1
            socket.send('{"type":"stop"}')
            said += 1
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                socket.recv(max(0.1, end - time.monotonic()))
        except ConnectionClosed as closed:
            code = str(closed.rcvd.code if closed.rcvd else "lost")
        except TimeoutError:
            pass  # still "open"
    return said, code


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_messages_of_all_kinds(target: Server) -> None:
    standing, closes = Standing(target), Counter[str]()
    good = [jpeg(n) for n in range(4)] + [(n * 33_333).to_bytes(8, "little") + jpeg(n) for n in range(4)]
    good += [video(kind, 20)[1] for kind in KINDS]
    began, said = time.monotonic(), 0
    with ThreadPoolExecutor(4) as pool:
        seeds = iter(range(10**6))
        while said < MESSAGES:
            batch = [random.Random(next(seeds)) for _ in range(32)]
            for count, code in pool.map(lambda chance: talk(target, chance, good), batch):
                said += count
                closes[code] += 1
    growth = standing.settled()
    write_report("drill_fuzz_websocket", {
        "messages": said, "seconds": round(time.monotonic() - began), "close_codes": dict(closes),
        "api_memory_mib": growth,
    })  # fmt: skip
    assert set(closes) <= {"1000", "1009", "4400", "4401", "4408", "4429", "1013"}
    assert growth < 64


# -- media


def spoilt(chance: random.Random, good: list[bytes]) -> bytes:
    """A file that was good once: bytes changed, cut, doubled, moved, or another file's in its middle."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(max(1, len(data))), chance.choice([1, 4, 64, 4096])
        match chance.randrange(6):
            case 0:
                data[at : at + size] = chance.randbytes(size)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                del data[at:]
            case 4:
                data[at : at + size] = chance.choice(good)[at : at + size]
            case 5:
                data[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(data)


CONTAINERS = (
    ("libx264", "matroska", "yuv420p"), ("libx264", "flv", "yuv420p"), ("mpeg4", "avi", "yuv420p"),
    ("wmv2", "asf", "yuv420p"), ("mpeg2video", "mpeg", "yuv420p"), ("mpeg2video", "mxf", "yuv420p"),
    ("mjpeg", "nut", "yuvj420p"), ("h263", "3gp", "yuv420p"), ("rawvideo", "yuv4mpegpipe", "yuv420p"),
    ("libx265", "hevc", "yuv420p"), ("apng", "apng", "rgb24"), ("gif", "gif", "rgb8"),
)  # fmt: skip


def recorded(encoder: str, container: str, pixels: str) -> bytes:
    """20 pictures of a size that all of these have."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        track = output.add_stream(encoder, rate=25)
        track.width, track.height, track.pix_fmt = 176, 144, pixels
        for number in range(20):
            picture = av.VideoFrame.from_ndarray(numbered(number, 176, 144), format="rgb24")
            output.mux(track.encode(picture.reformat(format=pixels)))
        output.mux(track.encode(None))
    return target.getvalue()


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_files_of_all_kinds(target: Server) -> None:
    standing, statuses, codes = Standing(target), Counter[int](), Counter[str]()
    good = [made_video(128, 96, 20), (OWN_CLIPS / "fall.mp4").read_bytes()[:60_000], *(video(k, 20)[1] for k in KINDS)]
    good += [recorded(*how) for how in CONTAINERS]
    good.append(made_video(128, 96, 10) * 2)  # one file behind another
    failed, slowest, began = list[tuple[int, int, str]](), (0.0, 0), time.monotonic()
    clients = ThreadPoolExecutor(4)  # not waited for: where one hangs it is the service's end that ends it

    def one(seed: int) -> tuple[int, int, str, float]:
        started, file = time.monotonic(), spoilt(random.Random(seed), good)
        asked = clients.submit(post, target, file, keyframe_hz=0.5, timeout=LAST_S)
        try:
            answer = answer_of(asked, target, WAIT_S * 2)
        except Exception as error:
            error.add_note(f"file {seed}, of {len(file)} bytes")
            raise
        code = answer.json().get("code", "") if answer.is_error else ""
        return seed, answer.status_code, code, time.monotonic() - started

    try:
        with ThreadPoolExecutor(4) as pool:
            for seed, status, code, seconds in pool.map(one, range(FILES)):
                statuses[status] += 1
                codes[code] += 1
                slowest = max(slowest, (seconds, seed))
                if status >= 500:
                    failed.append((seed, status, code))
    finally:
        clients.shutdown(wait=False, cancel_futures=True)
    starved = without_a_core_s(target).get(target.process.pid)
    growth = standing.settled()
    write_report("drill_fuzz_media", {
        "files": FILES, "of": len(good), "seconds": round(time.monotonic() - began),
        "statuses": dict(statuses), "codes": dict(codes), "failed": failed,
        "slowest_s": round(slowest[0], 1), "slowest": slowest[1],
        "api_without_a_core_s": None if starved is None else round(starved, 1), "api_memory_mib": growth,
    })  # fmt: skip
    assert not failed
    assert growth < 64
