"""People: found, missed, and those who are not there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stmixer.trainer.evaluators.frames import FRAMES_ALL, FRAMES_CUSTOM, FRAMES_CUSTOM_NEGATIVE, FrameProtocol
from stmixer.trainer.evaluators.people import evaluate_people
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG
from stmixer.trainer.evaluators.tables import GroundTruth, Keyframes, PersonDetections

Truth = Callable[..., GroundTruth]
People = Callable[..., PersonDetections]
Boxes = tuple[tuple[float, float, float, float], ...]


def test_by_hand(truth_of: Truth, people_of: People, boxes: Boxes) -> None:
    a, b, near = boxes
    # Three people: one with two labels, one without a label, one nobody finds.
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, a, 1, 0), ("v", 0, b, -1, 1), ("v", 5, a, 0, 0)])
    # Right; a duplicate; right but below the threshold; nobody there, on a keyframe without them.
    found = people_of([("v", 0, a, 0.9), ("v", 0, near, 0.8), ("v", 0, b, 0.5), ("v", 5, b, 0.6)])
    score = evaluate_people(truth, found, FRAMES_CUSTOM)
    assert score.verdict.tolist() == [RIGHT, WRONG, RIGHT, WRONG]
    assert (score.people, score.keyframes, score.empty_keyframes) == (3, 2, 0)
    assert score.recall == pytest.approx(1 / 3)
    assert score.precision == pytest.approx(1 / 3)
    assert score.false_per_keyframe == pytest.approx(2 / 2)
    assert score.false_per_empty_keyframe is None
    # By score: right, wrong, wrong, right: recall ⅓, ⅓, ⅓, ⅔; precision 1, ½, ⅓, ½.
    assert score.ap == pytest.approx(1 / 3 + (1 / 3) * (1 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize("protocol", [FRAMES_CUSTOM, FRAMES_CUSTOM_NEGATIVE])
def test_an_unlabelled_person_is_a_person(
    protocol: FrameProtocol, truth_of: Truth, people_of: People, boxes: Boxes
) -> None:
    score = evaluate_people(truth_of([("v", 0, boxes[0], -1, 0)]), people_of([("v", 0, boxes[0], 0.9)]), protocol)
    assert (score.ap, score.recall, score.false_per_keyframe) == (1.0, 1.0, 0.0)


def test_empty_pictures(truth_of: Truth, people_of: People, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, 0, 0)])
    found = people_of([("v", 0, a, 0.9), ("v", 7, b, 0.8), ("v", 7, a, 0.7), ("v", 7, a, 0.5), ("v", 9, a, 0.9)])
    empty = Keyframes(np.array(["v", "w"]), np.array([7, 0]))
    score = evaluate_people(truth, found, FRAMES_CUSTOM, empty=empty)
    assert score.verdict.tolist() == [RIGHT, WRONG, WRONG, WRONG, IGNORED]
    assert score.keyframes == 3
    assert score.false_per_keyframe == pytest.approx(2 / 3)
    assert score.false_per_empty_keyframe == pytest.approx(2 / 2)
    with pytest.raises(ValueError, match="said to be empty has people"):
        evaluate_people(truth, found, FRAMES_CUSTOM, empty=Keyframes(np.array(["v"]), np.array([0])))


def test_all_frames_count_where_the_protocol_says_so(truth_of: Truth, people_of: People, boxes: Boxes) -> None:
    a, _, _ = boxes
    score = evaluate_people(truth_of([("v", 1, a, 0, 0)]), people_of([("v", 1, a, 0.9), ("v", 2, a, 0.9)]), FRAMES_ALL)
    assert (score.keyframes, score.false_per_keyframe, score.recall) == (2, 0.5, 1.0)


def test_thresholds_are_inclusive(truth_of: Truth, people_of: People) -> None:
    truth, found = truth_of([("v", 0, (0, 0, 1, 1), 0, 0)]), people_of([("v", 0, (0, 0, 1, 0.5), 0.6)])
    assert evaluate_people(truth, found, FRAMES_CUSTOM, threshold=0.6).recall == 1.0
    assert evaluate_people(truth, found, FRAMES_CUSTOM, threshold=0.61).recall == 0.0
    assert evaluate_people(truth, found, FRAMES_CUSTOM, overlap_from=0.51).recall == 0.0


def test_nothing_found_and_nothing_there(truth_of: Truth, people_of: People, boxes: Boxes) -> None:
    score = evaluate_people(truth_of([("v", 0, boxes[0], 0, 0)]), people_of([]), FRAMES_CUSTOM)
    assert (score.ap, score.recall, score.precision, score.false_per_keyframe) == (0.0, 0.0, None, 0.0)
    with pytest.raises(ValueError, match="split is empty"):
        evaluate_people(truth_of([]), people_of([]), FRAMES_CUSTOM)
