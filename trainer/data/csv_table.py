"""Tables of sets as csv: rows by their columns' names, and every fault with file and line."""

from __future__ import annotations

import csv
from pathlib import Path

from stmixer.trainer.errors import TrainError, reading

CORNERS = ("x1", "y1", "x2", "y2")

Row = dict[str, str]


def read_table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """A row per line after the head, which is line 1; blanks after commas are not part of values.

    Raises:
        TrainError: no file, no csv in UTF-8, or one without these columns.
    """
    try:
        with reading(path), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise TrainError(f"{path}: no column {', '.join(missing)}")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainError(f"{path} is no csv in UTF-8: {error}") from None


def corners(row: Row) -> list[float]:
    """A row's box, x1, y1, x2, y2. Raises ValueError for what is no number."""
    return [float(row[corner]) for corner in CORNERS]


def yes(row: Row, column: str) -> bool:
    """A column of 0 and 1; without the column, or with nothing in it, 0. Raises ValueError for anything else."""
    value = row.get(column) or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{column} {value!r} is neither 0 nor 1")
    return value == "1"


def outside(name: str) -> bool:
    """Whether a file's name leads out of the folder that it should be in, or is none."""
    return not name or Path(name).is_absolute() or ".." in Path(name).parts
