"""Labels that people certainly do not have: wrong where known to be absent, nothing where unknown, and counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stmixer.trainer.evaluators.frames import FRAMES_ALL, FRAMES_CUSTOM, action_outcomes, evaluate_frames, every
from stmixer.trainer.evaluators.out_of_set import NamedOf, evaluate_out_of_set
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, PersonDetections

Truth = Callable[..., GroundTruth]
Found = Callable[..., Detections]
People = Callable[..., PersonDetections]
Boxes = tuple[tuple[float, float, float, float], ...]
LABELS = {0: "walk", 1: "squat", 2: "lie"}


def test_known_to_be_absent_is_wrong_and_unknown_is_nothing(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, near = boxes
    # A does nothing known and certainly does not squat; B lies, and certainly does not walk
    truth = truth_of([("v", 0, a, -1, 0), ("v", 0, b, 2, 1)])
    absent = truth_of([("v", 0, a, 1, 0), ("v", 0, b, 0, 1)])
    found = found_of(
        [("v", 0, box, label, 0.9) for box in (near, b) for label in LABELS] + [("v", 0, (0.8, 0.8, 1, 1), 0, 0.9)]
    )
    verdict = evaluate_frames(truth, found, LABELS, FRAMES_ALL, absent=absent).verdict.tolist()
    assert verdict == [IGNORED, WRONG, IGNORED, WRONG, IGNORED, RIGHT, WRONG], "who is nobody is wrong"
    counts, there = action_outcomes(truth, found, FRAMES_ALL, absent=absent)
    assert counts.tolist() == [False, True, False, True, False, True, False]
    assert there[counts].tolist() == [False, False, True]


def test_average_precision_over_those_who_are_known(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    # two who walk, one of whom nothing is known, one who certainly does not
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, b, -1, 1), ("v", 1, a, 0, 0), ("v", 1, b, -1, 1)])
    absent = truth_of([("v", 1, b, 0, 1)])
    rows = [("v", 0, b, 0, 0.9), ("v", 0, a, 0, 0.8), ("v", 1, b, 0, 0.7), ("v", 1, a, 0, 0.6)]
    score = evaluate_frames(truth, found_of(rows), LABELS, FRAMES_ALL, absent=absent)
    # right, wrong, right of two
    assert score.ap("walk") == pytest.approx(1 / 2 + 7 / 24)
    assert score.classes[0].detections == 3


def test_a_set_that_knows_everything_is_as_without(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    """Where all of somebody is known or nothing, both rules say the same."""
    a, b, near = boxes
    truth = truth_of([("v", 0, a, 0, 0), ("v", 0, b, -1, 1)])
    absent = truth_of([("v", 0, a, 1, 0), ("v", 0, a, 2, 0)])
    found = found_of([("v", 0, box, label, 0.9) for box in (near, b, (0.8, 0.8, 1, 1)) for label in LABELS])
    one = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM, absent=absent)
    other = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM)
    assert one.verdict.tolist() == other.verdict.tolist()
    for each, same in zip(
        action_outcomes(truth, found, FRAMES_CUSTOM, absent=absent),
        action_outcomes(truth, found, FRAMES_CUSTOM),
        strict=True,
    ):
        assert each.tolist() == same.tolist()


def test_who_is_named_who_should_not_be(truth_of: Truth, found_of: Found, people_of: People, boxes: Boxes) -> None:
    a, b, near = boxes
    c = (0.3, 0.0, 0.45, 0.5)
    truth = truth_of(
        [("v", 0, a, -1, 0), ("v", 0, b, 2, 1), ("v", 5, a, -1, 0), ("v", 5, c, -1, 2), ("v", 6, a, -1, 0)]
    )
    lacking = [("v", 0, a, 1, 0), ("v", 0, a, 0, 0), ("v", 0, b, 0, 1), ("v", 5, a, 1, 0), ("v", 5, c, 1, 2)]
    absent = truth_of([*lacking, ("v", 6, a, 1, 0)])
    people = people_of([("v", 0, near, 0.9), ("v", 0, b, 0.7), ("v", 5, a, 0.8), ("v", 5, c, 0.59), ("v", 0, a, 0.65)])
    actions = found_of(
        [
            *(
                ("v", 0, near, 1, 0.5),
                ("v", 0, near, 0, 0.6),
                ("v", 0, near, 2, 0.9),
            ),  # two absent ones, one unknown
            *(("v", 0, b, 2, 0.9), ("v", 0, b, 0, 0.49)),  # what is true, and not sure enough
            ("v", 5, a, 0, 0.9),  # unknown
            ("v", 5, c, 1, 0.9),  # of somebody who is not reported
            ("v", 0, a, 1, 0.9),  # of a second box on somebody who is found already
        ]
    )
    fifth = every(FRAMES_CUSTOM, 5)
    out = evaluate_out_of_set(truth, absent, people, actions, LABELS, fifth, among=("squat", "kick"))
    assert out.people == 4
    assert out.any_label == NamedOf("any label", 1, 3)
    assert out.any_label.share == pytest.approx(1 / 3)
    assert out.among == NamedOf("squat", 1, 2)
    assert out.by_label == (NamedOf("walk", 1, 2), NamedOf("squat", 1, 2))
    unknown = evaluate_out_of_set(truth, absent, people, actions, LABELS, fifth, among=("kick",))
    assert unknown.among is None
    none = evaluate_out_of_set(truth, absent, people_of([]), found_of([]), LABELS, fifth)
    assert (none.any_label, none.among, none.any_label.share) == (NamedOf("any label", 0, 0), None, None)
    assert np.isin([n.of for n in none.by_label], ["walk", "squat"]).all()
