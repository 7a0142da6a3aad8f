"""Keyframes per second, end to end, of a realtime variant, and what keeping frame features saves.

    python -m bench.realtime -o bench/results/realtime_cpu.json

Decodes a 720p clip and detects at 1, 4 and 8 keyframes a second of video (rates snap to the sampling grid), with the
feature ring and without, in turns within one run; a figure is the median of the rounds. What ``stmixer detect`` does is
measured, decoding included; only starting Python and loading weights are left out.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the service has it

import av
import torch
import typer

from bench.hardware import processor
from stmixer.model.runtimes.choose import open_runtime
from stmixer.service.offline.file import FileResults
from stmixer.service.schemas import DetectOptions
from stmixer.service.worker.runner import Runner

SOURCE = Path(__file__).parents[1] / "tests/clips/walk.mp4"
WIDTH, HEIGHT = 1280, 720


def make_clip(source: Path, target: Path, seconds: float) -> None:
    """The source at 720p, H.264, as many of its frames as the time takes."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        rate = given.streams.video[0].average_rate
        stream = made.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in itertools.islice(given.decode(video=0), round(seconds * rate)):
            made.mux(stream.encode(frame.reformat(WIDTH, HEIGHT)))
        made.mux(stream.encode(None))


def measure(runner: Runner, clip: Path, hz: float) -> tuple[float, int]:
    """Seconds for the clip, and its keyframes."""
    started = time.perf_counter()
    keyframes = sum(1 for _ in FileResults(runner, clip, DetectOptions(keyframe_hz=hz)))
    return time.perf_counter() - started, keyframes


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    model: Annotated[str | None, typer.Option(help="variant with initial weights")] = None,
    weights: Annotated[Path | None, typer.Option(help="a weights file (default: the bundled one)")] = None,
    clip: Annotated[Path | None, typer.Option(help="a 720p video (default: the repository's, enlarged)")] = None,
    seconds: Annotated[float, typer.Option(min=2, help="of the repository's clip")] = 6.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    runtime: Annotated[str, typer.Option(help="eager, compile, onnx or auto")] = "auto",
) -> None:
    """Measure and write."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_runtime(model, weights, device, runtime=runtime)
    runners = {"kept": Runner(opened), "anew": Runner(opened, keep_features=False)}
    rates = (1.0, 4.0, 8.0)
    times: dict[tuple[str, float], list[float]] = {(name, hz): [] for name in runners for hz in rates}
    count: dict[float, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = clip or Path(folder) / "clip.mp4"
        if clip is None:
            make_clip(SOURCE, path, seconds)
        for runner in runners.values():
            measure(runner, path, 1.0)  # warm-up
        for _, hz, (name, runner) in itertools.product(range(rounds), rates, runners.items()):
            elapsed, count[hz] = measure(runner, path, hz)
            times[name, hz].append(elapsed)
    rows = []
    for hz in rates:
        kept, anew = (statistics.median(times[name, hz]) for name in ("kept", "anew"))
        rows.append(
            {
                "keyframe_hz": hz,
                "keyframes": count[hz],
                "keyframes_per_s": round(count[hz] / kept, 2),
                "keyframes_per_s_anew": round(count[hz] / anew, 2),
                "anew_over_kept": round(anew / kept, 3),
                "seconds": [round(t, 3) for t in times["kept", hz]],
                "seconds_anew": [round(t, 3) for t in times["anew", hz]],
            }
        )
    result = {
        "what": "end to end on a 720p clip: decode, resize, frame stage, clip stage, post-processing",
        "model": opened.card.name,
        "runtime": opened.name,
        "precision": opened.precision,
        "clip": "tests/clips/walk.mp4 at 1280 x 720, H.264" if clip is None else clip.name,
        "rates": rows,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {os.cpu_count()} cores",
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": metadata.version("av"),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    typer.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
