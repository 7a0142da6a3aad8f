"""What a worker holds with the bundled model under ONNX Runtime, and what its keyframes take; against another version.

    python -m bench.worker_memory ../old -o bench/results/worker_memory.json

Each turn is a process that opens the model and warms up as a worker does, then runs batches whose every frame is new.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.checkouts import OURS, commit, compared, in_turns, tell
from bench.hardware import measured_on

SCRIPT = """
import json, sys, time
from pathlib import Path
from stmixer.service.ipc.messages import WorkerOptions
from stmixer.service.worker import process

started = time.process_time()
batch, times, threads = map(int, sys.argv[1:])
process.WARM_UP_S = 1e9  # all sizes, also where the machine is busy
runner, ready = process.open_runner(WorkerOptions(None, None, "cpu", "onnx", "fp32", threads, batch))
start = time.process_time() - started
used = {}
for size in (1, batch):
    for round in range(1 + times):
        if round == 1:
            began = time.process_time()
        process._run_nothing(runner, size)
    used[size] = (time.process_time() - began) / (times * size)
lines = Path("/proc/self/status").read_text().splitlines()
status = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon", "VmHWM"))}
print(json.dumps({
    "resident_mb": int(status["VmRSS"]) / 1024, "of_its_own_mb": int(status["RssAnon"]) / 1024,
    "largest_mb": int(status["VmHWM"]) / 1024, "start_cpu_s": start, "keyframe_cpu_s": used[1],
    "keyframe_of_full_batch_cpu_s": used[batch],
}))
"""


def main(
    other: Annotated[Path, typer.Argument(help="a checkout of the other version")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the result, JSON")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="most keyframes of a batch")] = 8,
    times: Annotated[int, typer.Option(min=1, help="batches measured of each size")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = len(os.sched_getaffinity(0)),
) -> None:
    """Measure, and write down."""
    turns = in_turns(SCRIPT, [str(batch), str(times), str(threads)], other.resolve(), rounds)
    result = {
        "what": "a worker with the bundled model under ONNX Runtime: memory, CPU seconds; medians, taken in turns",
        "other": commit(other),
        "ours": commit(OURS),
        "threads": threads,
        "largest_batch": batch,
        "rounds": rounds,
        **measured_on(),
        "figures": compared(*turns),
    }
    tell(result, output)


if __name__ == "__main__":
    typer.run(main)
