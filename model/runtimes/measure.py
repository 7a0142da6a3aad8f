"""How long a keyframe takes a runtime on this CPU: measured in a process of its own, whose imports do not stay with us.

Imports no torch by itself.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stmixer.model.clip import input_size
from stmixer.model.runtimes.runtime import Runtime

BUDGET_S = 0.3
"""What the runs of one candidate may take, after the first, which makes kernels; two runs at least are measured."""
LONGEST_S = 30
"""A candidate that has not come with its figure by then, its imports included, is out."""
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from stmixer.model.runtimes.measure import main
main()
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime and a precision that may be chosen."""

    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What is measured: a candidate on a model, as ``choose.open_runtime`` is asked for it on the CPU."""

    model: str | None
    weights: str | None
    runtime: str
    precision: str
    threads: int | None


def keyframe_seconds(runtime: Runtime[Any], budget_s: float = BUDGET_S) -> float:
    """The least that a 16:9 keyframe took; half its frames are new, of a model that sees frames one by one."""
    config, arrays = runtime.card.config, runtime.arrays
    width, height = input_size(1280, 720, config.preprocess.short_side)
    pixels = np.zeros((config.clip.frames, height, width, 3), np.uint8)
    with arrays.without_gradients():
        clip = arrays.clip([pixels], config.preprocess)
        sizes_wh = arrays.given(np.array([[width, height]], np.float32))
        if config.backbone.per_frame:
            frames = arrays.frames_of(clip)
            levels = runtime.frame_stage(frames)
            kept = [arrays.kept([level[i] for level in levels]) for i in range(config.clip.frames)]

        def run() -> float:
            began = time.perf_counter()
            if config.backbone.per_frame:
                runtime.frame_stage(frames[: config.clip.frames // 2])
                runtime.clip_stage(arrays.windows([kept]), sizes_wh)
            else:
                runtime.detect(clip, sizes_wh)
            arrays.synchronise()
            return time.perf_counter() - began

        run()
        least, until = run(), time.perf_counter() + budget_s
        while time.perf_counter() < until:
            least = min(least, run())
    return least


def measured(trial: Trial, longest_s: int = LONGEST_S) -> float | None:
    """``keyframe_seconds`` in a process of its own; None where it fails there, or does not come in time."""
    if not sys.executable:  # a program that has Python in it
        return None
    told = [json.dumps(sys.path), json.dumps(asdict(trial)), str(longest_s)]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, *told],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=longest_s, check=True,
        )  # fmt: skip
        seconds = float(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return seconds if 0 < seconds < math.inf else None


def main() -> None:
    """In that process: its arguments are the trial as JSON and how long it may take, its last line the seconds."""
    signal.alarm(int(sys.argv[3]))  # also where nobody waits any more
    from stmixer.model.runtimes.choose import open_runtime
    from stmixer.model.runtimes.processor import CPU

    trial = Trial(**json.loads(sys.argv[2]))
    weights = None if trial.weights is None else Path(trial.weights)
    opened = open_runtime(
        trial.model, weights, CPU, runtime=trial.runtime, precision=trial.precision, threads=trial.threads
    )
    print(keyframe_seconds(opened))
