"""The one input form of all evaluators: tables of arrays, a row per box and label.

``video`` and ``frame`` name a picture. ``frame`` is a whole number: the 0-based frame index for custom sets, JHMDB and
UCF101-24; for AVA the **timestamp in seconds** as the csv gives it (0902 → 902). Labels are ids; their names are a
plain ``Mapping[int, str]`` (id → name) that is passed beside the tables and is also the list of allowed ids.

A person with several labels has several rows with the same box, as in AVA. Persons are told apart by
(video, frame, box, track).

Boxes are x1, y1, x2, y2 in one of two units, which the table names:

- ``normalised``: 0–1 of the picture's width and height; area is (x2 − x1)(y2 − y1). AVA and custom sets.
- ``pixels``: inclusive corners, so that area is (x2 − x1 + 1)(y2 − y1 + 1). JHMDB and UCF101-24.

Every table checks itself when made and raises a ValueError that names the first bad row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Text = NDArray[np.str_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Unit = Literal["normalised", "pixels"]

UNKNOWN_ACTION = -1
UNKNOWN_TRACK = -1
HEIGHT_AT = 224
"""Short side, px, at which heights of people are told."""
_SLACK = 1e-6  # float32 boxes divided by the width may exceed 1 by a rounding


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows that name pictures.

    Attributes:
        video: (n,) str.
        frame: (n,) int64.
    """

    video: Text
    frame: Ints

    def __post_init__(self) -> None:
        wanted: dict[str, type[np.generic]] = {"video": np.str_, "frame": np.int64, "label": np.int64}
        wanted |= {"track": np.int64, "tube": np.int64, "score": np.float64, "boxes": np.float64}
        if isinstance(self, GroundTruth):
            optional: dict[str, type[np.generic]] = {"height_px": np.float64, "posture": np.str_}
            wanted |= {name: kind for name, kind in optional.items() if getattr(self, name) is not None}
        for field in fields(self):
            if field.name in wanted:
                column = np.asarray(getattr(self, field.name))
                if field.name == "boxes" and column.size == 0:
                    column = column.reshape(0, 4)
                object.__setattr__(self, field.name, _cast(column, wanted[field.name], field.name))
        rows = len(self)
        for field in fields(self):
            shape = (rows, 4) if field.name == "boxes" else (rows,)
            if field.name in wanted and getattr(self, field.name).shape != shape:
                raise ValueError(
                    f"{type(self).__name__}.{field.name} has shape {getattr(self, field.name).shape}, not {shape}"
                )
        if isinstance(self, GroundTruth | IgnoreAreas | Detections | PersonDetections | Tubes):
            _check_boxes(self)
        if isinstance(self, Detections | PersonDetections | Tubes):
            _check_scores(self, self.score)

    def __len__(self) -> int:
        return int(self.video.shape[0])

    def take(self, rows: Mask | Ints) -> Self:
        """The rows that a mask or an index array chooses, in its order."""
        wanted = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v[rows] for name, v in wanted.items() if isinstance(v, np.ndarray)})


@dataclass(frozen=True, slots=True, eq=False)
class Keyframes(_Table):
    """The pictures that an evaluation looks at; the order and repeats do not matter.

    Needed where pictures without any row count: false people on empty pictures. An evaluator without it takes the
    pictures that the ground truth names.
    """


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth(_Table):
    """What people (or a detector, for pseudo sets) say is there.

    Attributes:
        boxes: (n, 4) float64 xyxy in ``unit``.
        label: (n,) int64 label id; −1 (``UNKNOWN_ACTION``) is a person whose action is not annotated.
        track: (n,) int64, the person's number within the video; −1 where unknown.
        unit: of ``boxes``.
        height_px: (n,) float64, the person's height in px of the picture at a short side of ``HEIGHT_AT`` (of who is
            said to lie, and of all in turned pictures, the longer side); NaN where unknown; None where it is not told.
        posture: (n,) str; empty where unknown; None where the set says it of nobody.
    """

    boxes: Floats
    label: Ints
    track: Ints
    unit: Unit = "normalised"
    height_px: Floats | None = None
    posture: Text | None = None


@dataclass(frozen=True, slots=True, eq=False)
class IgnoreAreas(_Table):
    """Areas of pictures in which somebody may be whom nobody annotated, a row each: a crowd, a reflection.

    Attributes:
        boxes: (n, 4) float64 xyxy in ``unit``.
        unit: of ``boxes``.
    """

    boxes: Floats
    unit: Unit = "normalised"


@dataclass(frozen=True, slots=True, eq=False)
class Detections(_Table):
    """Action detections: a row per (person, label).

    Attributes:
        boxes: (n, 4) float64 xyxy in ``unit``.
        label: (n,) int64 label id, never −1.
        score: (n,) float64, finite; probabilities where a reliability diagram is wanted.
        unit: of ``boxes``.
    """

    boxes: Floats
    label: Ints
    score: Floats
    unit: Unit = "normalised"


@dataclass(frozen=True, slots=True, eq=False)
class PersonDetections(_Table):
    """Person detections: a row per box, without label.

    Attributes:
        boxes: (n, 4) float64 xyxy in ``unit``.
        score: (n,) float64, finite: the person score.
        unit: of ``boxes``.
    """

    boxes: Floats
    score: Floats
    unit: Unit = "normalised"


@dataclass(frozen=True, slots=True, eq=False)
class Tubes(_Table):
    """Detected tubes, a row per box.

    Attributes:
        label: (n,) int64 label id.
        tube: (n,) int64, the tube's number, unique within (video, label).
        score: (n,) float64, the tube's score, the same on all its rows.
        boxes: (n, 4) float64 xyxy in ``unit``; at most one per tube and frame.
        unit: of ``boxes``.
    """

    label: Ints
    tube: Ints
    score: Floats
    boxes: Floats
    unit: Unit = "normalised"


def check_labels(table: GroundTruth | Detections | Tubes, labels: Mapping[int, str]) -> None:
    """A ValueError if a row's label is not in the list (−1 is allowed in ground truth only)."""
    allowed = list(labels) + ([UNKNOWN_ACTION] if isinstance(table, GroundTruth) else [])
    bad = ~np.isin(table.label, np.array(allowed, dtype=np.int64))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{_where(table, row)}: label {table.label[row]} is not in the label list")


def check_pair(truth: GroundTruth, found: Detections | PersonDetections | Tubes) -> None:
    """A ValueError if the split is empty or the two tables' boxes are of different units."""
    if len(truth) == 0:
        raise ValueError("the split is empty: there is no ground truth to evaluate against")
    if truth.unit != found.unit:
        raise ValueError(f"ground truth boxes are {truth.unit}, detected ones {found.unit}")


def keys(*tables: _Table) -> list[Ints]:
    """A number per (video, frame), the same in all tables, for fast grouping.

    Returns:
        An (n,) int64 array per table; numbers rise with video (as text), then frame.
    """
    video = codes(*(t.video for t in tables))
    frame = codes(*(t.frame for t in tables))
    wide = 1 + max((int(f.max()) for f in frame if f.size), default=0)
    return [v * wide + f for v, f in zip(video, frame, strict=True)]


def codes(*columns: Text | Ints) -> list[Ints]:
    """Each value's rank among the distinct values of all columns together."""
    whole = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
    ranks = np.unique(whole, return_inverse=True)[1].astype(np.int64)
    ends = np.cumsum([len(c) for c in columns])[:-1]
    return list(np.split(ranks, ends))


def _cast(column: NDArray[np.generic], kind: type[np.generic], name: str) -> NDArray[np.generic]:
    cast = column.astype(kind, copy=False)
    if kind is np.int64 and column.dtype.kind == "f" and (cast != column).any():
        raise ValueError(f"{name} has a value that is not a whole number")
    return cast


def _where(table: _Table, row: int) -> str:
    return f"{type(table).__name__} row {row} ({table.video[row]}, frame {table.frame[row]})"


def _check_boxes(table: GroundTruth | IgnoreAreas | Detections | PersonDetections | Tubes) -> None:
    boxes = table.boxes
    if table.unit not in ("normalised", "pixels"):
        raise ValueError(f"unit {table.unit!r} is neither 'normalised' nor 'pixels'")
    faults = {
        "is not finite": ~np.isfinite(boxes).all(1),
        "has x2 < x1 or y2 < y1": (boxes[:, 2:] < boxes[:, :2]).any(1),
    }
    if table.unit == "normalised":
        faults["lies outside 0–1"] = (boxes < -_SLACK).any(1) | (boxes > 1 + _SLACK).any(1)
    for fault, bad in faults.items():
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"{_where(table, row)}: box {boxes[row].tolist()} {fault}")


def _check_scores(table: _Table, score: Floats) -> None:
    bad = ~np.isfinite(score)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{_where(table, row)}: score {score[row]} is not a number")
