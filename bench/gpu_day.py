"""The first things to know of a GPU, in eight minutes and with one command; resumable, and rehearsed on a CPU.

    python -m bench.gpu_day                # on a machine with CUDA: bench/results/gpu_day.json and .md
    python -m bench.gpu_day --rehearse     # all of it on a CPU with small models, in out/gpu_day

Each step is a process of its own with a limit (``bench.gpu.day``), the cheapest to learn from first; results are
written after each. A second call does what the first has not done. docs/gpu.md says how it is run on a rented GPU.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.gpu.day import Day, Outcome, Step
from bench.gpu.notes import Notes, without_places
from bench.gpu.scene import GPU, REHEARSAL, Scene
from bench.gpu.table import markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
MINUTES = 8.0
REHEARSED_S = 900.0
"""A rehearsed step's limit: CPUs in CI are slow and shared."""

app = typer.Typer(pretty_exceptions_enable=False)


def plan(scene: Scene) -> list[Step]:
    """The steps in their order."""
    first, *others = scene.models
    steps = [
        Step("environment", "what the machine is, and whether CUDA works", 25),
        Step("checks", "the tests that want a GPU, what breaks most first", 75),
        *(Step(f"models.{name}", "milliseconds, by runtime, precision and batch", 25) for name in scene.models),
        Step("parity", "deviations from the reference, and of half precision", 30),
        Step("launches", "launches, copies and waits of a keyframe; where a graph's operators run", 30),
        Step("decoding", "H.264 frames a second, on the CPU and on the device", 25),
        Step(f"cameras.{first}", "cameras with 95 of 100 results within 150 ms", 100),
        Step("faults", "a killed worker, a full card, one without memory", 70),
        *(Step(f"cameras.{name}", "the same of another model", 55) for name in others),
        Step(f"onnx.{first}", "ONNX Runtime", 25, rest=True),
        Step(f"compiled.{scene.compiled}", "torch.compile", 120, rest=True),
    ]
    return steps if scene.on_gpu else [Step(s.name, s.what, REHEARSED_S, s.rest) for s in steps]


def run_step(name: str, notes: Notes, scene: Scene) -> None:
    """One of ``plan``. Its modules are imported by its own process alone: one that breaks, breaks there."""
    kind, _, model = name.partition(".")
    found: Callable[[Notes, Scene, str], None]
    match kind:
        case "environment":
            from bench.gpu.environment import environment as found
        case "checks":
            from bench.gpu.checks import checks as found
        case "models":
            from bench.gpu.models import models as found
        case "parity":
            from bench.gpu.parity import parity as found
        case "launches":
            from bench.gpu.launches import launches as found
        case "decoding":
            from bench.gpu.decoding import decoding as found
        case "cameras":
            from bench.gpu.cameras import cameras as found
        case "faults":
            from bench.gpu.faults import faults as found
        case "onnx":
            from bench.gpu.models import onnx as found
        case "compiled":
            from bench.gpu.models import compiled as found
        case _:
            raise typer.BadParameter(f"{name} is no step")
    found(notes, scene, model)


@app.command("step", hidden=True)
def step(
    name: str, folder: Path, seconds: float, rehearse: Annotated[bool, typer.Option("--rehearse")] = False
) -> None:
    """One step, in this process."""
    run_step(name, Notes(folder / f"{name}.jsonl", seconds), REHEARSAL if rehearse else GPU)


@app.command("run")
def run(
    rehearse: Annotated[bool, typer.Option("--rehearse", help="on a CPU, with small models")] = False,
    folder: Annotated[Path, typer.Option(help="rows, words and results of each step")] = ROOT / "out" / "gpu_day",
    minutes: Annotated[float, typer.Option(min=0.1, help="for all of it")] = MINUTES,
    again: Annotated[list[str] | None, typer.Option(help="a step to be done again; repeat for more")] = None,
) -> None:
    """All steps that have not been done."""
    scene, rehearsed = (REHEARSAL, "rehearsal") if rehearse else (GPU, "")
    folder = (folder / rehearsed).resolve()
    steps = plan(scene)
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    places = [folder / "gpu_day"] if rehearse else [folder / "gpu_day", RESULTS / "gpu_day"]

    def command(one: Step, soft_s: float) -> Sequence[str]:
        told = [one.name, str(folder), f"{soft_s:g}", *(["--rehearse"] if rehearse else [])]
        return [sys.executable, "-m", "bench.gpu_day", "step", *told]

    def write(outcomes: Sequence[Outcome], last: Outcome) -> None:
        typer.echo(f"{last.step}: {last.ended} after {last.seconds:g} s, {len(last.rows)} rows")
        told = [Outcome(**without_places(asdict(outcome))) for outcome in outcomes]
        result = {"date": begun, "rehearsal": rehearse, "steps": [asdict(outcome) for outcome in told]}
        text = markdown(told, rehearsal=rehearse, whats={one.name: one.what for one in steps})
        for place in places:
            place.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            place.with_suffix(".md").write_text(text)

    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # as the service has it
    if rehearse:  # on a CPU that others use too, whatever else the machine has
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    outcomes = Day(folder, steps, command, write, environment).run(60 * minutes, again or ())
    if any(outcome.ended in ("failed", "killed") for outcome in outcomes):
        raise typer.Exit(1)


def with_command(arguments: Sequence[str]) -> list[str]:
    """Arguments with the command that is meant where none is named."""
    named = arguments and arguments[0] in (command.name for command in app.registered_commands)
    return [*([] if named else ["run"]), *arguments]


if __name__ == "__main__":
    app(with_command(sys.argv[1:]))
