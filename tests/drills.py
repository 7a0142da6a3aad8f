"""What the drills share: their reports, which are committed, and how a service holds up meanwhile."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from posting import samples
from serving import Server

from bench.hardware import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
OF_A_MACHINE = re.compile(
    rf"(?:{re.escape(str(ROOT))}|(?:{re.escape(tempfile.gettempdir())}|{re.escape(str(Path.home()))})(?:/[^/\s]+)*)/"
)
"""What leads to a file on this machine: the checkout's folder, or any folder in the temporary or home folder."""


def write_report(name: str, figures: dict[str, Any]) -> None:
    """``bench/results/NAME.json``, with the machine's name and without its paths."""
    machine = {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    machine |= {package: metadata.version(package) for package in ("torch", "av", "uvicorn")}
    report = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine, **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(without_places(report), indent=1) + "\n")


def without_places(value: Any) -> Any:
    """A JSON value with paths as seen from the checkout, and those of temporary files by their last part."""
    match value:
        case str():
            return OF_A_MACHINE.sub("", value)
        case dict():
            return {name: without_places(part) for name, part in value.items()}
        case list() | tuple():
            return [without_places(part) for part in value]
    return value


def deaths(server: Server) -> dict[str, float]:
    """Workers that ended, by reason."""
    found = samples(server)
    return {
        dict(labels)["reason"]: value
        for (name, labels), value in found.items()
        if name == "stmixer_worker_restarts_total" and value
    }


def complaints(server: Server) -> list[str]:
    """What nobody should ever see in its log: each such line with the forty after it."""
    lines = list(server.log)
    odd = [n for n, line in enumerate(lines) if "Traceback" in line or "breaks the protocol" in line]
    return ["\n".join(lines[n : n + 40]) for n in odd]
