"""The same script over two checkouts of this repository, in turns: what one version takes, of the other."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OURS = Path(__file__).parents[1]

Turn = dict[str, float]
"""What a script prints: its figures as one JSON object, on the last line."""


def in_turns(script: str, arguments: Sequence[str], other: Path, rounds: int) -> tuple[list[Turn], list[Turn]]:
    """``rounds`` turns of a script over the other checkout and over ours, a process each, as a worker is started.

    Raises FileNotFoundError for a checkout without the package ``stmixer``: the one installed would run in its place.
    """
    if not (package := other / "stmixer/__init__.py").exists():
        raise FileNotFoundError(f"{package} is not there: the version is older than the package, or no checkout at all")
    turns = list[Turn](), list[Turn]()
    for _ in range(rounds):
        for folder, found in zip((other, OURS), turns, strict=True):
            found.append(run_script(script, arguments, folder))
    return turns


def package_of(checkout: Path) -> str:
    """What stands before the names of a checkout's folders: ``stmixer.``, or nothing before there was that package.

    Raises FileNotFoundError for a folder that has neither: what is installed would run in its place.
    """
    for package, place in (("stmixer.", "stmixer/media/decode.py"), ("", "media/decode.py")):
        if (checkout / place).exists():
            return package
    raise FileNotFoundError(f"{checkout.name} is no checkout: media/decode.py is not in it")


def run_script(script: str, arguments: Sequence[str], folder: Path, python: str = sys.executable) -> Turn:
    """One turn: a process that may import what lies in a folder. Raises CalledProcessError where it fails."""
    from stmixer.service.ipc.child import KEEPS_FREED_MEMORY

    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **KEEPS_FREED_MEMORY, "PYTHONPATH": str(folder)}
    environment["PYTHONSAFEPATH"] = "1"  # not the option -P, which an older Python does not know
    command = [python, "-c", script, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd="/")
    turn: Turn = json.loads(done.stdout.splitlines()[-1])
    return turn


def commit(folder: Path) -> str:
    """Which version a checkout is of; with a plus sign where files differ from it."""
    said = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(said, check=True, capture_output=True, text=True).stdout.strip()


def compared(other: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, dict[str, float | list[float]]]:
    """Of each figure both medians, the median of the rounds' ratios, and the least and the greatest of these."""
    rows = dict[str, dict[str, float | list[float]]]()
    for name in ours[0]:
        ratios = sorted(b[name] / a[name] for a, b in zip(other, ours, strict=True))
        rows[name] = {
            "other": round(statistics.median(turn[name] for turn in other), 4),
            "ours": round(statistics.median(turn[name] for turn in ours), 4),
            "ratio": round(statistics.median(ratios), 3),
            "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
    return rows


def tell(result: dict[str, object], output: Path | None) -> None:
    """Print a result as JSON, and write it down where a file is named."""
    text = json.dumps(result, indent=1)
    if output is not None:
        output.write_text(text + "\n")
    print(text)
