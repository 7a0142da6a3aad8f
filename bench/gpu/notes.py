"""What a step finds, written down as it is found: whoever ends it before its time has what it had so far."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A line of a step's table, as JSON has it."""


class Notes:
    """A file of rows, a line each, and how long the step may still take."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._until = path, time.monotonic() + seconds

    @property
    def folder(self) -> Path:
        """Where the day's rows lie, those of the steps before too."""
        return self._path.parent

    def add(self, **row: Any) -> None:
        """One more row, on the disk when this returns."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def left_s(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self._until - time.monotonic())


def without_places(value: Any) -> Any:
    """A JSON value with files of this machine by their last part."""
    match value:
        case str():
            return re.sub(r"(?<![\w.:/])(?:~|[A-Za-z]:)?/(?:[\w.+-]+/)+", "", value)
        case dict():
            return {key: without_places(part) for key, part in value.items()}
        case list() | tuple():
            return [without_places(part) for part in value]
    return value


def read_rows(path: Path) -> list[Row]:
    """What has been written; a line that was cut off is none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
