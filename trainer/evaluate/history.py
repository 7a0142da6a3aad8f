"""How a run's loss and figures went, from the tables that it wrote (trainer.training.run_folder)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Points = list[tuple[float, float]]
"""(step, value), steps rising."""

_LOSS, _MAP = "train/loss", "/frame_map"


@dataclass(frozen=True, slots=True)
class History:
    """The loss of steps, and the mAP of each set, 0..1, after which step."""

    loss: Points = field(default_factory=list)
    maps: Mapping[str, Points] = field(default_factory=dict)


def read_history(run: Path) -> History | None:
    """That of the run whose folder this is; None of a folder that is none, or has not logged anything.

    What a start repeats of the one before, since that was cut off, counts as the later start has it.
    """
    loss: dict[int, float] = {}
    maps: dict[str, dict[int, float]] = {}
    for path in sorted(run.glob("metrics/start_*/metrics.csv"), key=_start):
        for row in _rows(path):
            step = _number(row.get("step"))
            if step is None:
                continue
            for column, text in row.items():
                value = _number(text)
                if value is not None and column == _LOSS:
                    loss[int(step)] = value
                elif value is not None and column is not None and column.endswith(_MAP):
                    maps.setdefault(column.removesuffix(_MAP), {})[int(step)] = value
    if not loss and not maps:
        return None
    return History(_points(loss), {name: _points(values) for name, values in maps.items()})


def _start(path: Path) -> int:
    number = path.parent.name.removeprefix("start_")
    return int(number) if number.isdecimal() else 0


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    """Of a table that may be being written."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error):
        return


def _number(text: object) -> float | None:
    try:
        value = float(text) if isinstance(text, str) and text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _points(values: Mapping[int, float]) -> Points:
    return [(float(step), values[step]) for step in sorted(values)]
