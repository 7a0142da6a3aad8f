"""Tables of sets as csv, as editors, spreadsheets, shells and pandas write them; every fault with file and line.

UTF-8 with or without a byte order mark, UTF-16 and UTF-32; commas, semicolons (then perhaps with decimal commas) or
tabs; lines that end in any way. Blanks around values are no part of them, and lines without any value are passed over.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stmixer.trainer.errors import TrainError, reading

CORNERS = ("x1", "y1", "x2", "y2")

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32's before UTF-16's, which one of them begins with."""

_DELIMITERS = (",", ";", "\t")
_EXCEL_LINE = re.compile(r"sep=(.)\r?\n?")
"""A first line that tells Excel what separates values."""

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_MOST_WHOLE = 2**53 - 1
"""Up to here every whole number is one of float64's, and no other is rounded to it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table with a head: where it begins in the file, counted from 1, and its values by column."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def get(self, column: str) -> str:
        """The value, or nothing where the table has no such column."""
        return self.values.get(column, "")


def read_table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The lines after the head that hold anything.

    Raises:
        TrainError: no file, no csv, one without these columns, or lines with more values than the head has names.
    """
    lines = read_lines(path)
    names = lines[0][1] if lines else []
    missing = [column for column in columns if column not in names]
    if missing:
        raise TrainError(f"{path}: no column {', '.join(missing)}")
    if twice := [column for column in columns if names.count(column) > 1]:
        raise TrainError(f"{path}: column {', '.join(twice)} a second time")
    faults = [
        f"{path}:{line}: {len(cells)} values, but {len(names)} columns"
        for line, cells in lines[1:]
        if any(cells[len(names) :])
    ]
    if faults:
        raise TrainError(faults)
    return [
        Row(line, dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=False))) for line, cells in lines[1:]
    ]


def read_lines(path: Path, delimiter: str | None = None) -> list[tuple[int, list[str]]]:
    """Every line that holds anything: where it begins in the file, counted from 1, and its values.

    Args:
        path: the file.
        delimiter: between values; None for the one of comma, semicolon and tab that parts the first line most often.

    Raises:
        TrainError: a file that cannot be read, or is no csv.
    """
    text = _decoded(path)
    skipped = 0
    if match := _EXCEL_LINE.match(text):
        delimiter, text, skipped = delimiter or match[1], text[match.end() :], 1
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[tuple[int, list[str]]] = []
    line = 1 + skipped
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                lines.append((line, cells))
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise TrainError(f"{path}:{line}: no csv: {error}") from None
    return lines


def _decoded(path: Path) -> str:
    with reading(path):
        data = path.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:1024]:
        # text of Latin letters in UTF-16 without a mark: every second byte is 0
        encoding = "utf-16-le" if data[:1024:2].count(0) < data[1:1024:2].count(0) else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise TrainError(f"{path} is no text in {encoding.upper()}: {error.reason}") from None
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        byte = data[error.start]
        raise TrainError(f"{path}:{line}: byte 0x{byte:02X} is no UTF-8 (Latin-1?); save the file as UTF-8") from None


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip(" \t,;")), "")
    parts = {each: len(next(csv.reader([first], delimiter=each), [])) for each in _DELIMITERS}
    return max(_DELIMITERS, key=lambda each: parts[each])


def number(text: str) -> float:
    """A number, perhaps with a decimal comma. Raises ValueError for what is none."""
    try:
        return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def whole(text: str, what: str) -> int:
    """A whole number, perhaps written as ``12.0``. Raises ValueError that says what is none."""
    try:
        # "12,000" may be twelve thousand: of decimal commas at most two noughts are taken
        value = float(re.sub(r"(?<=\d),00?$", "", text))
    except ValueError:
        raise ValueError(f"{what} {text!r} is no whole number") from None
    if not float(value).is_integer() or abs(value) > _MOST_WHOLE:
        raise ValueError(f"{what} {text!r} is no whole number")
    return int(value)


def corners(row: Row) -> list[float]:
    """A row's box, x1, y1, x2, y2. Raises ValueError for what is no number."""
    return [number(row[corner]) for corner in CORNERS]


def yes(row: Row, column: str) -> bool:
    """A column of 0 and 1; without the column, or with nothing in it, 0. Raises ValueError for anything else."""
    value = row.get(column) or "0"
    meaning = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
    if value.lower() not in meaning:
        raise ValueError(f"{column} {value!r} is neither 0 nor 1")
    return meaning[value.lower()]


def outside(name: str) -> bool:
    """Whether a file's name leads out of the folder that it should be in, or is none."""
    return not name or Path(name).is_absolute() or ".." in Path(name).parts
