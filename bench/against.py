"""Ours against somebody else's: a callable that you point at takes turns with ``stmixer.load().detect`` over one video.

    python -m bench.against peer:detect tests/clips/walk.mp4 --path ../peer -o against.json

``peer:detect`` is a function of a module that lies in ``--path`` or is installed: ``detect(clip, keyframe_hz=2.0)``,
given a path, tells how many keyframes it found, or gives an iterable of one result each. ``--python`` names the
interpreter of its own environment; nothing of ours is imported there. Each turn is a process that calls it twice, the
first time to warm up: what a callable loads it should keep. Both get the environment that our workers have: memory
that is freed is kept, and OpenMP's threads sleep while they wait (``OMP_WAIT_POLICY`` in yours says otherwise). CPU
time, which load disturbs less than wall time, is that of the process and of children that it has waited for.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.checkouts import OURS, Turn, commit, compared, run_script, tell
from bench.hardware import measured_on

if TYPE_CHECKING:
    import stmixer

SCRIPT = """
import importlib, json, resource, sys, time

module, _, function = sys.argv[1].partition(":")
call = getattr(importlib.import_module(module), function)


def run():
    found = call(sys.argv[2], **json.loads(sys.argv[3]))
    return found if isinstance(found, int) else sum(1 for _ in found)


def cpu():
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + waited_for.ru_utime + waited_for.ru_stime


if run() < 1:
    sys.exit(sys.argv[1] + " found no keyframe")
wall, used = time.perf_counter(), cpu()
keyframes = run()
wall_s, cpu_s = time.perf_counter() - wall, cpu() - used
each = 1000 / keyframes
figures = {"keyframes": keyframes, "wall_ms_per_keyframe": each * wall_s, "cpu_ms_per_keyframe": each * cpu_s}
print(json.dumps(figures))
"""


@dataclass(frozen=True, slots=True)
class Side:
    """A callable, ``module:function``, and where it runs: a folder that its module may lie in, and an interpreter."""

    function: str
    folder: Path
    python: str = sys.executable

    def turn(self, clip: Path, options: dict[str, object]) -> Turn:
        """One turn's figures. Raises CalledProcessError where the callable fails; what it said is on stderr."""
        return run_script(SCRIPT, [self.function, str(clip), json.dumps(options)], self.folder, self.python)


def ours(clip: str, keyframe_hz: float, weights: str) -> Iterator[object]:
    """Our side: results of a video on the CPU, by the runtime that is chosen for these weights."""
    return _detector(weights).detect(clip, keyframe_hz=keyframe_hz)


@functools.cache
def _detector(weights: str) -> stmixer.ActionDetector:
    import stmixer

    return stmixer.load(weights, "cpu")


def _absolute(weights: str) -> str:
    return os.path.abspath(weights) if Path(weights).is_file() else weights


def taking_turns(
    theirs: tuple[Side, dict[str, object]], own: tuple[Side, dict[str, object]], clip: Path, rounds: int
) -> tuple[list[Turn], list[Turn]]:
    """``rounds`` turns of both sides with their options, they before us."""
    turns = list[Turn](), list[Turn]()
    for _ in range(rounds):
        for (side, options), found in zip((theirs, own), turns, strict=True):
            found.append(side.turn(clip, options))
    return turns


def main(
    function: Annotated[str, typer.Argument(help="module:function of the other side")],
    clip: Annotated[Path, typer.Argument(help="a video", exists=True)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the result, JSON")] = None,
    path: Annotated[Path, typer.Option(help="the folder that the module lies in")] = Path(),
    python: Annotated[str, typer.Option(help="the other side's interpreter")] = sys.executable,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each")] = 5,
    keyframe_hz: Annotated[float, typer.Option(min=0.1, max=8)] = 2.0,
    weights: Annotated[str, typer.Option(help="ours: a bundled name or a file")] = "stmixer-rt",
) -> None:
    """Measure, and write down. Ratios are ours over theirs: below 1 we take less."""
    module, _, name = function.partition(":")
    if not (module and name):
        raise typer.BadParameter(f"{function!r} is not module:function")
    both: dict[str, object] = {"keyframe_hz": keyframe_hz}
    # turns run elsewhere; links are kept: an environment is told by its interpreter's, a file's kind by its name
    theirs = Side(function, path.resolve(), os.path.abspath(python) if os.sep in python else python), both
    own = Side("bench.against:ours", OURS), both | {"weights": _absolute(weights)}
    try:
        turns = taking_turns(theirs, own, clip.resolve(), rounds)
    except subprocess.CalledProcessError as error:
        typer.echo(f"a turn failed with exit code {error.returncode}; what it said stands above", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        raise typer.BadParameter(f"{python} does not start: {error.strerror}") from None
    result: dict[str, object] = {
        "what": "a video through another callable and through ours, in turns; medians, ratios are ours over theirs",
        "other": function,
        "ours": commit(OURS),
        "video": clip.name,
        "keyframe_hz": keyframe_hz,
        "weights": Path(weights).name,
        "rounds": rounds,
        **measured_on(),
        "figures": compared(*turns),
    }
    tell(result, output)


if __name__ == "__main__":
    typer.run(main)
