"""`bench.tracks`, `bench.smoothing`, `bench.watching`: a scene is the same at every rate, flicker is what it says, and
rules that are measured are met.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.flicker import (
    changes_a_second,
    superfluous_a_second,
    told_after_s,
    true_changes_a_second,
    what_people_do,
)
from bench.made_up_scenes import BASE_HZ, scene
from bench.smoothing import Outcomes, ece_more, truth_of
from bench.tracked_sets import Annotation, Keyframe, TrackedVideo
from bench.tracks import Told, as_trackeval, ours
from bench.watching import Watched, rules_of


def keyframe(at_s: float, ids: tuple[int, ...], *, annotated: bool = True) -> Keyframe:
    boxes = np.array([(100 * n, 0, 100 * n + 40, 100) for n in ids], np.float64).reshape(-1, 4)
    return Keyframe(at_s, 0, 360, annotated, False, ids, boxes, boxes, np.ones(len(ids)), np.zeros((len(ids), 1)))


@pytest.mark.parametrize("hz", [1, 2, 4])
def test_a_scene_is_the_same_at_every_rate(hz: int) -> None:
    whole, some = scene(3, BASE_HZ).keyframes, scene(3, hz).keyframes
    assert len(some) == 24 * hz
    for one, other in zip(some, whole[:: BASE_HZ // hz], strict=True):
        assert (one.at_s, one.true_ids) == (other.at_s, other.true_ids)
        assert np.array_equal(one.true_boxes, other.true_boxes)
        assert np.array_equal(one.boxes, other.boxes)
    found = sum(len(k.boxes) for k in whole)
    assert 0.4 < found / sum(len(k.true_ids) for k in whole) < 0.95, "some are hidden or missed"


def test_what_nobody_annotated_is_tracked_and_not_judged() -> None:
    video = TrackedVideo("v", (640, 360), (keyframe(0, (4, 9)), keyframe(1, (4,), annotated=False), keyframe(2, (9,))))
    data = as_trackeval(video, ours(video, 1))
    assert data["num_timesteps"] == 2
    assert [ids.tolist() for ids in data["gt_ids"]] == [[0, 1], [1]]
    assert [ids.tolist() for ids in data["tracker_ids"]] == [[0, 1], [1]]
    assert np.array_equal(data["similarity_scores"][0], np.eye(2))
    nobody = as_trackeval(video, [Told(np.zeros(0, np.int64), np.zeros((0, 4)))] * 3)
    assert (nobody["num_tracker_ids"], nobody["num_gt_dets"]) == (0, 3)


def test_flicker_counts_changes_of_each_person_over_the_time_that_they_are_followed() -> None:
    video = TrackedVideo("v", (640, 360), tuple(keyframe(k / 2, (1, 2)) for k in range(5)))
    first, second = (0.4, 0.6, 0.4, 0.6, 0.6), (0.9, 0.9, 0.9, 0.9, 0.2)
    scores = [np.array([[a], [b]]) for a, b in zip(first, second, strict=True)]
    assert changes_a_second([video], [scores], [[[1, 2]] * 5], [0]) == (3 + 1) / (2 + 2)
    assert changes_a_second([video], [scores], [[[1, 2]] * 5], [0], 0.3) == (1 + 1) / (2 + 2), "said until it is under"


def test_what_is_annotated_changes_as_often_as_it_does() -> None:
    video = TrackedVideo("v", (640, 360), tuple(keyframe(k / 2, (1,)) for k in range(5)))
    for number, k in enumerate(video.keyframes):
        object.__setattr__(k, "frame", number)
    box = (0.0, 0.0, 0.1, 0.1)
    does = {1: ("walk", "walk", "fall", "fall", "walk"), 2: ("", "walk", "walk", "walk", "walk")}
    rows = [Annotation("v", frame, box, label, n) for n, labels in does.items() for frame, label in enumerate(labels)]
    both = Annotation("v", 4, box, "fall", 1)
    truth = truth_of([*rows, both], [video], {"walk": 0, "fall": 1})
    assert true_changes_a_second(truth, [video]) == (2 + 1 + 1) / (2 + 2)


def test_what_goes_beyond_the_annotated_changes_is_superfluous() -> None:
    """One who walks and then falls, of whom a keyframe in the middle says nothing; and one who does nothing."""
    video = TrackedVideo("v", (640, 360), tuple(keyframe(k / 2, (1, 2)) for k in range(5)))
    for number, k in enumerate(video.keyframes):
        object.__setattr__(k, "frame", number)
    does = {1: ("walk", "walk", "", "fall", "fall"), 2: ("", "", "", "", "")}
    rows = [Annotation("v", n, (0, 0, 1, 1), label, one) for one in does for n, label in enumerate(does[one])]
    truth = truth_of(rows, [video], {"walk": 0, "fall": 1})
    doing = what_people_do(truth, [video], (0, 1), negative=False)[0]
    assert [np.isnan(found).any(1).tolist() for found in doing] == [[k == 2, True] for k in range(5)]
    assert doing[0][0].tolist() == [1, 0]
    right = ((0.9, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9), (0.1, 0.9))
    wavers = ((0.9, 0.1), (0.2, 0.1), (0.9, 0.1), (0.9, 0.1), (0.1, 0.9))
    late = ((0.1, 0.1), (0.1, 0.1), (0.9, 0.9), (0.1, 0.1), (0.1, 0.9))

    def superfluous(of_one: tuple[tuple[float, float], ...], *, negative: bool) -> float:
        scores = [np.array([first, second]) for first, second in zip(of_one, wavers, strict=True)]
        done = what_people_do(truth, [video], (0, 1), negative=negative)
        return superfluous_a_second([video], [scores], [[[1, 2]] * 5], [0, 1], done)

    assert [superfluous(one, negative=False) for one in (right, wavers, late)] == [0, 2 / 2, 0]
    assert superfluous(right, negative=True) == pytest.approx((0 + 4) / (2 + 2)), "and the other, who does nothing"


def test_how_late_smoothed_scores_are_is_where_a_score_stays() -> None:
    """Told after a second; of one that is over for half a second nothing is wanted, nor of one that is over already."""
    video = TrackedVideo("v", (640, 360), tuple(keyframe(k / 2, (1,)) for k in range(6)))

    def late(single: tuple[float, ...], smoothed: tuple[float, ...]) -> float | None:
        one, other = ([[np.array([[score]]) for score in scores]] for scores in (single, smoothed))
        return told_after_s([video], one, other, [[[1]] * 6], [0])

    stays, shortly = (0.1, 0.9, 0.9, 0.9, 0.9, 0.9), (0.1, 0.9, 0.9, 0.1, 0.1, 0.1)
    assert late(stays, (0.1, 0.4, 0.4, 0.6, 0.6, 0.6)) == 1.0
    assert late(stays, stays) == 0.0
    assert late(stays, (0.1,) * 6) == 2.0, "never: to the end"
    assert late(shortly, (0.1,) * 6) is None
    assert late(stays, (0.6,) * 6) is None


def test_an_interval_of_calibration_is_over_videos() -> None:
    """Of two videos one is worse by 0.2 and one is not."""
    video, there = np.repeat(["a", "b"], 100), np.tile([True, False], 100)
    single = Outcomes(video, np.full(200, 0.55), there)
    smoothed = Outcomes(video, np.where(video == "a", 0.75, 0.55), there)
    assert (single.ece(), smoothed.ece()) == (pytest.approx(5), pytest.approx(15))
    assert ece_more(single, smoothed) == [0.0, 20.0]


def test_rules_that_are_measured_are_met_and_without_any_nothing_is_told() -> None:
    labels = {n: f"action {n}" for n in range(4)}
    with_rules, without = (Watched(20, labels, rules) for rules in (rules_of(list(labels.values())), []))
    for number in range(20):
        with_rules.see(number)
        without.see(number)
    assert with_rules.events >= 20 + 10, "everybody is there, half of them in the zone"
    assert without.events == 0
