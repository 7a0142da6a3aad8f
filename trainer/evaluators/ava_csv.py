"""AVA's public files: ground truth, detections, exclusions, label map. Anyone's evaluator reads what is written here.

A row is ``video,timestamp,x1,y1,x2,y2,label,score``; ground truth has no score, and a person's number or nothing in its
place. The timestamp is whole seconds, written with four digits (for custom sets: the frame index, as it is). There is
no header; encodings, separators and blank lines are those of `trainer.data.csv_table`. Every reader raises a ValueError
that names the file and, where a line is to blame, the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from stmixer.trainer.data.csv_table import number, read_lines, whole
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_ACTION,
    UNKNOWN_TRACK,
    Detections,
    Floats,
    GroundTruth,
    Ints,
    Keyframes,
    Text,
)

Row = TypeVar("Row")
TruthRow = tuple[str, int, list[float], int, int]
DetectionRow = tuple[str, int, list[float], int, float]
_ENTRY = re.compile(r"item\s*\{(.*?)\}", re.DOTALL)
_NAME = re.compile(r"\bname\s*:\s*\"((?:[^\"\\]|\\.)*)\"")
_ID = re.compile(r"\b(?:id|label_id)\s*:\s*(\d+)")


def read_truth(path: Path) -> GroundTruth:
    """Ground truth rows: ``video,timestamp,x1,y1,x2,y2[,label[,person]]``.

    An empty or absent label is −1, an empty or absent person −1; rows with video and timestamp only (AVA-Kinetics:
    nobody is there) are left out.
    """
    rows = [row for row in _rows(path, _truth_row) if row is not None]
    if not rows:
        raise ValueError(f"{path}: no ground truth")
    video, frame, boxes = _pictures([(r[0], r[1]) for r in rows], [r[2] for r in rows])
    label, track = np.array([r[3] for r in rows]), np.array([r[4] for r in rows])
    return _named(path, lambda: GroundTruth(video, frame, boxes, label, track))


def read_detections(path: Path) -> Detections:
    """Detection rows; a missing score is 1, as in the public evaluators. An empty file is an empty table."""
    rows = _rows(path, _detection_row)
    video, frame, boxes = _pictures([(r[0], r[1]) for r in rows], [r[2] for r in rows])
    label, score = np.array([r[3] for r in rows], dtype=np.int64), np.array([r[4] for r in rows], dtype=np.float64)
    return _named(path, lambda: Detections(video, frame, boxes, label, score))


def read_excluded(path: Path) -> Keyframes:
    """The exclusion list, rows of ``video,timestamp``."""
    rows = _rows(path, lambda row: (row[0], _seconds(row[1])))
    return Keyframes(*_pictures(rows, [])[:2])


def read_label_map(path: Path) -> dict[int, str]:
    """Names by id from a ``.pbtxt`` of ``item { name: "…" id: 1 }`` (or ``label { … label_id: 1 }``), in file order."""
    text = path.read_text(encoding="utf-8")
    labels: dict[int, str] = {}
    for entry in _ENTRY.findall(re.sub(r"\blabel\s*\{", "item {", text)):
        name, number = _NAME.search(entry), _ID.search(entry)
        if name is None or number is None:
            raise ValueError(f"{path}: an item without name or id: {' '.join(entry.split())}")
        labels[int(number[1])] = re.sub(r"\\(.)", r"\1", name[1])
    if not labels:
        raise ValueError(f"{path}: no labels")
    return labels


def write_detections(path: Path, found: Detections) -> None:
    """Write detections; nine digits, so that float32 boxes and scores come back as they were."""
    last = [f"{s:.9g}" for s in found.score.tolist()]
    _write(path, found, [[str(c), s] for c, s in zip(found.label.tolist(), last, strict=True)])


def write_truth(path: Path, truth: GroundTruth) -> None:
    """Write ground truth with the person's number; an unknown action or person is left empty."""
    pairs = zip(truth.label.tolist(), truth.track.tolist(), strict=True)
    _write(
        path,
        truth,
        [["" if c == UNKNOWN_ACTION else str(c), "" if t == UNKNOWN_TRACK else str(t)] for c, t in pairs],
    )


def _write(path: Path, table: GroundTruth | Detections, ends: list[list[str]]) -> None:
    if table.unit != "normalised":
        raise ValueError("the public csv format holds normalised boxes; these are in pixels")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for video, frame, box, end in zip(
            table.video.tolist(), table.frame.tolist(), table.boxes.tolist(), ends, strict=True
        ):
            writer.writerow([video, f"{frame:04d}", *(f"{v:.9g}" for v in box), *end])


def _rows(path: Path, parse: Callable[[list[str]], Row]) -> list[Row]:
    parsed = []
    for line, row in read_lines(path):
        try:
            parsed.append(parse(row))
        except IndexError:
            raise ValueError(f"{path}, line {line}: a row has too few columns: {','.join(row)}") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}: {','.join(row)}") from error
    return parsed


def _truth_row(row: list[str]) -> TruthRow | None:
    second = _seconds(row[1])
    if not any(row[2:]):
        return None
    label = whole(row[6], "label") if len(row) > 6 and row[6] else UNKNOWN_ACTION
    track = whole(row[7], "person") if len(row) > 7 and row[7] else UNKNOWN_TRACK
    return row[0], second, _box(row), label, track


def _detection_row(row: list[str]) -> DetectionRow:
    score = number(row[7]) if len(row) > 7 else 1.0
    return row[0], _seconds(row[1]), _box(row), whole(row[6], "label"), score


def _box(row: list[str]) -> list[float]:
    if len(row) < 6:
        raise ValueError("a row has too few columns")
    return [number(v) for v in row[2:6]]


def _seconds(text: str) -> int:
    try:
        return whole(text, "timestamp")
    except ValueError:
        number(text)
        raise ValueError(f"the timestamp {text} is not a whole number") from None


def _pictures(rows: list[tuple[str, int]], boxes: list[list[float]]) -> tuple[Text, Ints, Floats]:
    video = np.array([r[0] for r in rows], dtype=np.str_)
    return video, np.array([r[1] for r in rows], dtype=np.int64), np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _named(path: Path, make: Callable[[], Row]) -> Row:
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
