"""Whether one client who means harm costs the others: cameras' latency and /healthz with and without it, in turns.

    python -m bench.abuse -o bench/results/abuse.json

The bound (``verdict``): the cameras' p95 is within 10 % or 10 ms, whichever is more, of that of the turn before, in
which nobody does harm; the share of their keyframes that come to a result is 0.9 of that turn's at least; and /healthz
answers in 20 ms, but for fewer than one time of a hundred (its p99). Each figure is the median of the turns. Cameras
film in this process, /healthz is asked by another one, and harm is done by a third one, while a core is idle.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from bench.abusers import ATTACKS, Camp, doing_harm
from bench.asker import asking, p99
from bench.hardware import processor
from stmixer.service.bench.clients import Camera
from stmixer.service.bench.film import Film
from stmixer.service.bench.processes import own_service
from stmixer.service.bench.streams import Load, measure

CLIP = Path(__file__).parents[1] / "tests/clips/walk.mp4"
SHARE, AT_LEAST_MS = 0.10, 10.0
OK_SHARE_LEFT = 0.9
HEALTHZ_P99_MS = 20.0


def bound_ms(peace_p95_ms: float) -> float:
    """What p95 may be beside one who means harm."""
    return peace_p95_ms + max(SHARE * peace_p95_ms, AT_LEAST_MS)


def verdict(turns: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Of turns, each first in peace: medians, and whether the bound is held."""
    peace, abused = (
        {name: median(turn[side][name] for turn in turns) for name in ("p95_ms", "healthz_p99_ms", "ok_share")}
        for side in (0, 1)
    )
    held = (
        abused["p95_ms"] <= bound_ms(peace["p95_ms"])
        and abused["ok_share"] >= OK_SHARE_LEFT * peace["ok_share"]
        and abused["healthz_p99_ms"] <= HEALTHZ_P99_MS
    )
    return {"in_peace": peace, "beside_it": abused, "p95_may_be_ms": round(bound_ms(peace["p95_ms"]), 1), "held": held}


def turn(url: str, pid: int, load: Load, names: tuple[str, ...]) -> dict[str, Any]:
    """Cameras and /healthz while these do harm."""
    with doing_harm(Camp(url), names), asking(url) as taken:
        (report,) = measure([load], url, None, pid)
    latency = report["latency_ms"]
    return {
        "p95_ms": float("inf") if latency is None else latency["p95"], "results": report["results"],
        "ok_share": report["keyframes_ok_share"] or 0.0, "healthz_asked": len(taken),
        "healthz_p99_ms": round(p99(taken) * 1e3, 1),
    }  # fmt: skip


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    model: Annotated[str, typer.Option(help="variant with initial weights")] = "tiny",
    cameras: Annotated[int, typer.Option(min=1)] = 8,
    keyframe_hz: Annotated[float, typer.Option(min=0.1, max=8)] = 1.0,
    fps: Annotated[int, typer.Option(min=1, max=60)] = 10,
    seconds: Annotated[float, typer.Option(min=2, help="of each turn")] = 30.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    only: Annotated[str, typer.Option(help="names of who does harm, with commas; all of them")] = ",".join(ATTACKS),
) -> None:
    """Measure and write; exit code 1 where the bound is not held."""
    film, names = Film(CLIP, fps), only.split(",")
    load = Load((Camera(film, keyframe_hz=keyframe_hz),) * cameras, 0, film, seconds)
    turns: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {name: [] for name in names}
    film.prepare("jpeg")
    with own_service({"max_streams": 64, "model": model}) as (url, pid):
        turn(url, pid, replace(load, seconds=max(5.0, seconds / 3)), ())  # warms up
        for name in names * rounds:
            turns[name].append((turn(url, pid, load, ()), turn(url, pid, load, (name,))))
    found = {name: {**verdict(of_name), "turns": of_name} for name, of_name in turns.items()}
    result = {
        "what": "cameras' p95 and ok share, /healthz p99, beside one who means harm, and in the turn before, without",
        "cameras": cameras, "keyframe_hz": keyframe_hz, "fps": fps, "model": model, "seconds": seconds,
        "rounds": rounds, "found": found, "held": all(one["held"] for one in found.values()),
        "cores": os.cpu_count(), "processor": processor(), "python": platform.python_version(),
        "load": round(os.getloadavg()[1], 1),
    }  # fmt: skip
    output.write_text(json.dumps(result, indent=1) + "\n")
    for name, one in found.items():
        typer.echo(f"{name}: p95 {one['in_peace']['p95_ms']:g} -> {one['beside_it']['p95_ms']:g} ms, ok "
                   f"{one['in_peace']['ok_share']:g} -> {one['beside_it']['ok_share']:g}, /healthz p99 "
                   f"{one['beside_it']['healthz_p99_ms']:g} ms, {'held' if one['held'] else 'NOT HELD'}")  # fmt: skip
    if not result["held"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
