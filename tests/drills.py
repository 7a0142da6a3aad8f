"""What the drills share: their reports, which are committed, and how a service holds up meanwhile."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
import time
from concurrent.futures import Future
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from posting import samples
from serving import Server

from bench.hardware import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
T = TypeVar("T")
LOOK_S = 1.0
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


# -- a service that hangs, and one that has no core to run on


def without_a_core_s(server: Server) -> dict[int, float]:
    """How long each of its processes has waited for a core, by process id; nothing where the system does not say."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        for pid in (server.process.pid, *(child.pid for child in server.children)):
            if (waited := queued_s(pid)) is not None:
                found[pid] = waited
    return found


def queued_s(pid: int) -> float | None:
    """How long a process has waited for a core: its first thread, where the API's event loop is, and pytest's tests.
    None where it has ended, or the system does not say."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return None


def answer_of(asked: Future[T], server: Server, most_s: float) -> T:
    """What a client that runs elsewhere comes back with. Fails after ``most_s`` in which the service had cores to run
    on (what its most starved process waited for one does not count): then it hangs, and is not starved."""
    waited, at, before = 0.0, time.monotonic(), without_a_core_s(server)
    while True:
        with suppress(TimeoutError):
            return asked.result(LOOK_S)
        if asked.done():
            return asked.result()  # the client's own time-out
        now, starved = time.monotonic(), without_a_core_s(server)
        kept = max((s - before.get(pid, s) for pid, s in starved.items()), default=0.0)
        waited, at, before = waited + max(0.0, now - at - kept), now, starved
        assert waited < most_s, f"no answer in {waited:.0f} s with cores to run on; {standing(server)}"


def answer_within(asked: Future[T], server: Server, most_s: float) -> T:
    """What a client that runs elsewhere comes back with, of a service that has promised to be that quick. Fails after
    ``most_s``: only what the API process, which keeps the promise, has waited for a core does not count."""
    began, before, left = time.monotonic(), queued_s(server.process.pid) or 0.0, most_s
    while left > 0:
        with suppress(TimeoutError):
            return asked.result(left)
        if asked.done():
            return asked.result()  # the client's own time-out
        starved = max(0.0, (queued_s(server.process.pid) or 0.0) - before)
        left = most_s + starved - (time.monotonic() - began)
    raise AssertionError(f"no answer in {most_s:g} s with a core to run on; {standing(server)}")


def standing(server: Server) -> str:
    """What the service is at, for whoever wants to know why nothing comes."""
    busy = []
    for child in server.children:
        with suppress(psutil.Error):
            times = child.cpu_times()
            busy.append(f"{child.cmdline()[-1]} {child.status()} {times.user + times.system:.1f} s of CPU")
    held: dict[str, float] | str = "its metrics do not come"
    with suppress(httpx.HTTPError):
        held = {name: value for (name, _), value in samples(server).items() if value and name in STANDING}
    return f"{held}; {'; '.join(busy)}; its log ends: {' | '.join(list(server.log)[-5:])}"


STANDING = ("stmixer_streams_active", "stmixer_uploads_waiting", "stmixer_keyframes_waiting", "stmixer_worker_up")
