"""A plugin of pytest: each test as it begins and ends, written down at once; the process may not live to the end.

    GPU_CHECKS_ROWS=rows.jsonl python -m pytest -p bench.gpu.told ...

A test that leaves CUDA broken ends the process: those that follow are run by another one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.gpu.checks import ROWS, write

MAX_WHY = 400
BROKEN = "CUDA error"
"""After such an error nothing of that process works on the GPU any more."""


class Told:
    """What is noted of one session."""

    def __init__(self, path: Path) -> None:
        self._path, self._broken = path, False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        write(self._path, test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of it is over: told are a call, and what was skipped or failed around it."""
        if report.when == "call" or report.outcome != "passed":
            text = report.longreprtext if report.failed else report.longrepr[-1] if report.skipped else ""
            self._broken |= BROKEN in text
            seconds = round(report.duration, 2)
            write(self._path, test=report.nodeid, ended=report.outcome, seconds=seconds, why=text[-MAX_WHY:])

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It is over."""
        if self._broken:
            pytest.exit("CUDA is broken in this process", returncode=3)


def pytest_configure(config: pytest.Config) -> None:
    """Where nobody asks, nothing is noted."""
    if ROWS in os.environ:
        config.pluginmanager.register(Told(Path(os.environ[ROWS])))
