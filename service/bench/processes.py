"""The service's processes on this machine: what they use, and which of them a drill may kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import psutil

from stmixer.service.errors import StartError

WORKER_MODULE = "stmixer.service.worker.process"
DECODER_MODULE = "stmixer.service.decoder.process"
NURSERY_MODULE = "stmixer.service.decoder.nursery"
START_S = 180.0


@contextmanager
def own_service(settings: Mapping[str, object], worker_module: str | None = None) -> Iterator[tuple[str, int]]:
    """A `stmixer serve` of our own on a free port; its address and process id. Raises StartError.

    ``worker_module``: a module that fails as a drill wants it, in the worker's place.
    """
    environment = {**os.environ, "STMIXER_PORT": "0"}
    environment |= {f"STMIXER_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "stmixer.service.cli", "serve"]
    if worker_module is not None:
        command = [sys.executable, "-m", "stmixer.service.bench.faulty_service", "--worker-module", worker_module]
    process = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)
    found: Queue[str] = Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if match := re.search(r"ready: (https?://[^\s\"]+)", line):
                found.put(match.group(1))

    threading.Thread(target=read, daemon=True).start()
    try:
        yield _address(process, found), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _address(process: subprocess.Popen[str], found: Queue[str]) -> str:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(Empty):
            return found.get(timeout=0.2)
    raise StartError("worker_failed", "the service to be measured did not start; its own words stand above")


@dataclass
class Usage:
    """CPU seconds and resident bytes by role, now and then."""

    at: list[float] = field(default_factory=list)
    rss: list[dict[str, int]] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)


class Processes:
    """A service's processes by the id of its API process, told apart by the module that each runs."""

    def __init__(self, pid: int, worker_module: str | None = None) -> None:
        self._roles = {worker_module or WORKER_MODULE: "worker", DECODER_MODULE: "decoder", NURSERY_MODULE: "decoder"}
        self._api = psutil.Process(pid)
        self._ended: dict[str, float] = defaultdict(float)
        self._known: dict[int, tuple[str, float]] = {}
        self.usage = Usage()

    def by_role(self) -> dict[str, list[psutil.Process]]:
        """``api``, ``worker`` and ``decoder``, with what forks those; the oldest worker is the one in service."""
        found: dict[str, list[psutil.Process]] = {"api": [self._api], "worker": [], "decoder": []}
        for child in self._api.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended while we looked
                for argument in child.cmdline():
                    if argument in self._roles:
                        found[self._roles[argument]].append(child)
        found["worker"].sort(key=lambda worker: worker.create_time())
        return found

    def sample(self) -> None:
        """One more entry of ``usage``. CPU of processes that have ended stays counted."""
        rss: dict[str, int] = defaultdict(int)
        cpu: dict[str, float] = defaultdict(float)
        seen: dict[int, tuple[str, float]] = {}
        for role, processes in self.by_role().items():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    seen[process.pid] = role, times.user + times.system
                    rss[role] += process.memory_info().rss
        for pid, (role, seconds) in self._known.items():
            if pid not in seen:
                self._ended[role] += seconds
        self._known = seen
        for role, seconds in seen.values():
            cpu[role] += seconds
        self.usage.at.append(time.monotonic())
        self.usage.rss.append(dict(rss))
        self.usage.cpu.append({role: cpu[role] + self._ended[role] for role in ("api", "worker", "decoder")})

    def kill(self, what: str) -> bool:
        """SIGKILL for the ``worker`` in service, the ``spare``, or a busy ``decoder``; False where there is none."""
        roles = self.by_role()
        if what == "decoder":
            chosen = [p for p in roles["decoder"] if _has_ring(p)][:1]
        else:
            chosen = roles["worker"][:1] if what == "worker" else roles["worker"][1:2]
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                return True
        return False


def _has_ring(process: psutil.Process) -> bool:
    with suppress(OSError):
        return holds_shared_memory(process.pid)
    return False


def holds_shared_memory(pid: int) -> bool:
    """Whether a process has pages of a memfd, which in a decoder are its ring's. Raises OSError where it has ended.

    What is mapped is hidden from all but root, sizes are not.
    """
    size = Path(f"/proc/{pid}/status").read_text().partition("RssShmem:")[2].split()
    if not size:  # it has ended, and nobody has asked how
        raise ProcessLookupError(pid)
    return int(size[0]) > 0
