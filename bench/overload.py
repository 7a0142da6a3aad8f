"""Keyframes a second of one service under more and more cameras: what is left of its peak at twice and four times that.

    python -m bench.overload -o bench/results/overload_cpu.json

Cameras film over real sockets on the same machine, so the sender takes part of the cores: its CPU seconds are told. The
service takes every camera (``--max-streams``), so that it is the scheduler which shares out what there is.
"""

from __future__ import annotations

import json
import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.hardware import processor
from stmixer.service.bench.clients import Camera
from stmixer.service.bench.film import Film
from stmixer.service.bench.processes import own_service
from stmixer.service.bench.streams import Load, measure

CLIP = Path(__file__).parents[1] / "tests/clips/walk.mp4"


def sender_s() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    model: Annotated[str | None, typer.Option(help="variant with initial weights (default: the bundled ones)")] = None,
    cameras: Annotated[str, typer.Option(help="streams at a time, in turns")] = "2,4,8",
    keyframe_hz: Annotated[float, typer.Option(min=0.1, max=8)] = 4.0,
    fps: Annotated[int, typer.Option(min=1, max=60)] = 15,
    seconds: Annotated[float, typer.Option(min=5, help="of each step")] = 45.0,
    rounds: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Measure and write."""
    film, counts = Film(CLIP, fps), [int(part) for part in cameras.split(",")]
    settings: dict[str, object] = {"max_streams": 64} | ({} if model is None else {"model": model})
    steps: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    with own_service(settings) as (url, pid):
        for count in counts * rounds:
            before = sender_s()
            load = Load((Camera(film, keyframe_hz=keyframe_hz),) * count, 0, film, seconds)
            (report,) = measure([load], url, None, pid)
            steps[count].append(report | {"sender_cpu_s": round(sender_s() - before, 1)})
    rows = [
        {
            "cameras": count,
            "keyframes_per_s": [round(step["results"] / seconds, 2) for step in of_count],
            "keyframes_ok_share": [step["keyframes_ok_share"] for step in of_count],
            "latency_ms": [step["latency_ms"] for step in of_count],
            "cores": [None if step["usage"] is None else step["usage"]["cores"] for step in of_count],
            "sender_cpu_s": [step["sender_cpu_s"] for step in of_count],
        }
        for count, of_count in steps.items()
    ]
    result = {
        "what": "results a second over real sockets, JPEG cameras, sender and service on the same cores",
        "model": model or "stmixer-rt",
        "keyframe_hz": keyframe_hz,
        "fps": fps,
        "seconds": seconds,
        "rows": rows,
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    typer.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
