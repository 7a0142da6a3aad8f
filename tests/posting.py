"""Clients of the REST half for tests: posts, what a server holds, and waiting until something is so."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from serving import LOOK_S, Server

from stmixer.service.bench.processes import holds_shared_memory
from stmixer.service.decoder.cell import NICENESS

T = TypeVar("T")
WORKER, DECODER = "stmixer.service.worker.process", "stmixer.service.decoder.process"
NURSERY = "stmixer.service.decoder.nursery"
NDJSON, MP4 = "application/x-ndjson", "video/mp4"
PROBLEM = "application/problem+json"
OUTCOMES = ("ok", "superseded", "deadline", "error", "worker_lost", "cancelled")


def eventually(look: Callable[[], T], accept: Callable[[T], bool] = bool, timeout_s: float = LOOK_S) -> T:
    """Look until what is seen is accepted; fails with what was seen last."""
    deadline = time.monotonic() + timeout_s
    while not accept(seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {timeout_s:g} s"
        time.sleep(0.03)
    return seen


def post(
    server: Server, clip: Path | bytes, *, accept: str = "application/json", timeout: float = 120, **options: object
) -> httpx.Response:
    """A clip as the raw body, on a connection of its own."""
    body = clip if isinstance(clip, bytes) else clip.read_bytes()
    params = {name: str(value) for name, value in options.items()}
    return httpx.post(
        server.url + "/v1/detect", content=body, params=params, headers={"Accept": accept}, timeout=timeout
    )


def problem(response: httpx.Response, status: int, code: str) -> str:
    """Checks that it is this problem document; its detail."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == PROBLEM
    document = response.json()
    assert set(document) == {"type", "title", "status", "code", "detail", "request_id"}
    assert document["request_id"] == response.headers["x-request-id"]
    assert (document["status"], document["code"]) == (status, code), document
    assert document["detail"]
    assert "\n" not in document["detail"]
    return str(document["detail"])


def conserved(summary: dict[str, Any]) -> None:
    """docs/protocol.md, One idea: every frame and every keyframe is counted once."""
    assert summary["received"] == summary["sampled"] + summary["not_sampled"] + sum(summary["dropped"].values())
    assert summary["keyframes_due"] == sum(summary[outcome] for outcome in OUTCOMES) + summary["pending"]
    assert summary["pending"] == 0


def made_video(width: int, height: int, frames: int, rate: int = 30) -> bytes:
    """An MP4 of moving colours; noise makes it slow to encode again."""
    random = np.random.default_rng(width * height)
    noise = random.integers(0, 255, (height // 4, width // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast"}
        for index in range(frames):
            picture = np.roll(noise, index * 8, axis=1)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        output.mux(stream.encode(None))
    return target.getvalue()


# -- metrics


def samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics by its name and sorted labels."""
    families = text_string_to_metric_families(server.metrics())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def metric(server: Server, name: str, **labels: str) -> float:
    """One sample, 0 where it has not been made yet."""
    return samples(server).get((f"stmixer_{name}", tuple(sorted(labels.items()))), 0.0)


# -- what a server holds


@dataclass(frozen=True)
class Holding:
    """What a server holds when nothing runs. ``files``: deleted files (uploads) and memfds (rings) still open.
    ``half_closed``: connections whose client has gone, which it has not seen yet. ``starting``: children that are
    neither workers, nor decoders that can take a source, nor what forks those."""

    workers: int
    decoders: int
    starting: int
    descriptors: int
    half_closed: int
    worker_descriptors: int
    files: tuple[str, ...]
    streams: float
    ring_bytes: float


def ready_decoders(server: Server) -> list[psutil.Process]:
    """Those that have shut themselves in, by their niceness: the pool has them, or a stream."""
    niceness, ready = min(19, psutil.Process(server.process.pid).nice() + NICENESS), []
    for child in server.children_of(DECODER):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            if child.nice() >= niceness:
                ready.append(child)
    return ready


def descriptors(server: Server) -> int:
    """How many the API process has, as it says itself: it hides them from all but root."""
    return int(samples(server)["process_open_fds", ()])


def descriptors_of(process: psutil.Process) -> int:
    """How many a child has; 0 where it hides them from us, who are not root."""
    with contextlib.suppress(psutil.AccessDenied):
        return int(process.num_fds())
    return 0


def open_files(process: psutil.Process) -> Iterator[str]:
    """What a process's descriptors and mappings refer to that has no name: temporary files, ring memory.

    Of one that hides from us, who are not root, whether it has shared memory is all that can be told.
    """
    try:
        Path(f"/proc/{process.pid}/maps").read_bytes()
    except PermissionError:
        if holds_shared_memory(process.pid):
            yield "shared memory"
        return
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(fd)
            if "(deleted)" in target or "memfd" in target:
                yield target
    for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
        if "stmixer-ring" in line:
            yield line.rsplit(" ", 2)[-2]


def holding(server: Server) -> Holding:
    """Now."""
    process = psutil.Process(server.process.pid)
    workers, decoders, connections = server.children_of(WORKER), ready_decoders(server), []
    with contextlib.suppress(psutil.AccessDenied):
        connections = process.net_connections("tcp")
    values = samples(server)  # last: a client's connection that counts in them was seen above
    return Holding(
        workers=len(workers),
        decoders=len(decoders),
        starting=len(server.children) - len(workers) - len(decoders) - len(server.children_of(NURSERY)),
        half_closed=sum(c.status == psutil.CONN_CLOSE_WAIT for c in connections),
        descriptors=int(values["process_open_fds", ()]),
        worker_descriptors=sum(descriptors_of(worker) for worker in workers),
        files=tuple(sorted(name for p in (process, *workers, *decoders) for name in open_files(p))),
        streams=sum(value for (name, _), value in values.items() if name == "stmixer_streams_active"),
        ring_bytes=values["stmixer_ring_bytes", ()],
    )


def at_rest(server: Server, idle_decoders: int = 2) -> Holding:
    """Wait until a server holds what an idle one should, and has seen which clients have gone; all it holds then."""

    def look() -> Holding | str:
        try:
            return holding(server)
        except (psutil.Error, FileNotFoundError, ProcessLookupError) as error:
            return repr(error)  # a child ended while we looked

    def rests(seen: Holding | str) -> bool:
        if isinstance(seen, str):
            return False
        rest = (seen.workers, seen.decoders, seen.streams, seen.ring_bytes) == (1, idle_decoders, 0, 0)
        return rest and not seen.starting and not seen.files and not seen.half_closed

    found = eventually(look, rests, 60)
    assert isinstance(found, Holding)
    return found


@contextlib.contextmanager
def frees_everything(server: Server, idle_decoders: int = 2) -> Iterator[Holding]:
    """Whatever is done within: afterwards the server holds what it held before, to the descriptor, and no file."""
    before = at_rest(server, idle_decoders)
    yield before
    eventually(lambda: at_rest(server, idle_decoders), lambda now: now == before)
    assert server.temporary_folder is not None
    assert not list(server.temporary_folder.iterdir())


def both_warm(server: Server) -> list[int]:
    """Wait until worker and spare have warmed up and are alone; their process ids, the worker's first."""

    def look() -> list[int]:
        started = [line for line in server.log if "batches of" in line]
        ended = [line for line in server.log if ", pid " in line]
        pids = [child.pid for child in server.children_of(WORKER)]
        return sorted(pids) if len(pids) == len(started) - len(ended) == 2 else []

    return eventually(look, timeout_s=60)


def busy_decoders(server: Server) -> list[psutil.Process]:
    """Those that hold a ring now."""
    found = []
    for child in server.children_of(DECODER):
        with contextlib.suppress(OSError):  # it has ended
            if holds_shared_memory(child.pid):
                found.append(child)
    return found


def busy_decoder(server: Server) -> psutil.Process:
    """The one that holds a ring."""
    return eventually(lambda: busy_decoders(server))[0]


# -- clients that do not behave


def request_head(server: Server, length: int | None, path: str = "/v1/detect", **headers: str) -> bytes:
    """The head of a POST; chunked without a length."""
    host = server.url.removeprefix("http://")
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", framing, *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """A bare TCP connection."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        yield connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Everything up to and past the first ``mark``; fails when the connection ends before."""
    data = b""
    while mark not in data:
        got = connection.recv(65536)
        assert got, data[-500:]
        data += got
    return data


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    """NDJSON."""
    return [json.loads(line) for line in response.text.splitlines()]


def same_actors(found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 1e-4) -> None:
    """Two lists of actors, matched by their place (the query, at threshold 0), equal within ``tolerance``."""
    assert len(found) == len(expected)

    def numbers(actor: dict[str, Any]) -> list[float]:
        actions = sorted(actor["actions"], key=lambda action: action["id"])
        return [*actor["box"], actor["person_score"], *(action["score"] for action in actions)]

    def ids(actor: dict[str, Any]) -> list[int]:
        return sorted(action["id"] for action in actor["actions"])

    assert [ids(a) for a in found] == [ids(a) for a in expected]
    ours, theirs = np.array([numbers(a) for a in found]), np.array([numbers(a) for a in expected])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
