"""Keyframes a second of one service under more and more cameras: what is left of its peak at twice and four times that.

    python -m bench.overload -o bench/results/overload_cpu.json

Cameras film over real sockets on the same machine, so the sender takes part of the cores: its CPU seconds are told. The
service takes every camera (``--max-streams``), so that it is the scheduler which shares out what there is.
``stages_ms`` are means of a keyframe as the service counts them (docs/operate.md, Metrics); the knee is the most
cameras of which 95 % of the keyframes due came back. How bench/results/knee.json was made, which ``bench.fleet`` reads,
stands in docs/scale.md, One machine.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import resource
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families

from bench.hardware import processor
from stmixer.service.bench.clients import Camera
from stmixer.service.bench.film import Film
from stmixer.service.bench.processes import own_service
from stmixer.service.bench.streams import Load, knee, measure

CLIP = Path(__file__).parents[1] / "tests/clips/walk.mp4"


def sender_s() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Counts:
    """What the service has counted so far: batches by their size, and seconds of their keyframes by stage."""

    batches: Mapping[int, float]
    seconds: Mapping[str, float]

    def since(self, before: Counts) -> dict[str, Any]:
        """Means of what ran since: ``batch_size``; ``size_met``, that of the batch in which a keyframe found itself,
        of which large ones have more; and ``stages_ms`` of a keyframe, each of whom waits for all of its batch."""
        sizes = {size: count - before.batches.get(size, 0.0) for size, count in self.batches.items()}
        keyframes = sum(size * count for size, count in sizes.items())
        squares = sum(size * size * count for size, count in sizes.items())
        return {
            "batch_size": round(keyframes / max(1.0, sum(sizes.values())), 2),
            "size_met": round(squares / max(1.0, keyframes), 3),
            "stages_ms": {
                stage: round(1000 * (seconds - before.seconds.get(stage, 0.0)) / max(1.0, keyframes), 2)
                for stage, seconds in self.seconds.items()
            },
        }


def counted(url: str) -> Counts:
    """Of a service. Sizes of 5 and 7 are told as 6 and 8."""
    below, seconds = dict[int, float](), dict[str, float]()
    for family in text_string_to_metric_families(httpx.get(url + "/metrics").raise_for_status().text):
        for sample in family.samples:
            if sample.name == "stmixer_batch_size_bucket" and sample.labels["le"] != "+Inf":
                below[int(float(sample.labels["le"]))] = sample.value
            elif sample.name == "stmixer_stage_seconds_sum":
                seconds[sample.labels["stage"]] = sample.value
    edges = [0, *sorted(below)]
    return Counts({n: below[n] - below.get(less, 0.0) for less, n in itertools.pairwise(edges)}, seconds)


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
    # without a spare, whose start would count as the first step's
    settings: dict[str, object] = {"max_streams": 64, "spare_workers": 0} | ({} if model is None else {"model": model})
    steps: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    film.prepare("jpeg")
    load_before = round(os.getloadavg()[0], 1)
    with own_service(settings) as (url, pid):
        for count in counts * rounds:
            before, counts_before = sender_s(), counted(url)
            load = Load((Camera(film, keyframe_hz=keyframe_hz),) * count, 0, film, seconds)
            (report,) = measure([load], url, None, pid)
            report |= {"sender_cpu_s": round(sender_s() - before, 2)} | counted(url).since(counts_before)
            steps[count].append(report)
    rows = [
        {
            "cameras": count,
            "keyframes_per_s": [round(step["results"] / seconds, 2) for step in of_count],
            "keyframes_ok_share": [step["keyframes_ok_share"] for step in of_count],
            "latency_ms": [step["latency_ms"] for step in of_count],
            "cores": [None if step["usage"] is None else step["usage"]["cores"] for step in of_count],
            "rss_mib": [None if step["usage"] is None else step["usage"]["rss_mib"] for step in of_count],
            "batch_size": [step["batch_size"] for step in of_count],
            "size_met": [step["size_met"] for step in of_count],
            "stages_ms": [step["stages_ms"] for step in of_count],
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
        "picture_bytes": round(statistics.fmean(len(picture) for picture in film.jpegs)),
        "knee": knee([step for of_count in steps.values() for step in of_count]),
        "rows": rows,
        "load_before": load_before,
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    typer.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
