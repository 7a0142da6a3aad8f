"""Video mAP: the published evaluator's numbers, suppression, and each rule by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from stmixer.trainer.evaluators.frames import FRAMES_ALL, FRAMES_CUSTOM, FRAMES_CUSTOM_NEGATIVE, every
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG
from stmixer.trainer.evaluators.tables import GroundTruth, Tubes, Unit
from stmixer.trainer.evaluators.tube_scores import COCO_THRESHOLDS, evaluate_tubes, suppress

Truth = Callable[..., GroundTruth]
Box = tuple[float, float, float, float]
Boxes = tuple[Box, Box, Box]
LABELS = {0: "walk", 1: "fall"}


def _tubes(
    tubes: Sequence[tuple[str, int, float, Sequence[int], Box]], unit: Unit = "normalised", order: int | None = None
) -> Tubes:
    """Tubes of video, label, score, frames and one box; numbered in turn."""
    rows = [(v, f, c, n, s, b) for n, (v, c, s, frames, b) in enumerate(tubes) for f in frames]
    if order is not None:
        rows = [rows[at] for at in np.random.default_rng(order).permutation(len(rows))]
    return Tubes(*(np.array([row[at] for row in rows]) for at in range(6)), unit=unit)


def _person(video: str, frames: Sequence[int], box: Box, label: int, track: int) -> list[tuple[Any, ...]]:
    return [(video, frame, box, label, track) for frame in frames]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.75])
def test_reference(threshold: float, tube_reference: Any) -> None:
    r = tube_reference
    (score,) = evaluate_tubes(r.truth, r.tubes, r.labels, FRAMES_ALL, thresholds=[threshold])
    assert 100 * score.mean_ap == pytest.approx(r.expected[f"video_mAP@{threshold}"], abs=1e-3)
    for name, value in r.expected["per_class"][f"video@{threshold}"].items():
        assert 100 * score.ap(name) == pytest.approx(100 * value, abs=1e-3), name


def test_reference_over_all_thresholds(tube_reference: Any) -> None:
    r = tube_reference
    scores = evaluate_tubes(r.truth, r.tubes, r.labels, FRAMES_ALL, thresholds=COCO_THRESHOLDS)
    assert [s.iou for s in scores] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    mean = 100 * float(np.mean([s.mean_ap for s in scores]))
    assert mean == pytest.approx(r.expected["video_mAP@0.5:0.95"], abs=1e-3)


def test_the_reference_needs_suppression(tube_reference: Any) -> None:
    r = tube_reference
    (score,) = evaluate_tubes(r.truth, r.tubes, r.labels, FRAMES_ALL, thresholds=[0.2], nms_iou=None)
    assert abs(100 * score.mean_ap - r.expected["video_mAP@0.2"]) > 0.1


def test_overlap_is_space_times_time(truth_of: Truth, boxes: Boxes) -> None:
    a, _, near = boxes
    truth = truth_of(_person("v", range(10), a, 0, 0))
    # Frames 5–14: 5 of 15 in common; in each 0.8 of the area.
    found = _tubes([("v", 0, 0.9, range(5, 15), near)], order=0)
    overlap = 0.8 / 3
    right, wrong = evaluate_tubes(truth, found, LABELS, FRAMES_ALL, thresholds=[overlap - 1e-9, overlap + 1e-9])
    assert (right.ap("walk"), wrong.ap("walk")) == (1.0, 0.0)
    assert right.protocol == "frames-all-tubes"
    assert right.classes[0].positives == 1


def test_pixels_are_inclusive(truth_of: Truth) -> None:
    truth = truth_of(_person("v", range(2), (0, 0, 3, 3), 0, 0), "pixels")
    found = _tubes([("v", 0, 0.9, range(2), (0, 0, 3, 1))], "pixels")
    right, wrong = evaluate_tubes(truth, found, LABELS, FRAMES_ALL, thresholds=[0.5, 0.51])
    assert (right.ap("walk"), wrong.ap("walk")) == (1.0, 0.0)


def test_suppression(boxes: Boxes) -> None:
    a, b, near = boxes
    found = _tubes(
        [
            ("v", 0, 0.5, range(10), near),  # 0.8 with the next, which scores better: goes
            ("v", 0, 0.9, range(10), a),
            ("v", 0, 0.4, range(7, 17), a),  # 3 of 17 frames in common: stays
            ("v", 0, 0.3, range(10), b),  # elsewhere
            ("v", 1, 0.2, range(10), a),  # another label
            ("w", 0, 0.1, range(10), a),  # another video
        ],
        order=1,
    )
    assert sorted(set(suppress(found).tube.tolist())) == [1, 2, 3, 4, 5]
    assert set(suppress(found, 0.85).tube.tolist()) == {0, 1, 2, 3, 4, 5}


def test_suppression_starts_above_its_threshold_and_the_suppressed_suppress_nobody() -> None:
    # Times 0–9, 4–13, 8–17: neighbours share 6 of 14 frames, the outer two 2 of 18.
    chain = [
        ("v", 0, score, range(start, start + 10), (0.0, 0.0, 1.0, 1.0))
        for start, score in ((0, 0.9), (4, 0.8), (8, 0.7))
    ]
    assert sorted(set(suppress(_tubes(chain)).tube.tolist())) == [0, 2]
    assert sorted(set(suppress(_tubes(chain), 6 / 14).tube.tolist())) == [0, 1, 2]
    assert sorted(set(suppress(_tubes(chain[:2]), 6 / 14 - 1e-9).tube.tolist())) == [0]


def test_duplicates_are_suppressed_or_wrong(truth_of: Truth, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of(_person("v", range(4), a, 0, 0) + _person("v", range(4), b, 0, 1))
    found = _tubes([("v", 0, 0.9, range(4), a), ("v", 0, 0.8, range(4), a), ("v", 0, 0.7, range(4), b)])
    (suppressed,) = evaluate_tubes(truth, found, LABELS, FRAMES_ALL, thresholds=[0.5])
    (whole,) = evaluate_tubes(truth, found, LABELS, FRAMES_ALL, thresholds=[0.5], nms_iou=None)
    assert suppressed.verdict.tolist() == [RIGHT, RIGHT]
    assert whole.verdict.tolist() == [RIGHT, WRONG, RIGHT]
    assert whole.ap("walk") == pytest.approx(1 / 2 + 7 / 24)


def test_a_pause_makes_two_tubes(truth_of: Truth, boxes: Boxes) -> None:
    a, _, _ = boxes
    walks = [*range(0, 20, 5), *range(40, 60, 5)]
    truth = truth_of(_person("v", walks, a, 0, 0) + _person("v", range(20, 40, 5), a, 1, 0))
    found = _tubes([("v", 0, 0.9, range(0, 20, 5), a), ("v", 0, 0.8, range(40, 60, 5), a)])
    (score,) = evaluate_tubes(truth, found, LABELS, FRAMES_CUSTOM, thresholds=[0.9])
    assert (score.classes[0].positives, score.classes[0].tracks, score.classes[1].positives) == (2, 1, 1)
    assert score.ap("walk") == 1.0


def test_keyframes_alone_count(truth_of: Truth, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of(_person("v", range(0, 21), a, 0, 0))
    found = _tubes([("v", 0, 0.9, range(0, 25, 5), a), ("v", 0, 0.8, [1, 2], b), ("v", 0, 0.7, [25, 30], a)])
    (score,) = evaluate_tubes(truth, found, LABELS, every(FRAMES_CUSTOM, 5), thresholds=[0.99])
    assert score.verdict.tolist() == [RIGHT]


@pytest.mark.parametrize("step", [1, 24, 25])
def test_a_tube_is_as_dense_as_its_video_is_annotated(truth_of: Truth, boxes: Boxes, step: int) -> None:
    """A frame left out is a pause, whatever the distance between annotated frames."""
    a, _, _ = boxes
    frames = [12 + step * i for i in (0, 1, 2, 3, 5, 6, 7)]
    truth = truth_of(_person("v", frames, a, 0, 0) + _person("other", [0, 1, 2], a, 0, 0))
    found = _tubes([("v", 0, 0.9, frames[:4], a), ("v", 0, 0.8, frames[4:], a), ("other", 0, 0.7, [0, 1, 2], a)])
    (score,) = evaluate_tubes(truth, found, LABELS, FRAMES_CUSTOM, thresholds=[0.99])
    assert (score.classes[0].positives, score.ap("walk")) == (3, 1.0)


def test_unknown_actions(truth_of: Truth, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of(_person("v", range(0, 50, 5), a, -1, 0) + _person("v", range(0, 50, 5), b, 0, 1))
    found = _tubes([("v", 0, 0.9, range(0, 50, 5), a), ("v", 0, 0.8, range(0, 50, 5), b), ("v", 1, 0.7, [0, 5], a)])
    (score,) = evaluate_tubes(truth, found, LABELS, FRAMES_CUSTOM, thresholds=[0.5])
    assert score.verdict.tolist() == [IGNORED, RIGHT, WRONG]
    assert score.ap("walk") == 1.0
    (negative,) = evaluate_tubes(truth, found, LABELS, FRAMES_CUSTOM_NEGATIVE, thresholds=[0.5])
    assert negative.verdict.tolist() == [WRONG, RIGHT, WRONG]
    assert negative.ap("walk") == 0.25


def test_nothing_found(truth_of: Truth, boxes: Boxes) -> None:
    none = Tubes(*(np.array([]) for _ in range(6)))
    (score,) = evaluate_tubes(truth_of(_person("v", [0], boxes[0], 0, 0)), none, LABELS, FRAMES_ALL, thresholds=[0.5])
    assert (score.mean_ap, score.verdict.shape) == (0.0, (0,))


def test_refused(truth_of: Truth, boxes: Boxes) -> None:
    a, _, _ = boxes
    found = _tubes([("v", 0, 0.9, [0, 1], a)])
    one = truth_of(_person("v", [0], a, 0, 0))
    cases = [
        (truth_of(_person("v", [0], a, 0, -1)), found, "video mAP needs tracks"),
        (truth_of(_person("v", [0, 0], a, 0, 0)), found, "GroundTruth: a tube has two boxes in one frame"),
        (one, _tubes([("v", 0, 0.9, [0, 0], a)]), "Tubes: a tube has two boxes in one frame"),
        (one, _tubes([("v", 7, 0.9, [0], a)]), "label 7 is not in the label list"),
        (one.take(np.array([], dtype=int)), found, "split is empty"),
    ]
    for truth, tubes, says in cases:
        with pytest.raises(ValueError, match=says):
            evaluate_tubes(truth, tubes, LABELS, FRAMES_ALL, thresholds=[0.5])
    twisted = Tubes(found.video, found.frame, found.label, found.tube, np.array([0.9, 0.8]), found.boxes)
    with pytest.raises(ValueError, match="different scores"):
        suppress(twisted)
