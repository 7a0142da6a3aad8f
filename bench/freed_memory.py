"""What it saves a CPU to keep freed memory (`model.heap`): keyframes of a video with and without, in turns.

    python -m bench.freed_memory tests/clips/walk.mp4 -o bench/results/freed_memory.json

Each turn is a process of its own that runs the video once to warm up and once to be measured. Figures are medians a
keyframe: CPU seconds of the program and of the kernel for it, pages that the kernel had to provide; and the process's
largest size.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.hardware import processor

HOW = ("given back", "kept")


def turn(video: Path, runtime: str, weights: str, how: str) -> dict[str, float]:
    """One turn, in this process."""
    import stmixer
    from stmixer.model.heap import keep_freed_memory

    if how == "kept" and not keep_freed_memory():
        raise SystemExit("this machine has no glibc")
    detector = stmixer.load(weights, "cpu", runtime=runtime)  # type: ignore[arg-type]
    for _ in detector.detect(video, keyframe_hz=4):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF)
    keyframes = sum(1 for _ in detector.detect(video, keyframe_hz=4))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user_s": (after.ru_utime - before.ru_utime) / keyframes,
        "system_s": (after.ru_stime - before.ru_stime) / keyframes,
        "pages": (after.ru_minflt - before.ru_minflt) / keyframes,
        "largest_mb": after.ru_maxrss / 1024,
    }


def main(
    video: Path,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the result, JSON")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each")] = 7,
    runtime: Annotated[str, typer.Option(help="eager or onnx")] = "eager",
    weights: Annotated[str, typer.Option(help="a bundled name or a file")] = "stmixer-rt",
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, and write down."""
    if one is not None:
        print(json.dumps(turn(video, runtime, weights, one)))
        return
    turns: dict[str, list[dict[str, float]]] = {how: [] for how in HOW}
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(rounds):
        for how in HOW:
            words = [str(video), "--runtime", runtime, "--weights", weights, "--one", how]
            command = [sys.executable, "-m", "bench.freed_memory", *words]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            turns[how].append(json.loads(done.stdout))
    figures = {
        how: {key: round(statistics.median(t[key] for t in all_), 4) for key in all_[0]} for how, all_ in turns.items()
    }
    cpu = [statistics.median(t["user_s"] + t["system_s"] for t in turns[how]) for how in HOW]
    result: dict[str, Any] = {
        "what": "a keyframe with freed memory given back to the kernel and kept; medians, taken in turns",
        "video": video.name,
        "weights": Path(weights).name,
        "runtime": runtime,
        "hardware": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "rounds": rounds,
        **figures,
        "cpu_ratio": round(cpu[1] / cpu[0], 4),
    }
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
