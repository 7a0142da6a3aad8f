"""Asks a service /healthz until its standard input ends, on a connection of its own each time; then says what it saw.

A process of its own, which does nothing else: what a question takes is the service's time, not that of whoever films,
or does harm, beside it. httpx would take 20 ms of CPU to begin with each.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE_S = 0.05
PATIENCE_S = 10.0


@contextmanager
def asking(url: str) -> Iterator[list[float]]:
    """Within: a process asks. Afterwards the list has seconds of each question, infinite where it was not answered."""
    taken: list[float] = []
    command, root = [sys.executable, "-m", "bench.asker", url], Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield taken
        taken += json.loads(process.communicate()[0])


def p99(taken: list[float]) -> float:
    """What 99 questions of a hundred were answered faster than."""
    return sorted(taken)[min(len(taken) - 1, round(0.99 * len(taken)))]


def ask(host: str, port: int) -> float:
    """Seconds that an answer took; infinite where there was none, or another one."""
    began, connection = time.monotonic(), http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        return time.monotonic() - began if answer.status == 200 else float("inf")
    except (OSError, http.client.HTTPException):
        return float("inf")
    finally:
        connection.close()


def main() -> None:
    """Ask until told to stop."""
    host, port = sys.argv[1].removeprefix("http://").split(":")
    stop, taken = threading.Event(), list[float]()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    print("begun", flush=True)
    while not stop.wait(PAUSE_S):
        taken.append(ask(host, int(port)))
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
