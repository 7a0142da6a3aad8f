"""``stmixer bench streams``: more and more cameras and uploaders over real sockets, until it is too much."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np

from stmixer.service.bench.clients import Camera, Codec, Filming, Policy, upload_until
from stmixer.service.bench.film import Film
from stmixer.service.bench.processes import Processes, Usage
from stmixer.service.bench.tally import Tally
from stmixer.service.client import AsyncClient

log = logging.getLogger("stmixer")

SAMPLE_S = 1.0
KNEE_OK_SHARE = 0.95
PROCESS_FAULTS = ("kill_worker", "kill_spare", "kill_decoder", "oom_worker")
MIX: tuple[tuple[Codec, Policy], ...] = (
    ("jpeg", "latest"), ("webm", "latest"), ("jpeg", "all"), ("mpegts", "latest"),
)  # fmt: skip
"""What cameras of a mix are, in turns."""


@dataclass(frozen=True)
class Load:
    """What is asked of a service at once. ``process_fault_every_s``: 0 for none.

    ``worker_module``: what its workers run, where that is not the real one; ``oom_top_k``: the ``top_k`` for which that
    one runs out of memory, which the fault ``oom_worker`` asks for.
    """

    cameras: tuple[Camera, ...]
    uploads: int
    film: Film
    seconds: float
    process_faults: Sequence[str] = ()
    process_fault_every_s: float = 0.0
    worker_module: str | None = None
    oom_top_k: int | None = None


def mixed(base: Camera, count: int) -> tuple[Camera, ...]:
    """So many of them, each in its turn of another kind."""
    kinds = itertools.islice(itertools.cycle(MIX), count)
    return tuple(replace(base, codec=codec, policy=policy) for codec, policy in kinds)


def measure(loads: Sequence[Load], url: str, key: str | None, pid: int | None) -> list[dict[str, Any]]:
    """One load after another; what came of each, in figures. ``usage`` is None of a service elsewhere."""
    steps = []
    for load in loads:
        processes = None if pid is None else Processes(pid, load.worker_module)
        started = time.monotonic()
        tally = asyncio.run(run_load(url, key, load, processes))
        usage = None if processes is None or len(processes.usage.at) < 2 else usage_report(processes.usage)
        report = {"cameras": len(load.cameras), "uploaders": load.uploads, **tally.report()}
        steps.append(report | {"p95_over_time": p95_slope(tally, started), "usage": usage})
        log.info("%d cameras, %d uploaders: %s", len(load.cameras), load.uploads, json.dumps(steps[-1]))
    return steps


async def run_load(url: str, key: str | None, load: Load, processes: Processes | None) -> Tally:
    """Have it all at once; what came of it."""
    for codec in sorted({camera.codec for camera in load.cameras}):
        await asyncio.to_thread(load.film.prepare, codec)
    tally, end = Tally(), time.monotonic() + load.seconds
    async with AsyncClient(url, key) as client:
        work = [Filming(client, camera, tally, n).until(end) for n, camera in enumerate(load.cameras)]
        hz = load.cameras[0].keyframe_hz if load.cameras else 1.0
        work += [upload_until(client, load.film.clip, hz, end, tally) for _ in range(load.uploads)]
        watching = [asyncio.create_task(_watch(processes))] if processes else []
        if processes is not None and load.process_fault_every_s:
            watching.append(asyncio.create_task(_break(url, key, processes, load, tally)))
        try:
            await asyncio.gather(*work)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
    return tally


async def _watch(processes: Processes) -> None:
    while True:
        await asyncio.to_thread(processes.sample)
        await asyncio.sleep(SAMPLE_S)


async def _break(url: str, key: str | None, processes: Processes, load: Load, tally: Tally) -> None:
    """One process after another, at random moments."""
    chance, started = random.Random(0), time.monotonic()

    def note(kind: str) -> None:
        tally.faults[kind] += 1
        tally.process_faults.append((round(time.monotonic() - started, 1), kind))

    while True:
        await asyncio.sleep(load.process_fault_every_s * chance.uniform(0.7, 1.3))
        kind = chance.choice(list(load.process_faults))
        if kind == "oom_worker":
            note(kind)
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as client:
                clip = await asyncio.to_thread(load.film.clip.read_bytes)
                await client.post("/v1/detect", content=clip, params={"top_k": load.oom_top_k, "keyframe_hz": 0.001})
        elif await asyncio.to_thread(processes.kill, kind.removeprefix("kill_")):
            note(kind)


# -- figures


def usage_report(usage: Usage) -> dict[str, Any]:
    """Cores used and resident MiB by role, and MiB per hour by which memory grew in the second half."""
    seconds = usage.at[-1] - usage.at[0]
    roles = ("api", "worker", "decoder")
    half = len(usage.at) // 2
    report: dict[str, Any] = {"seconds": round(seconds, 1)}
    report["cores"] = {r: round((usage.cpu[-1][r] - usage.cpu[0][r]) / max(seconds, 1e-9), 3) for r in roles}
    report["rss_mib"] = {r: round(float(np.median([s.get(r, 0) for s in usage.rss])) / 2**20, 1) for r in roles}
    report["rss_mib_per_hour"] = {
        r: slope_per_hour(usage.at[half:], [s.get(r, 0) / 2**20 for s in usage.rss[half:]]) for r in roles
    }
    return report


def slope_per_hour(at: Sequence[float], values: Sequence[float]) -> float | None:
    """Least-squares slope, units per hour; None of less than three points."""
    if len(at) < 3:
        return None
    x = np.asarray(at) - at[0]
    return round(float(np.polyfit(x / 3600, np.asarray(values), 1)[0]), 2)


def p95_slope(tally: Tally, started: float, parts: int = 12) -> dict[str, Any]:
    """p95 of latency, ms, by part of the run, and how it moved per hour."""
    if not tally.results:
        return {"p95_ms": [], "ms_per_hour": None}
    at = np.asarray([r.at - started for r in tally.results])
    latency = np.asarray([r.latency_s for r in tally.results]) * 1e3
    edges = np.linspace(0, at.max() + 1e-9, parts + 1)
    middles, p95s = [], []
    for low, high in itertools.pairwise(edges):
        inside = latency[(at >= low) & (at < high)]
        if len(inside):
            middles.append(float(low + high) / 2)
            p95s.append(round(float(np.percentile(inside, 95)), 1))
    return {"p95_ms": p95s, "ms_per_hour": slope_per_hour(middles, p95s)}


def knee(steps: Sequence[dict[str, Any]]) -> int | None:
    """The most cameras at which 95 % of the keyframes due came back, as at every smaller number."""
    found = None
    for report in sorted(steps, key=lambda step: int(step["cameras"])):
        if (report["keyframes_ok_share"] or 0.0) < KNEE_OK_SHARE or report["refused"]:
            break
        found = int(report["cameras"])
    return found
