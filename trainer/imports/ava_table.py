"""Tables in AVA's form: ``video, second, x1, y1, x2, y2, label, person``, corners in shares, without a head.

Labels are numbers of a list (``.pbtxt``) or names. Without a list numbers are AVA's own. Seconds may have decimals;
what second a file begins with is said by ``start_s``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from stmixer.model.labels import AVA_LABELS
from stmixer.trainer.data.csv_table import number, read_lines
from stmixer.trainer.errors import TrainError, reading
from stmixer.trainer.evaluators.ava_csv import read_label_map
from stmixer.trainer.imports.export import SHARES, Corners, Export, Footage, LeftOut, SeenBox
from stmixer.trainer.imports.parts import of_a_part

_LISTS_SECONDS = "excluded"
_HEADS = ("video", "video_id", "video_name")


def is_ava(path: Path) -> bool:
    """Whether a table's first line with a box is of this form. Raises TrainError for what is no csv."""
    for _, row in read_lines(path)[:50]:
        if row[0].lower() in _HEADS or len(row) < 7 or not any(row[2:]):
            continue
        try:
            values = [number(cell) for cell in row[1:6]]
        except ValueError:
            return False
        return values[0] >= 0 and all(-0.01 <= value <= 1.01 for value in values[1:])
    return False


def read_ava_tables(paths: Iterable[Path], labels: Path | None, start_s: float) -> Export:
    """One or more tables, whose names may say the split.

    Args:
        labels: the list of labels; None: the one that lies beside the first table, where there is just one.
        start_s: the second that a video's file begins with.

    Raises:
        TrainError: a file that cannot be read as what it should be.
    """
    tables = sorted(paths)
    notes: list[str] = []
    names = _names(labels or _beside(tables[0]), notes)
    left_out = LeftOut()
    found: dict[tuple[str, str | None], Footage] = {}
    for path, part in of_a_part(tables, left_out):
        if _LISTS_SECONDS in path.stem:
            left_out.note("lists of seconds to leave out are not needed: what has no box is no keyframe", path.name)
        else:
            for line, row in read_lines(path):
                if row[0].lower() in _HEADS:
                    continue
                footage = found.setdefault((row[0], part), Footage(row[0], "video", part=part))
                _add(footage, row, names, start_s, left_out, f"{path.name}:{line}")
    return Export("AVA's csv", [one for one in found.values() if one.boxes], left_out, notes)


def _add(
    footage: Footage, row: list[str], names: Mapping[int, str], start_s: float, left_out: LeftOut, where: str
) -> None:
    if not any(row[2:]):
        left_out.note("lines say that nobody is annotated at a second", where)
        return
    try:
        second = number(row[1]) - start_s
        x1, y1, x2, y2 = (number(cell) for cell in row[2:6])
        said = row[6] if len(row) > 6 else ""
    except ValueError:
        left_out.note("lines are not video, second, x1, y1, x2, y2, label, person", where)
        return
    if said.isdecimal():
        if int(said) not in names:
            left_out.note("lines have a label that the list does not name", where)
            return
        said = names[int(said)]
    if not math.isfinite(second):
        left_out.note("lines have a second that is no number", where)
        return
    if second < 0:
        left_out.note("boxes are of a second before the file begins (--start-s)", where)
        return
    track = row[7] if len(row) > 7 and row[7] not in ("", "-1") else None
    corners: Corners = (x1, y1, x2, y2)
    footage.boxes.append(SeenBox(corners, said, size_wh=SHARES, second=second, track=track))


def _beside(table: Path) -> Path | None:
    found = sorted(table.parent.glob("*.pbtxt"))
    return found[0] if len(found) == 1 else None


def _names(path: Path | None, notes: list[str]) -> dict[int, str]:
    """Raises TrainError."""
    if path is None:
        notes.append("no list of labels is named (--labels FILE.pbtxt) or lies beside the table: numbers are AVA's")
        return {label.id: label.name for label in AVA_LABELS}
    with reading(path):
        try:
            return read_label_map(path)
        except ValueError as error:
            raise TrainError(str(error)) from None
