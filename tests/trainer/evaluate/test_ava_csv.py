"""The public csv format: round trips, odd rows, and errors with a line number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stmixer.trainer.evaluators.ava_csv import (
    read_detections,
    read_excluded,
    read_label_map,
    read_truth,
    write_detections,
    write_truth,
)
from stmixer.trainer.evaluators.tables import Detections, GroundTruth


def test_detections_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low = rng.random((50, 2), dtype=np.float32) / 2
    written = Detections(
        np.array(["a,b", 'say "x"'] * 25),
        rng.integers(0, 2000, 50),
        np.hstack([low, low + rng.random((50, 2), dtype=np.float32) / 2]),
        rng.integers(1, 81, 50),
        rng.random(50, dtype=np.float32),
    )
    write_detections(tmp_path / "found.csv", written)
    back = read_detections(tmp_path / "found.csv")
    assert back.video.tolist() == written.video.tolist()
    assert back.frame.tolist() == written.frame.tolist()
    assert back.label.tolist() == written.label.tolist()
    assert (back.boxes.astype(np.float32) == written.boxes.astype(np.float32)).all()
    assert (back.score.astype(np.float32) == written.score.astype(np.float32)).all()


def test_the_public_form(tmp_path: Path, found_of: Callable[..., Detections]) -> None:
    write_detections(tmp_path / "found.csv", found_of([("v", 902, (0.1, 0.2, 0.3, 0.4), 12, 0.5)]))
    assert (tmp_path / "found.csv").read_text() == "v,0902,0.1,0.2,0.3,0.4,12,0.5\n"
    with pytest.raises(ValueError, match="normalised"):
        write_detections(tmp_path / "found.csv", found_of([("v", 1, (1, 2, 3, 4), 1, 0.5)], "pixels"))


def test_truth_round_trip(tmp_path: Path, truth_of: Callable[..., GroundTruth]) -> None:
    box = (0.1, 0.2, 0.3, 0.4)
    write_truth(tmp_path / "gt.csv", truth_of([("v", 5, box, 1, 7), ("v", 5, box, -1, -1)]))
    back = read_truth(tmp_path / "gt.csv")
    assert (back.label.tolist(), back.track.tolist()) == ([1, -1], [7, -1])


def test_odd_rows(tmp_path: Path) -> None:
    (tmp_path / "gt.csv").write_text(
        "v,0902,,,,,,\nv,0903\nv,0904,0,0,1,1,5\n\nv,0905.0,0,0,1,1,6,2\nv,0906,0,0,1,1,,3\n"
    )
    truth = read_truth(tmp_path / "gt.csv")
    assert truth.frame.tolist() == [904, 905, 906]
    assert truth.label.tolist() == [5, 6, -1]
    (tmp_path / "found.csv").write_text("v,0902,0,0,1,1,5\n")
    assert read_detections(tmp_path / "found.csv").score.tolist() == [1.0]
    (tmp_path / "none.csv").write_text("")
    assert len(read_detections(tmp_path / "none.csv")) == 0
    assert len(read_excluded(tmp_path / "none.csv")) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v,0902,0,0,1,1,5,0.5\nv,0902,0,0,1,x,5,0.5\n", "found.csv, line 2"),
        ("v,0902,0,0,1,1,5,high\n", "found.csv, line 1"),
        ("v,0902,0,0,1\n", "line 1: a row has too few columns"),
        ('item {\n  name: "stand"\n', "line 1: a row has too few columns: item {"),
        ("v,0902,0,0,1,1,1\nv,0902,0,0,1,1\n", "line 2: a row has too few columns"),
        ("v,0902.5,0,0,1,1,5,0.5\n", "the timestamp 0902.5 is not a whole number"),
        ("v,0902,0,0,1,2,5,0.5\n", r"found.csv: Detections row 0 .*outside 0–1"),
        ("v,0902,0,0,1,1,5,nan\n", "found.csv: .*score nan is not a number"),
    ],
)
def test_bad_detections(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_detections(tmp_path / "found.csv")


def test_bad_truth_and_label_map(tmp_path: Path) -> None:
    (tmp_path / "gt.csv").write_text("")
    with pytest.raises(ValueError, match=r"gt\.csv: no ground truth"):
        read_truth(tmp_path / "gt.csv")
    for text, says in (("", "no labels"), ('item { name: "x" }', "without name or id")):
        (tmp_path / "map.pbtxt").write_text(text)
        with pytest.raises(ValueError, match=says):
            read_label_map(tmp_path / "map.pbtxt")


def test_label_map_forms(tmp_path: Path) -> None:
    (tmp_path / "map.pbtxt").write_text('item {\n  name: "a \\"b\\""\n  id: 3\n}\nlabel { name: "c" label_id: 1 }\n')
    assert read_label_map(tmp_path / "map.pbtxt") == {3: 'a "b"', 1: "c"}
