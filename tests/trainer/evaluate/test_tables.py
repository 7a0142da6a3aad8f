"""Tables refuse what no evaluator could judge, and name the row."""

from __future__ import annotations

import numpy as np
import pytest

from stmixer.trainer.evaluators.tables import (
    Detections,
    GroundTruth,
    Keyframes,
    PersonDetections,
    Tubes,
    check_labels,
    check_pair,
    codes,
    keys,
)

GOOD = (0.1, 0.1, 0.5, 0.5)


def _found(box: tuple[float, ...] = GOOD, score: float = 0.5, label: int = 1, unit: str = "normalised") -> Detections:
    return Detections(*(np.array([v]) for v in ("v", 3, box, label, score)), unit=unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((0.1, 0.1, 1.2, 0.5), "outside 0–1"),
        ((-0.1, 0.1, 0.2, 0.5), "outside 0–1"),
        ((0.5, 0.1, 0.4, 0.5), "x2 < x1"),
        ((0.1, 0.6, 0.4, 0.5), "y2 < y1"),
        ((0.1, float("nan"), 0.4, 0.5), "not finite"),
    ],
)
def test_bad_boxes(box: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=rf"row 0 \(v, frame 3\).*{says}"):
        _found(box)


def test_pixels_may_exceed_one_and_a_rounding_error_may_pass() -> None:
    assert _found((10, 20, 300, 200), unit="pixels").boxes[0, 2] == 300
    assert len(_found((0.0, 0.0, 1.0000001, 1.0))) == 1
    with pytest.raises(ValueError, match="neither 'normalised' nor 'pixels'"):
        _found(unit="metres")


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_bad_scores(score: float) -> None:
    with pytest.raises(ValueError, match=r"score (nan|inf) is not a number"):
        _found(score=score)
    with pytest.raises(ValueError, match="is not a number"):
        PersonDetections(np.array(["v"]), np.array([0]), np.array([GOOD]), np.array([score]))


def test_bad_shapes_and_fractions() -> None:
    with pytest.raises(ValueError, match=r"Detections.label has shape \(2,\), not \(1,\)"):
        Detections(np.array(["v"]), np.array([0]), np.array([GOOD]), np.array([1, 2]), np.array([0.5]))
    with pytest.raises(ValueError, match=r"boxes has shape \(1, 3\)"):
        Detections(np.array(["v"]), np.array([0]), np.array([GOOD[:3]]), np.array([1]), np.array([0.5]))
    with pytest.raises(ValueError, match="frame has a value that is not a whole number"):
        Keyframes(np.array(["v"]), np.array([2.5]))


def test_labels_outside_the_list() -> None:
    with pytest.raises(ValueError, match="label 7 is not in the label list"):
        check_labels(_found(label=7), {1: "walk"})
    with pytest.raises(ValueError, match="label -1"):
        check_labels(_found(label=-1), {1: "walk"})
    unknown = GroundTruth(np.array(["v"]), np.array([0]), np.array([GOOD]), np.array([-1]), np.array([0]))
    check_labels(unknown, {1: "walk"})


def test_empty_split_and_units() -> None:
    truth = GroundTruth(*(np.array([v]) for v in ("v", 3, GOOD, 1, 0)))
    with pytest.raises(ValueError, match="split is empty"):
        check_pair(truth.take(np.array([False])), _found())
    with pytest.raises(ValueError, match="ground truth boxes are normalised, detected ones pixels"):
        check_pair(truth, _found(unit="pixels"))


def test_empty_tables_have_the_right_shape() -> None:
    none = Detections(*(np.array([]) for _ in range(5)))
    assert none.boxes.shape == (0, 4)
    assert none.label.dtype == np.int64
    assert len(Tubes(*(np.array([]) for _ in range(6)))) == 0


def test_take_keeps_rows_together() -> None:
    table = Detections(
        np.array(["a", "b"]), np.array([1, 2]), np.array([GOOD, GOOD]), np.array([3, 4]), np.array([0.5, 0.6]), "pixels"
    )
    one = table.take(np.array([False, True]))
    assert (one.video[0], one.frame[0], one.label[0], one.score[0], one.unit) == ("b", 2, 4, 0.6, "pixels")


def test_keys_agree_across_tables() -> None:
    a = Keyframes(np.array(["x", "y", "x"]), np.array([5, 5, 900]))
    b = Keyframes(np.array(["a long name", "x", "y"]), np.array([5, 900, 900]))
    left, right = keys(a, b)
    assert right[1] == left[2]
    assert len(set(left.tolist()) | set(right.tolist())) == 5
    assert codes(np.array([7, 3]), np.array([7]))[1].tolist() == [1]
