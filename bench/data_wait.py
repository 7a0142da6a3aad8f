"""How long training steps wait for their data.

    python -m bench.data_wait --set DATA/fall --model slowonly_r50 -o bench/results/data_wait_cpu.json

Runs ``stmixer-train fit`` for a few steps at its default number of workers and reads the run's own ``data_wait``: per
step, the time from the end of the step before until the batch was there, over the time until the step's own end. Both
are taken in the same run. The first step, which starts the workers, is left out.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml


def main(
    root: Annotated[list[Path], typer.Option("--set", help="a custom set's folder; repeat for more")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    model: Annotated[str, typer.Option(help="variant")] = "slowonly_r50",
    steps: Annotated[int, typer.Option(min=3)] = 10,
    batch: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as folder:
        sets = [{"kind": "custom", "root": str(path.resolve())} for path in root]
        run = {"preset": "custom", "run_dir": "run", "model": model, "sets": sets, "epochs": 1, "batch_size": batch}
        run |= {"init": {"weights": None}}
        run |= {"clips_per_epoch": steps * batch, "log_every": 1, "checkpoint_every": 10**6}
        run |= {"evaluate": {"every_epochs": 0, "score_threshold": 1.0}}
        config = Path(folder, "run.yaml")
        config.write_text(yaml.safe_dump(run))
        subprocess.run([sys.executable, "-m", "stmixer.trainer.cli", "fit", "--config", str(config)], check=True)
        waits: list[float] = []
        for path in Path(folder, "run", "metrics").rglob("metrics.csv"):
            with path.open() as file:
                waits += [float(row["data_wait"]) for row in csv.DictReader(file) if row.get("data_wait")]
    result = {
        "what": "share of a training step spent waiting for data",
        "model": model,
        "sets": [path.name for path in root],
        "batch": batch,
        "steps": len(waits),
        "median": statistics.median(waits),
        "worst": max(waits),
        "workers": "default (4)",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    typer.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
