"""How many people are found at a cut, by height, posture and label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stmixer.trainer.evaluators.frames import FRAMES_ALL
from stmixer.trainer.evaluators.people import evaluate_people
from stmixer.trainer.evaluators.person_cut import PRECISION_FROM, FoundOf, PersonCut, height_px
from stmixer.trainer.evaluators.tables import GroundTruth, PersonDetections

Truth = Callable[..., GroundTruth]
People = Callable[..., PersonDetections]
LABELS = {0: "walk", 1: "lie", 2: "jump"}


def row(at: int) -> tuple[float, float, float, float]:
    return (0.1 * at, 0.0, 0.1 * at + 0.05, 0.5)


def by_kind(found: tuple[FoundOf, ...]) -> dict[str, tuple[int, int]]:
    return {each.kind: (each.found, each.people) for each in found}


def scored(truth_of: Truth, people_of: People, scores: list[float | None], false: list[float]) -> tuple:
    """Ten people in a row, each found with a score or not, and people who are not there."""
    truth = truth_of([("v", 0, row(i), -1, i) for i in range(len(scores))])
    there = [("v", 0, row(i), s) for i, s in enumerate(scores) if s is not None]
    return truth, people_of(there + [("v", 1, row(i), s) for i, s in enumerate(false)])


def test_the_cut_that_finds_most_and_is_precise_enough(truth_of: Truth, people_of: People) -> None:
    # by score: right, wrong, right, right (¾), wrong (⅗), right (⅔), all of one score: right, right (¾), wrong (⅔)
    truth, found = scored(truth_of, people_of, [0.9, 0.8, 0.7, 0.5, 0.4, 0.4, None], [0.85, 0.6, 0.1])
    score = evaluate_people(truth, found, FRAMES_ALL)
    assert score.precise == PersonCut(0.4, 6 / 8, 6, 7, 2)
    assert score.precise.recall == pytest.approx(6 / 7)
    assert score.served == PersonCut(0.6, 3 / 5, 3, 7, 2)
    assert (score.recall, score.precision) == (score.served.recall, score.served.precision)


def test_everybody_of_one_score_is_in_or_out(truth_of: Truth, people_of: People) -> None:
    # three right before the wrong one of the same score: the cut between them is none
    truth, found = scored(truth_of, people_of, [0.9, 0.5, 0.5], [0.5, 0.5])
    score = evaluate_people(truth, found, FRAMES_ALL)
    assert (score.precise.score, score.precise.found, score.precise.precision) == (0.9, 1, 1.0)


def test_the_precision_itself_is_enough(truth_of: Truth, people_of: People) -> None:
    right, wrong = 18, 7
    truth = truth_of([("v", i, row(0), -1, 0) for i in range(right)])
    rows = [("v", i, row(0), 0.9) for i in range(right)] + [("v", i, row(5), 0.9) for i in range(wrong)]
    cut = evaluate_people(truth, people_of(rows), FRAMES_ALL).precise
    assert (cut.precision, cut.found) == (PRECISION_FROM, right)


def test_never_that_precise(truth_of: Truth, people_of: People) -> None:
    truth, found = scored(truth_of, people_of, [0.8], [0.9])
    cut = evaluate_people(replace(truth, height_px=np.array([20.0])), found, FRAMES_ALL).precise
    assert (cut.score, cut.precision, cut.found, cut.people, cut.recall) == (None, None, 0, 1, 0.0)
    assert by_kind(cut.by_height)["16 to 32 px"] == (0, 1)


def test_by_height_posture_and_label(truth_of: Truth, people_of: People) -> None:
    people = [("v", 0, row(i), -1, i) for i in range(5)]
    truth = truth_of([*people, ("v", 0, row(4), 1, 4), ("v", 0, row(4), 0, 4), ("v", 0, row(3), 0, 3)])
    truth = truth.take(np.array([0, 1, 2, 5, 6, 7]))  # of 3 and 4 the rows with labels
    heights, postures = np.array([15.9, 16, 32, 64, 64, np.nan]), np.array(["stand", "lie", "lie", "sit", "sit", ""])
    truth = replace(truth, height_px=heights, posture=postures)
    found = people_of([("v", 0, row(i), 0.9) for i in (1, 4)])
    cut = evaluate_people(truth, found, FRAMES_ALL, labels=LABELS).served
    assert by_kind(cut.by_height) == {
        "under 16 px": (0, 1),
        "16 to 32 px": (1, 1),
        "32 to 64 px": (0, 1),
        "over 64 px": (1, 1),
        "32 px and over": (1, 2),
    }
    assert by_kind(cut.by_posture) == {"stand": (0, 1), "lie": (1, 2), "sit": (1, 1)}
    assert by_kind(cut.by_label) == {"walk": (1, 2), "lie": (1, 1)}, "nobody jumps"


def test_heights_are_those_at_a_short_side_of_224() -> None:
    boxes = np.array([(0.0, 0.0, 0.5, 0.5)] * 3)
    sizes = np.array([(448.0, 224.0), (100.0, 200.0), (np.nan, np.nan)])
    assert height_px(boxes, sizes, longer_side=False)[:2].tolist() == pytest.approx([112, 224])
    assert height_px(boxes, sizes, longer_side=True)[:2].tolist() == pytest.approx([224, 224])
    assert np.isnan(height_px(boxes, sizes, longer_side=True)[2])
    assert height_px(boxes, sizes, longer_side=np.array([True, False, True]))[:2].tolist() == pytest.approx([224, 224])
