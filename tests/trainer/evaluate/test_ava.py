"""AVA's two protocols: the public evaluators' numbers, and each rule on a case small enough to do by hand."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stmixer.trainer.evaluators.ava import AVA_ACTIVITYNET, AVA_UNCAPPED, AvaProtocol, evaluate_ava
from stmixer.trainer.evaluators.ava_csv import read_detections, read_excluded, read_label_map, read_truth
from stmixer.trainer.evaluators.precision import IGNORED, RIGHT, WRONG
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, Keyframes

Truth = Callable[..., GroundTruth]
Found = Callable[..., Detections]
Boxes = tuple[tuple[float, float, float, float], ...]
LABELS = {1: "bend", 3: "crouch"}
NOTHING = Keyframes(np.array([], dtype=str), np.array([], dtype=int))


@pytest.mark.parametrize(
    ("protocol", "section"), [(AVA_ACTIVITYNET, "activitynet_top50"), (AVA_UNCAPPED, "uncapped_with_exclusions")]
)
def test_reference(protocol: AvaProtocol, section: str, ava_folder: Path) -> None:
    expected = json.loads((ava_folder / "expected.json").read_text())[section]
    score = evaluate_ava(
        read_truth(ava_folder / "gt.csv"),
        read_detections(ava_folder / "pred.csv"),
        read_label_map(ava_folder / "label_map.pbtxt"),
        protocol,
        excluded=read_excluded(ava_folder / "excluded.csv"),
    )
    assert score.protocol == protocol.name
    assert len(score.classes) == 60
    assert score.mean_ap == pytest.approx(expected["PascalBoxes_Precision/mAP@0.5IOU"], abs=1e-9)
    for c in score.classes:
        value = expected[f"PascalBoxes_PerformanceByCategory/AP@0.5IOU/{c.name}"]
        assert c.ap == (None if value is None else pytest.approx(value, abs=1e-9)), c.name


def test_pascal_area_by_hand(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    # By score: right, wrong, right; recall 1/2, 1/2, 1; precision 1, 1/2, 2/3: area 1/2 · 1 + 1/2 · 2/3.
    a, b, _ = boxes
    truth = truth_of([("v", 902, a, 1, -1), ("v", 903, a, 1, -1)])
    found = found_of([("v", 902, a, 1, 0.9), ("v", 902, b, 1, 0.8), ("v", 903, a, 1, 0.7)])
    score = evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET)
    assert score.ap("bend") == pytest.approx(1 / 2 + 1 / 3)
    assert score.ap("crouch") is None
    assert score.mean_ap == score.ap("bend")
    assert score.classes[0].tracks is None
    assert not score.classes[0].few


def test_cap_counts_pairs_of_a_timestamp(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 902, a, 1, -1), ("v", 902, a, 3, -1), ("v", 903, a, 3, -1)])
    filler = [("v", 902, b, 3, 0.9)] * 49
    rows = [("v", 902, a, 1, 0.8), ("v", 902, a, 3, 0.7), ("v", 903, a, 3, 0.1)]
    capped = evaluate_ava(truth, found_of([*filler, *rows]), LABELS, AVA_ACTIVITYNET)
    whole = evaluate_ava(truth, found_of([*filler, *rows]), LABELS, AVA_UNCAPPED, excluded=NOTHING)
    assert capped.verdict[-3:].tolist() == [RIGHT, IGNORED, RIGHT]
    assert whole.verdict[-3:].tolist() == [RIGHT, RIGHT, RIGHT]


def test_cap_goes_before_boxes_without_area(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    flat = (0.3, 0.3, 0.3, 0.9)
    found = found_of([*[("v", 902, flat, 1, 0.9)] * 50, ("v", 902, a, 1, 0.8)])
    truth = truth_of([("v", 902, a, 1, -1)])
    assert (evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET).verdict == IGNORED).all()
    assert evaluate_ava(truth, found, LABELS, AVA_UNCAPPED, excluded=NOTHING).ap("bend") == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_cap_breaks_ties_like_a_heap(seed: int, truth_of: Truth) -> None:
    rng = np.random.default_rng(seed)
    n = 600
    corner = rng.integers(0, 3, (n, 2)) / 10
    found = Detections(
        np.array(["v"] * n),
        rng.integers(900, 904, n),
        np.hstack([corner, corner + 0.5]),
        rng.choice([1, 3], n),
        rng.integers(0, 6, n) / 10,
    )
    heaps: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for frame, (x1, y1, x2, y2), label, score in zip(found.frame, found.boxes, found.label, found.score, strict=True):
        entry, heap = (score, label, y1, x1, y2, x2), heaps[int(frame)]
        if len(heap) < 50:
            heapq.heappush(heap, entry)
        elif score > heap[0][0]:
            heapq.heapreplace(heap, entry)
    truth = truth_of([("v", frame, (0, 0, 1, 1), 1, -1) for frame in range(900, 904)])
    kept = found.take(evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET).verdict != IGNORED)
    for frame, heap in heaps.items():
        mine = kept.take(kept.frame == frame)
        x1, y1, x2, y2 = mine.boxes.T
        assert sorted(zip(mine.score, mine.label, y1, x1, y2, x2, strict=True)) == sorted(heap)


def test_timestamps_without_truth(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    # 904 has ground truth, if of a label outside the map: ActivityNet's evaluator has its detections wrong.
    truth = truth_of([("v", 902, a, 1, -1), ("v", 904, a, 2, -1)])
    found = found_of([("v", 903, a, 1, 0.9), ("v", 904, a, 1, 0.8), ("v", 902, a, 1, 0.7), ("v", 902, a, 2, 0.9)])
    ignoring = evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET)
    counting = evaluate_ava(truth, found, LABELS, AVA_UNCAPPED, excluded=NOTHING)
    assert ignoring.verdict.tolist() == [IGNORED, WRONG, RIGHT, IGNORED]
    assert ignoring.ap("bend") == 0.5
    assert counting.verdict.tolist() == [WRONG, WRONG, RIGHT, IGNORED]
    assert counting.ap("bend") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "unlisted", ["v,0903,0.1,0.1,0.5,0.9,2,0\n", "v,0903,0.6,0.1,0.9,0.9,80,4\nv,0903,0,0,1,1,2,\n"]
)
def test_truth_of_a_class_outside_the_label_map_makes_a_timestamp_count(tmp_path: Path, unlisted: str) -> None:
    (tmp_path / "map.pbtxt").write_text('item {\n  name: "stand"\n  id: 12\n}\n')
    (tmp_path / "gt.csv").write_text("v,0902,0.1,0.1,0.5,0.9,12,0\n" + unlisted)
    (tmp_path / "det.csv").write_text("v,0902,0.1,0.1,0.5,0.9,12,0.5\nv,0903,0.1,0.1,0.5,0.9,12,0.9\n")
    read = (read_truth(tmp_path / "gt.csv"), read_detections(tmp_path / "det.csv"))
    score = evaluate_ava(*read, read_label_map(tmp_path / "map.pbtxt"), AVA_ACTIVITYNET)
    assert (score.verdict.tolist(), score.mean_ap) == ([RIGHT, WRONG], 0.5)


def test_exclusions(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 902, a, 1, -1), ("v", 903, a, 1, -1), ("w", 902, a, 1, -1)])
    found = found_of([("v", 902, b, 1, 0.9), ("v", 903, a, 1, 0.8), ("w", 902, a, 1, 0.7)])
    excluded = Keyframes(np.array(["v"]), np.array([902]))
    dropped = evaluate_ava(truth, found, LABELS, AVA_UNCAPPED, excluded=excluded)
    assert dropped.verdict.tolist() == [IGNORED, RIGHT, RIGHT]
    assert dropped.ap("bend") == 1.0
    assert dropped.classes[0].boxes == 2
    kept = evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET, excluded=excluded)
    assert kept.verdict.tolist() == [WRONG, RIGHT, RIGHT]
    with pytest.raises(ValueError, match="ava-uncapped needs the exclusion list"):
        evaluate_ava(truth, found, LABELS, AVA_UNCAPPED)


def test_a_detection_looks_only_at_its_best_box(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, near = boxes
    # Both detections overlap ``a`` most; ``near`` (0.8) stays free, though it would do: not so in frames.py.
    truth = truth_of([("v", 902, a, 1, -1), ("v", 902, near, 1, -1)])
    found = found_of([("v", 902, a, 1, 0.9), ("v", 902, a, 1, 0.8)])
    assert evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET).verdict.tolist() == [RIGHT, WRONG]


def test_equal_scores_keep_the_tables_order(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, b, _ = boxes
    truth = truth_of([("v", 902, a, 1, -1)])
    first = found_of([("v", 902, a, 1, 0.5), ("v", 902, b, 1, 0.5)])
    assert evaluate_ava(truth, first, LABELS, AVA_ACTIVITYNET).ap("bend") == 1.0
    assert evaluate_ava(truth, first.take(np.array([1, 0])), LABELS, AVA_ACTIVITYNET).ap("bend") == 0.5


def test_threshold_is_inclusive(truth_of: Truth, found_of: Found) -> None:
    truth = truth_of([("v", 902, (0.0, 0.0, 0.5, 0.5), 1, -1)])
    found = found_of([("v", 902, (0.0, 0.0, 0.5, 0.25), 1, 0.5)])
    assert evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET).ap("bend") == 1.0
    assert evaluate_ava(truth, found, LABELS, AVA_ACTIVITYNET, threshold=0.51).ap("bend") == 0.0


def test_nothing_found_and_nothing_there(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    truth = truth_of([("v", 902, a, 1, -1)])
    none = evaluate_ava(truth, found_of([]), LABELS, AVA_ACTIVITYNET)
    assert none.ap("bend") == 0.0
    assert none.verdict.shape == (0,)
    with pytest.raises(ValueError, match="split is empty"):
        evaluate_ava(truth_of([]), found_of([]), LABELS, AVA_ACTIVITYNET)
    with pytest.raises(ValueError, match="no label of the list has a box"):
        evaluate_ava(truth, found_of([]), {3: "crouch"}, AVA_ACTIVITYNET)


def test_refused(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    truth = truth_of([("v", 902, a, 1, -1)])
    for label in (0, 81, -1):
        with pytest.raises(ValueError, match=f"detections row 0: label {label} is outside 1–80"):
            evaluate_ava(truth, found_of([("v", 902, a, label, 0.5)]), LABELS, AVA_ACTIVITYNET)
    with pytest.raises(ValueError, match="in pixels"):
        evaluate_ava(truth_of([("v", 902, a, 1, -1)], "pixels"), found_of([], "pixels"), LABELS, AVA_ACTIVITYNET)
