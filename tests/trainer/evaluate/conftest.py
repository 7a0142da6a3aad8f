"""Small tables from short rows, and the reference data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stmixer.trainer.evaluators.tables import Detections, GroundTruth, PersonDetections, Tubes, Unit

REFERENCE = Path(__file__).resolve().parents[2] / "reference"
Box = tuple[float, float, float, float]
# Two boxes far apart, and one that overlaps A by 0.8 (normalised).
A: Box = (0.0, 0.0, 0.2, 0.5)
B: Box = (0.5, 0.0, 0.7, 0.5)
NEAR_A: Box = (0.0, 0.0, 0.2, 0.4)


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[np.ndarray]:
    return [np.array([row[at] for row in rows]) for at in range(width)]


def make_truth(rows: Sequence[tuple[str, int, Box, int, int]], unit: Unit = "normalised") -> GroundTruth:
    """Rows of video, frame, box, label, track."""
    return GroundTruth(*_columns(rows, 5), unit=unit)


def make_found(rows: Sequence[tuple[str, int, Box, int, float]], unit: Unit = "normalised") -> Detections:
    """Rows of video, frame, box, label, score."""
    return Detections(*_columns(rows, 5), unit=unit)


def make_people(rows: Sequence[tuple[str, int, Box, float]]) -> PersonDetections:
    """Rows of video, frame, box, score."""
    return PersonDetections(*_columns(rows, 4))


@pytest.fixture(scope="session")
def truth_of() -> Callable[..., GroundTruth]:
    return make_truth


@pytest.fixture(scope="session")
def found_of() -> Callable[..., Detections]:
    return make_found


@pytest.fixture(scope="session")
def people_of() -> Callable[..., PersonDetections]:
    return make_people


@pytest.fixture(scope="session")
def boxes() -> tuple[Box, Box, Box]:
    """A, B and one near A."""
    return A, B, NEAR_A


@pytest.fixture(scope="session")
def ava_folder() -> Path:
    return REFERENCE / "ava_eval"


class TubeReference:
    """tests/reference/tube_eval as tables."""

    def __init__(self) -> None:
        folder = REFERENCE / "tube_eval"
        self.expected = json.loads((folder / "expected.json").read_text())
        truth, found, tubes = (
            list(csv.DictReader((folder / name).read_text().splitlines()))
            for name in ("gt_tubes.csv", "frame_detections.csv", "tubes.csv")
        )
        names = sorted({row["label"] for row in truth})
        self.labels = dict(enumerate(names))
        ids = {name: at for at, name in self.labels.items()}

        def column(rows: list[dict[str, str]], key: str, kind: Callable[[str], object] = float) -> np.ndarray:
            return np.array([kind(row[key]) for row in rows])

        def common(rows: list[dict[str, str]]) -> dict[str, Any]:
            return {
                "video": column(rows, "video", str),
                "frame": column(rows, "frame", int),
                "boxes": np.stack([column(rows, key) for key in ("x1", "y1", "x2", "y2")], axis=1),
                "label": column(rows, "label", ids.__getitem__),
                "unit": "pixels",
            }

        self.truth = GroundTruth(track=column(truth, "tube", int), **common(truth))
        self.found = Detections(score=column(found, "score"), **common(found))
        self.tubes = Tubes(tube=column(tubes, "tube", int), score=column(tubes, "score"), **common(tubes))


@pytest.fixture(scope="session")
def tube_reference() -> TubeReference:
    return TubeReference()
