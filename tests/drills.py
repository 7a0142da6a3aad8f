"""What the drills share: their reports, which are committed, and how a service holds up meanwhile."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from posting import samples
from serving import Server

from bench.hardware import processor

RESULTS = Path(__file__).parents[1] / "bench" / "results"


def write_report(name: str, figures: dict[str, Any]) -> None:
    """``bench/results/NAME.json``, with the machine's name."""
    machine = {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    machine |= {package: metadata.version(package) for package in ("torch", "av", "uvicorn")}
    report = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine, **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def deaths(server: Server) -> dict[str, float]:
    """Workers that ended, by reason."""
    found = samples(server)
    return {
        dict(labels)["reason"]: value
        for (name, labels), value in found.items()
        if name == "stmixer_worker_restarts_total" and value
    }


def complaints(server: Server) -> list[str]:
    """Lines of its log that nobody should ever see."""
    return [line for line in server.log if "Traceback" in line or "breaks the protocol" in line]
