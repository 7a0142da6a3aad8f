"""Frame mAP: the published evaluator's numbers, and each rule by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stmixer.trainer.evaluators.frames import (
    FRAMES_ALL,
    FRAMES_CUSTOM,
    FRAMES_CUSTOM_NEGATIVE,
    action_outcomes,
    evaluate_frames,
    every,
    keyframes_of,
)
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG
from stmixer.trainer.evaluators.tables import Detections, GroundTruth

Truth = Callable[..., GroundTruth]
Found = Callable[..., Detections]
Boxes = tuple[tuple[float, float, float, float], ...]
LABELS = {0: "walk", 1: "fall"}


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_reference(threshold: float, tube_reference: Any) -> None:
    r = tube_reference
    score = evaluate_frames(r.truth, r.found, r.labels, FRAMES_ALL, threshold=threshold)
    assert 100 * score.mean_ap == pytest.approx(r.expected[f"frame_mAP@{threshold}"], abs=1e-3)
    for name, value in r.expected["per_class"][f"frame@{threshold}"].items():
        assert 100 * score.ap(name) == pytest.approx(100 * value, abs=1e-3), name


def test_trapezoid_by_hand(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    # Right, wrong, right of two: (0, 1) → (½, 1) → (½, ½) → (1, ⅔): ½ · 1 + ½ · (½ + ⅔)/2.
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 1, a, 0, 0)])
    found = found_of([("v", 0, a, 0, 0.9), ("v", 0, b, 0, 0.8), ("v", 1, a, 0, 0.7)])
    score = evaluate_frames(truth, found, LABELS, FRAMES_ALL)
    assert score.ap("walk") == pytest.approx(1 / 2 + 7 / 24)
    assert score.ap("fall") is None
    assert score.mean_ap == score.ap("walk")


def test_the_next_best_free_box_is_taken(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, near = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, near, 0, 1)])
    found = found_of([("v", 0, a, 0, 0.7), ("v", 0, a, 0, 0.9), ("v", 0, a, 0, 0.8)])
    assert evaluate_frames(truth, found, LABELS, FRAMES_ALL).verdict.tolist() == [WRONG, RIGHT, RIGHT]


def test_pixels_are_inclusive(truth_of: Truth, found_of: Found) -> None:
    # 4 × 4 and 4 × 2 pixels share 8 of 16: ½. Without the +1 it would be 3 of 9.
    truth = truth_of([("v", 0, (0, 0, 3, 3), 0, 0)], "pixels")
    found = found_of([("v", 0, (0, 0, 3, 1), 0, 0.9)], "pixels")
    assert evaluate_frames(truth, found, LABELS, FRAMES_ALL).ap("walk") == 1.0
    assert evaluate_frames(truth, found, LABELS, FRAMES_ALL, threshold=0.51).ap("walk") == 0.0


def test_normalised_boxes_are_not(truth_of: Truth, found_of: Found) -> None:
    truth, found = truth_of([("v", 0, (0, 0, 1, 1), 0, 0)]), found_of([("v", 0, (0, 0, 1, 0.5), 0, 0.9)])
    assert evaluate_frames(truth, found, LABELS, FRAMES_ALL).ap("walk") == 1.0
    assert evaluate_frames(truth, found, LABELS, FRAMES_ALL, threshold=0.51).ap("walk") == 0.0


def test_which_frames_count(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    truth = truth_of([("v", 5, a, 0, 0), ("v", 6, a, 0, 0)])
    # A keyframe; an annotated frame between; a multiple of 5 that is not annotated; another video.
    found = found_of([("v", 5, a, 0, 0.6), ("v", 6, a, 0, 0.7), ("v", 10, a, 0, 0.8), ("w", 5, a, 0, 0.9)])
    custom = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM)
    assert custom.verdict.tolist() == [RIGHT, RIGHT, IGNORED, IGNORED], "all that is annotated"
    fifth = evaluate_frames(truth, found, LABELS, every(FRAMES_CUSTOM, 5))
    assert fifth.verdict.tolist() == [RIGHT, IGNORED, IGNORED, IGNORED]
    assert (fifth.classes[0].boxes, fifth.ap("walk")) == (1, 1.0)
    assert evaluate_frames(truth, found, LABELS, FRAMES_ALL).verdict.tolist() == [RIGHT, RIGHT, WRONG, WRONG]
    with pytest.raises(ValueError, match="no annotated frame is a multiple of 5"):
        evaluate_frames(truth.take(np.array([1])), found, LABELS, every(FRAMES_CUSTOM, 5))
    rows = truth_of([("v", 5, a, 0, 0), ("v", 5, a, 1, 0), ("v", 6, a, 0, 0), ("a", 10, a, 0, 0)])
    for step, wanted in ((5, [("a", 10), ("v", 5)]), (1, [("a", 10), ("v", 5), ("v", 6)])):
        keyframes = keyframes_of(rows, step)
        assert list(zip(keyframes.video.tolist(), keyframes.frame.tolist(), strict=True)) == wanted


def test_unknown_actions_are_neither_right_nor_wrong(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, -1, 0), ("v", 0, b, 0, 1)])
    found = found_of(
        [("v", 0, a, 0, 0.9), ("v", 0, a, 1, 0.8), ("v", 0, b, 0, 0.7), ("v", 0, (0.8, 0.8, 1, 1), 0, 0.6)]
    )
    score = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM)
    assert score.verdict.tolist() == [IGNORED, IGNORED, RIGHT, WRONG]
    assert score.ap("walk") == 1.0
    assert score.classes[0].detections == 2


def test_the_receiver_is_a_negative(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, -1, 0), ("v", 0, b, 0, 1)])
    found = found_of([("v", 0, a, 0, 0.9), ("v", 0, b, 0, 0.7)])
    score = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM_NEGATIVE)
    assert score.verdict.tolist() == [WRONG, RIGHT]
    assert score.ap("walk") == pytest.approx((0 + 1 / 2) / 2)


def test_only_who_is_overlapped_most_excuses(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, near = boxes
    # The detection lies on the person at ``a``, who walks; that an unlabelled one is near excuses no wrong "fall".
    found = found_of([("v", 0, a, 1, 0.9)])
    known = truth_of([("v", 0, a, 0, 0), ("v", 0, near, -1, 1), ("v", 5, a, 1, 0)])
    assert evaluate_frames(known, found, LABELS, FRAMES_CUSTOM).verdict.tolist() == [WRONG]
    unknown = truth_of([("v", 0, near, 0, 0), ("v", 0, a, -1, 1), ("v", 5, a, 1, 0)])
    assert evaluate_frames(unknown, found, LABELS, FRAMES_CUSTOM).verdict.tolist() == [IGNORED]
    # A true box near by is taken all the same.
    right = truth_of([("v", 0, near, 1, 0), ("v", 0, a, -1, 1)])
    assert evaluate_frames(right, found, LABELS, FRAMES_CUSTOM).verdict.tolist() == [RIGHT]


def test_an_unknown_person_too_far_off_excuses_nothing(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, near = boxes
    truth = truth_of([("v", 0, near, -1, 0), ("v", 0, b, 0, 1)])
    found = found_of([("v", 0, a, 0, 0.9)])
    assert evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM, threshold=0.8).verdict.tolist() == [IGNORED]
    assert evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM, threshold=0.81).verdict.tolist() == [WRONG]


def test_several_labels_of_one_person(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, a, 1, 0)])
    found = found_of([("v", 0, a, 0, 0.9), ("v", 0, a, 1, 0.1)])
    assert evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM).mean_ap == 1.0


def test_ties_keep_the_tables_order_and_duplicates_are_wrong(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 0, a, 0, 0)])
    tied = found_of([("v", 0, a, 0, 0.5), ("v", 0, b, 0, 0.5)])
    assert evaluate_frames(truth, tied, LABELS, FRAMES_ALL).ap("walk") == 1.0
    assert evaluate_frames(truth, tied.take(np.array([1, 0])), LABELS, FRAMES_ALL).ap("walk") == 0.25
    twice = found_of([("v", 0, a, 0, 0.5), ("v", 0, a, 0, 0.5)])
    assert evaluate_frames(truth, twice, LABELS, FRAMES_ALL).verdict.tolist() == [RIGHT, WRONG]


def test_few_tracks_are_marked(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    rows = [("v", 0, a, 0, 0), ("v", 5, a, 0, 0), ("w", 0, a, 0, 0), ("w", 0, a, 0, 1)]
    walk, fall = evaluate_frames(truth_of(rows), found_of([]), LABELS, FRAMES_CUSTOM).classes
    assert (walk.boxes, walk.tracks, walk.few) == (4, 3, False)
    assert (fall.boxes, fall.tracks, fall.few) == (0, 0, False)
    assert evaluate_frames(truth_of(rows[:3]), found_of([]), LABELS, FRAMES_CUSTOM).classes[0].few


def test_nothing_found_and_nothing_there(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    found = found_of([("v", 0, a, 0, 0.5)])
    assert evaluate_frames(truth_of([("v", 0, a, 0, 0)]), found_of([]), LABELS, FRAMES_ALL).mean_ap == 0.0
    with pytest.raises(ValueError, match="split is empty"):
        evaluate_frames(truth_of([]), found, LABELS, FRAMES_ALL)
    with pytest.raises(ValueError, match="no label of the list has a box"):
        evaluate_frames(truth_of([("v", 0, a, -1, 0)]), found, LABELS, FRAMES_CUSTOM)
    with pytest.raises(ValueError, match="label 0 is not in the label list"):
        evaluate_frames(truth_of([("v", 0, a, 1, 0)]), found, {1: "fall"}, FRAMES_ALL)


def test_action_outcomes(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, near = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, b, -1, 1)])
    rows = [("v", 0, near, 0, 0.9), ("v", 0, near, 1, 0.8), ("v", 0, b, 0, 0.7), ("v", 0, (0.8, 0.8, 1, 1), 0, 0.6)]
    found = found_of([*rows, ("v", 1, a, 0, 0.5)])
    counts, there = action_outcomes(truth, found, FRAMES_CUSTOM)
    assert counts.tolist() == [True, True, False, False, False]
    assert there[counts].tolist() == [True, False]
    counts, there = action_outcomes(truth, found, FRAMES_CUSTOM_NEGATIVE)
    assert counts.tolist() == [True, True, True, False, False]
    assert there[counts].tolist() == [True, False, False]


def test_the_person_overlapped_most_decides_the_outcome(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, near = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, near, 1, 1)])
    counts, there = action_outcomes(truth, found_of([("v", 0, a, 0, 0.9), ("v", 0, a, 1, 0.8)]), FRAMES_CUSTOM)
    assert counts.all()
    assert there.tolist() == [True, False]
