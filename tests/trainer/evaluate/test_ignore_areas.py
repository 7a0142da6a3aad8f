"""Areas to ignore: what is found there counts for nothing, what is true there counts all the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stmixer.trainer.evaluators.empty import report_empty
from stmixer.trainer.evaluators.frames import FRAMES_ALL, FRAMES_CUSTOM, evaluate_frames, every
from stmixer.trainer.evaluators.ignore_areas import in_ignore_area
from stmixer.trainer.evaluators.people import evaluate_people
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, IgnoreAreas, Keyframes, PersonDetections

Truth = Callable[..., GroundTruth]
Found = Callable[..., Detections]
People = Callable[..., PersonDetections]
Boxes = tuple[tuple[float, float, float, float], ...]
AREA = (0.5, 0.0, 1.0, 1.0)


def areas(*rows: tuple[str, int, tuple[float, float, float, float]]) -> IgnoreAreas:
    video, frame, boxes = zip(*rows, strict=True)
    return IgnoreAreas(np.array(video), np.array(frame), np.array(boxes))


def test_half_of_the_own_area_is_enough(people_of: People) -> None:
    left = [0.25, 0.375, 0.36, 0.5]  # of boxes of a width of ¼ none, half, less than half, and all lie in the area
    found = people_of([("v", 0, (x, 0.1, x + 0.25, 0.2), 0.9) for x in left] + [("v", 1, (0.6, 0.1, 0.8, 0.2), 0.9)])
    assert in_ignore_area(found, areas(("v", 0, AREA))).tolist() == [False, True, False, True, False]
    assert not in_ignore_area(found, None).any()
    halves = areas(("v", 0, (0.5, 0.1, 0.59, 0.2)), ("v", 0, (0.59, 0.1, 0.75, 0.2)))
    assert in_ignore_area(found, halves).tolist() == [False, False, False, True, False]


def test_pixels_are_inclusive_there_too() -> None:
    def of(kind: type, *more: np.ndarray, box: tuple[float, ...]) -> object:
        return kind(np.array(["v"]), np.array([0]), np.array([box]), *more, unit="pixels")

    # of 4 columns 2 lie in the area; without the +1 it would be 1 of 3
    found = of(PersonDetections, np.array([0.9]), box=(0, 0, 3, 3))
    assert isinstance(found, PersonDetections)
    assert in_ignore_area(found, of(IgnoreAreas, box=(2, 0, 9, 9))).all()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ignore areas are normalised"):
        in_ignore_area(found, areas(("v", 0, AREA)))


def test_people(truth_of: Truth, people_of: People, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, -1, 0), ("v", 0, b, -1, 1)])
    # true ones, one of them in the area; nobody, in and outside; again, in another picture that has no area
    found = people_of(
        [("v", 0, a, 0.9), ("v", 0, b, 0.8), ("v", 0, (0.6, 0.6, 0.9, 0.9), 0.95), ("v", 0, (0, 0.6, 0.3, 0.9), 0.7)]
    )
    score = evaluate_people(truth, found, FRAMES_CUSTOM, ignored=areas(("v", 0, AREA)))
    assert score.verdict.tolist() == [RIGHT, RIGHT, IGNORED, WRONG]
    assert (score.recall, score.precision, score.ap) == (1.0, pytest.approx(2 / 3), 1.0)
    assert score.false_per_keyframe == 1
    plain = evaluate_people(truth, found, FRAMES_CUSTOM)
    assert plain.verdict.tolist() == [RIGHT, RIGHT, WRONG, WRONG]
    assert plain.ap < 1


def test_a_picture_with_nothing_but_an_area_is_looked_at(truth_of: Truth, people_of: People, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, -1, 0)])
    found = people_of([("v", 0, a, 0.9), ("v", 5, a, 0.8), ("v", 5, b, 0.8), ("v", 7, a, 0.8)])
    score = evaluate_people(truth, found, every(FRAMES_CUSTOM, 5), ignored=areas(("v", 5, AREA), ("v", 7, AREA)))
    assert score.verdict.tolist() == [RIGHT, WRONG, IGNORED, IGNORED], "7 is no keyframe"
    assert (score.keyframes, score.empty_keyframes, score.false_per_keyframe) == (2, 0, 0.5)


def test_actions_of_somebody_true_are_judged_in_an_area_too(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, b, 0, 1)])
    found = found_of(
        [("v", 0, b, 0, 0.9), ("v", 0, b, 1, 0.9), ("v", 0, (0.6, 0.6, 0.9, 0.9), 0, 0.9), ("v", 0, a, 1, 0.9)]
    )
    score = evaluate_frames(truth, found, {0: "walk", 1: "fall"}, FRAMES_ALL, ignored=areas(("v", 0, AREA)))
    assert score.verdict.tolist() == [RIGHT, WRONG, IGNORED, WRONG]


def test_empty_pictures(people_of: People) -> None:
    found = people_of([("v", 0, (0.6, 0.6, 0.9, 0.9), 0.9), ("v", 0, (0, 0.6, 0.3, 0.9), 0.7)])
    keyframes = Keyframes(np.array(["v", "v"]), np.array([0, 15]))
    report = report_empty("bare", "val", keyframes, found, ignored=areas(("v", 0, AREA)))
    assert (report.false_people, report.surest[0].score) == (1, 0.7)
    assert report_empty("bare", "val", keyframes, found).false_people == 2
