"""Validation videos of custom sets keyframe by keyframe: who is there by their tables, and whom a detector finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.found_people import Found, place
from stmixer.trainer.data.csv_table import CORNERS, Row, read_table

Floats = NDArray[np.float64]
RATES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Keyframe:
    """``annotated``: somebody has said who is there; else a tracker sees it, and nobody is judged by it.

    ``true_boxes``, ``boxes``: (n, 4) and (m, 4) corners, px of a picture ``height`` px high. ``scores`` (m, labels).
    ``looks`` (m, 2D), None where no detector found them.
    """

    at_s: float
    frame: int
    height: float
    annotated: bool
    warming: bool
    true_ids: tuple[int, ...]
    true_boxes: Floats
    boxes: Floats
    person_scores: Floats
    scores: Floats
    looks: Floats | None = None


@dataclass(frozen=True)
class TrackedVideo:
    """A video's keyframes in order. ``size``: its width and height, px."""

    name: str
    size: tuple[int, int]
    keyframes: tuple[Keyframe, ...]


@dataclass(frozen=True)
class Annotation:
    """A row of boxes.csv: a person and one label of theirs, corners as shares."""

    video: str
    frame: int
    box: tuple[float, ...]
    label: str
    track: int


def validation(data: Path, name: str) -> tuple[list[Row], list[Annotation]]:
    """A set's validation videos, and what its tables say of them."""
    videos = [r for r in read_table(data / name / "videos.csv", ("video", "split", "fps")) if r["split"] == "val"]
    names = {row["video"] for row in videos}
    rows = [
        Annotation(
            row["video"], int(row["frame"]), tuple(float(row[c]) for c in CORNERS), row["label"], int(row["track"])
        )
        for row in read_table(data / name / "boxes.csv", ("video", "frame", *CORNERS, "label", "track"))
        if row["video"] in names
    ]
    return videos, rows


def with_found_people(data: Path, found: Path, name: str, hz: int, least_score: float) -> list[TrackedVideo]:
    """A set with what ``bench.found_people`` has kept of it, people from a person score on."""
    videos, rows = validation(data, name)
    truth = _by_frame(rows)
    kept_hz, step = (1, 1) if hz == 1 else (8, 8 // hz)
    result = []
    for row in videos:
        stored = Found.read(place(found, name, row["video"], kept_hz))
        size, fps = _size(row), float(row["fps"])
        keyframes = []
        for k in range(0, len(stored.pts_us), step):
            rows_of = (stored.keyframe == k) & (stored.person_scores >= least_score)
            at_s = float(stored.pts_us[k]) / 1e6
            frame = round(at_s * fps)
            there = truth.get((row["video"], frame), {})
            keyframes.append(
                Keyframe(
                    at_s, frame, size[1], bool(there), bool(stored.warming[k]), tuple(there), _px(there, size),
                    stored.boxes[rows_of] * (size * 2), stored.person_scores[rows_of],
                    stored.scores[rows_of].astype(np.float64), stored.looks[rows_of].astype(np.float64),
                )
            )  # fmt: skip
        result.append(TrackedVideo(row["video"], size, tuple(keyframes)))
    return result


def with_true_boxes(data: Path, name: str, hz: int) -> list[TrackedVideo]:
    """A set whose detector sees what people have drawn: how well those are told apart, and nothing else."""
    videos, rows = validation(data, name)
    truth = _by_frame(rows)
    result = []
    for row in videos:
        size, fps = _size(row), float(row["fps"])
        keyframes = []
        for k in range(int((int(row["frames"]) - 1) / fps * hz) + 1):
            there = truth.get((row["video"], round(k / hz * fps)), {})
            boxes, sure = _px(there, size), np.ones(len(there))
            keyframes.append(
                Keyframe(
                    k / hz, round(k / hz * fps), size[1], True, False, tuple(there), boxes, boxes, sure,
                    np.zeros((len(there), 0)),
                )
            )  # fmt: skip
        result.append(TrackedVideo(row["video"], size, tuple(keyframes)))
    return result


def _size(row: Row) -> tuple[int, int]:
    return int(row["width"]), int(row["height"])


def _px(there: dict[int, tuple[float, ...]], size: tuple[int, int]) -> Floats:
    return np.array(list(there.values()), np.float64).reshape(-1, 4) * (size * 2)


def _by_frame(rows: list[Annotation]) -> dict[tuple[str, int], dict[int, tuple[float, ...]]]:
    """Of each picture its people's boxes by track."""
    found: dict[tuple[str, int], dict[int, tuple[float, ...]]] = {}
    for row in rows:
        found.setdefault((row.video, row.frame), {})[row.track] = row.box
    return found
