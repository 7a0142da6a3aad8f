"""One machine as `bench.fleet` thinks of it: what its work takes, as measured under little load, and what then comes of
more and more cameras. Discrete events; pure, and the same for the same seed.

The worker is one server that takes batches. Its threads wait for each other, one on each core, so whatever else runs on
one of them holds it up: what is computed for a picture (API, decoder, and the sender, which was on the same cores)
takes its part of all cores, and batches are longer by it the more cameras there are.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stmixer.service.bench.streams import KNEE_OK_SHARE

MAX_BATCH, BATCH_WAIT_S = 8, 0.005
"""The service's own defaults."""
STARTED_WITHIN_S = 0.1
"""Cameras of the benchmark begin together, and so their keyframes fall due together."""
CAMERAS_AT_MOST = 1000
WORKED = ("preprocess", "inference", "postprocess")
"""The stages of a keyframe in which its worker is at work."""


@dataclass(frozen=True)
class MachineCosts:
    """``batch_s`` + n x ``keyframe_s``: a worker's wall time of n keyframes where all cores are free for it.

    ``turn_s``: what lies between two batches. ``picture_cpu_s``: of one picture, all but the worker. Seconds;
    ``known_from``: numbers of cameras at which all this was measured.
    """

    cores: int
    fps: float
    keyframe_hz: float
    batch_s: float
    keyframe_s: float
    turn_s: float
    picture_cpu_s: float
    known_from: tuple[int, ...] = ()

    def slower(self, cameras: int) -> float:
        """How many times longer a batch takes beside so many cameras' pictures; no more than 20."""
        left = self.cores - cameras * self.fps * self.picture_cpu_s
        return self.cores / max(left, self.cores / 20)


@dataclass(frozen=True)
class Load:
    """What came of so many cameras: keyframes due, those that had a result, and how late those were."""

    cameras: int
    due: int
    ok: int
    p95_s: float

    @property
    def ok_share(self) -> float:
        return self.ok / max(1, self.due)


def costs_of(report: Mapping[str, Any], most: int) -> MachineCosts:
    """From a result of `bench.overload`: its rows of ``most`` cameras or fewer, so that nothing near its knee tells.

    Raises ValueError where there are fewer than two such rows.
    """
    rows = [row for row in report["rows"] if row["cameras"] <= most]
    if len(rows) < 2:
        raise ValueError(f"two rows of {most} cameras or fewer are wanted, to tell a batch's cost from a keyframe's")
    cores, fps, seconds = int(report["cores"]), float(report["fps"]), float(report["seconds"])
    beside = [row["cores"][0]["api"] + row["cores"][0]["decoder"] + row["sender_cpu_s"][0] / seconds for row in rows]
    picture_cpu_s = sum(beside) / (fps * sum(row["cameras"] for row in rows))
    costs = MachineCosts(cores, fps, float(report["keyframe_hz"]), 0.0, 0.0, 0.0, picture_cpu_s)
    worked_s = [
        sum(row["stages_ms"][0][stage] for stage in WORKED) / 1000 / costs.slower(row["cameras"]) for row in rows
    ]
    batch_s, keyframe_s = _line([row["size_met"][0] for row in rows], worked_s)
    turn_s = max(0.0, min(row["stages_ms"][0]["queue"] for row in rows) / 1000 - BATCH_WAIT_S)
    known_from = tuple(row["cameras"] for row in rows)
    return replace(costs, batch_s=batch_s, keyframe_s=keyframe_s, turn_s=turn_s, known_from=known_from)


def _line(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """A batch's fixed part and a keyframe's, by least squares; neither below nothing."""
    x, y = np.asarray(sizes), np.asarray(times)
    if np.ptp(x) > 0:
        slope, fixed = (float(value) for value in np.polyfit(x, y, 1))
        if fixed >= 0 and slope > 0:
            return fixed, slope
    return 0.0, float((x * y).sum() / (x * x).sum())


def run(costs: MachineCosts, cameras: int, seconds: float, seed: int, spread_s: float = STARTED_WITHIN_S) -> Load:
    """So many cameras for so long. ``spread_s``: within which they begin; a period or more: anywhere in it."""
    chance, period = random.Random(seed), 1 / costs.keyframe_hz
    begins = [chance.uniform(0, min(spread_s, period)) for _ in range(cameras)]
    coming = [(begin, number) for number, begin in enumerate(begins)]
    heapq.heapify(coming)
    waiting: dict[int, float] = {}
    served_at = [-1.0] * cameras
    due, late, free_at, slower = 0, list[float](), 0.0, costs.slower(cameras)
    while coming:
        start = max(free_at, min(waiting.values(), default=float("inf")) + BATCH_WAIT_S)
        ready_at, number = coming[0]
        if ready_at <= start:
            if ready_at >= seconds:
                break
            waiting[number] = ready_at  # an older one that has not begun is superseded
            due += 1
            heapq.heapreplace(coming, (ready_at + period, number))
            continue
        batch = sorted(waiting, key=lambda camera: (served_at[camera], waiting[camera]))[:MAX_BATCH]
        free_at = start + costs.turn_s + slower * (costs.batch_s + len(batch) * costs.keyframe_s)
        for camera in batch:
            late.append(free_at - waiting.pop(camera))
            served_at[camera] = start
    ok = len(late) + len(waiting)  # what waits in the end still runs, as after ``stop``
    return Load(cameras, due, ok, float(np.percentile(late, 95)) if late else 0.0)


def loads_of(costs: MachineCosts, seconds: float, seed: int) -> list[Load]:
    """What comes of one camera, of two and so on, until a third of the keyframes stays away."""
    loads = list[Load]()
    while not loads or (loads[-1].ok_share > 2 / 3 and len(loads) < CAMERAS_AT_MOST):
        loads.append(run(costs, len(loads) + 1, seconds, seed))
    return loads


def knee_of(shares: Mapping[int, float]) -> float:
    """How many cameras there may be for 95 % of the keyframes to come back, as they do of every smaller number.

    ``shares`` of those that came by numbers of cameras, between which it is a line. Raises ValueError where all come.
    """
    before = (0, 1.0)
    for cameras, share in sorted(shares.items()):
        if share < KNEE_OK_SHARE:
            part = (before[1] - KNEE_OK_SHARE) / (before[1] - share)
            return before[0] + part * (cameras - before[0])
        before = cameras, share
    raise ValueError("no number of cameras is too much")
