"""What somebody who teaches is told: a plain line for each phase and how long it will take, or the same as JSON Lines.

Each JSON line is an object with ``state``: ``start``, ``progress`` (``done``, ``total``, ``left_s``: seconds, null
until they can be told) and ``end`` of a ``phase``; ``note``; at last ``done`` (``weights``, ``figures``, ``next``),
``failed`` or ``stopped``. ``says`` is what a person would read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Values = Mapping[str, object]


class Teller:
    """Tells what happens, in words on a terminal's or a file's lines.

    Args:
        out: where to; default: stdout.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self.phase = ""
        self._console = Console(file=self._out, highlight=False, soft_wrap=True)
        self._bar: tuple[Progress, TaskID] | None = None

    @contextmanager
    def doing(self, phase: str, says: str) -> Iterator[None]:
        """A phase, from its beginning to its end or to what ends it."""
        self.phase = phase
        self._start(phase, says)
        try:
            yield
        finally:
            self._stop()

    def next(self, phase: str, says: str) -> None:
        """The phase is over, and another one begins that ends with it."""
        self._stop()
        self.phase = phase
        self._start(phase, says)

    def progress(self, done: int, total: int) -> None:
        """How far the phase has come."""
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=done, total=total)

    def done(self, says: str) -> None:
        """What came of the phase."""
        self._line(f"{self.phase:<10}{says}")

    def note(self, says: str) -> None:
        """What somebody should know besides."""
        self._line(f"  {says}")

    def ended(self, state: str, says: str, values: Values | None = None) -> None:
        """The last words: ``done``, or ``failed`` and ``stopped``, which go to stderr."""
        if state == "done":
            self._line(says)
        else:
            print(*(f"stmixer: {_sayable(line)}" for line in says.splitlines()), sep="\n", file=sys.stderr)

    def _start(self, phase: str, says: str) -> None:
        if self._console.is_terminal:
            columns = (
                TextColumn(f"{phase:<10}{{task.description}}"),
                BarColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            bar = Progress(*columns, console=self._console, transient=True)
            self._bar = (bar, bar.add_task(says, total=None))
            bar.start()
        else:
            self._line(f"{phase:<10}{says} ...")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def _line(self, text: str) -> None:
        self._console.print(_sayable(text), markup=False)


def _sayable(text: str) -> str:
    """Without what no terminal takes: bytes of file names that are no UTF-8."""
    return text.encode(errors="replace").decode()


class JsonTeller(Teller):
    """... as JSON Lines.

    Args:
        clock: seconds, by which the time left is told.
    """

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out)
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def _start(self, phase: str, says: str) -> None:
        self._first = None
        self._send("start", says, {"phase": phase})

    def progress(self, done: int, total: int) -> None:
        """As a Teller's."""
        now = self._clock()
        first, began = self._first = self._first or (done, now)
        left = (now - began) / (done - first) * (total - done) if done > first else None
        values = {"phase": self.phase, "done": done, "total": total}
        self._send("progress", "", values | {"left_s": None if left is None else round(left, 1)})

    def done(self, says: str) -> None:
        """As a Teller's."""
        self._send("end", says, {"phase": self.phase})

    def note(self, says: str) -> None:
        """As a Teller's."""
        self._send("note", says, {"phase": self.phase})

    def ended(self, state: str, says: str, values: Values | None = None) -> None:
        """As a Teller's."""
        self._send(state, says, {"phase": self.phase} | dict(values or {}))

    def _send(self, state: str, says: str, values: Values) -> None:
        print(json.dumps({"state": state, **values, "says": says}), file=self._out, flush=True)
