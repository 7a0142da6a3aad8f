"""Steps one after another, each a process of its own with a limit: none costs the others their results.

What came of each is written before the next begins, so that a day which is cut off is gone on with.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bench.gpu.notes import Row, read_rows

SOFT = 0.85
"""A step is told to be content with what it has after this part of its limit."""
LEAST_S = 5.0
"""A step is not begun with less time than this."""
MAX_SAID = 2000
"""Characters of a step's last words that are kept."""

Ended = Literal["done", "failed", "killed", "no time"]


@dataclass(frozen=True, slots=True)
class Step:
    """``seconds``: it is killed after them. ``rest``: it is for the time that the others leave."""

    name: str
    what: str
    seconds: float
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended, after how many seconds, the rows that it had by then, and its last words."""

    step: str
    ended: Ended
    seconds: float
    rows: list[Row]
    said: str


class Day:
    """``folder`` has a step's rows (NAME.jsonl), its words (NAME.log), and ``outcomes.json``.

    ``command``: a step and its soft limit, in seconds -> what runs it. ``write``: told of all outcomes after each step,
    and of that step's.
    """

    def __init__(
        self,
        folder: Path,
        steps: Sequence[Step],
        command: Callable[[Step, float], Sequence[str]],
        write: Callable[[Sequence[Outcome], Outcome], None] = lambda *_: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._steps, self._command, self._write = folder, steps, command, write
        self._environment = {**os.environ, **(environment or {})}
        self._kept = folder / "outcomes.json"

    def run(self, seconds: float, again: Collection[str] = ()) -> list[Outcome]:
        """All that have not been done before, and those named ``again``, within so many seconds."""
        until = time.monotonic() + seconds
        self._folder.mkdir(parents=True, exist_ok=True)
        before = {name: outcome for name, outcome in self.outcomes().items() if outcome.ended == "done"}
        found = {step.name: before[step.name] for step in self._steps if step.name in before.keys() - set(again)}
        for step in self._steps:
            if step.name in found:
                continue
            limit = min(step.seconds, until - time.monotonic())
            found[step.name] = Outcome(step.name, "no time", 0.0, [], "") if limit < LEAST_S else self._run(step, limit)
            in_order = [found[one.name] for one in self._steps if one.name in found]
            self._kept.write_text(json.dumps([asdict(outcome) for outcome in in_order], indent=1))
            self._write(in_order, found[step.name])
        return [found[step.name] for step in self._steps]

    def outcomes(self) -> dict[str, Outcome]:
        """What an earlier run has left, by step; nothing where it is not what we write."""
        try:
            return {one["step"]: Outcome(**one) for one in json.loads(self._kept.read_text())}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def _run(self, step: Step, limit: float) -> Outcome:
        rows, log = self._folder / f"{step.name}.jsonl", self._folder / f"{step.name}.log"
        rows.unlink(missing_ok=True)
        began = time.monotonic()
        with log.open("wb") as words:
            process = subprocess.Popen(
                self._command(step, SOFT * limit),
                stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, env=self._environment,
                start_new_session=True,
            )  # fmt: skip
            ended: Ended = "killed"
            try:
                ended = "done" if process.wait(limit) == 0 else "failed"
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):  # it, or what it has left behind
                    os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # a driver that hangs keeps a process from ending
                process.wait(LEAST_S)
        said = "" if ended == "done" else log.read_text(errors="replace")[-MAX_SAID:]
        return Outcome(step.name, ended, round(time.monotonic() - began, 1), read_rows(rows), said)
