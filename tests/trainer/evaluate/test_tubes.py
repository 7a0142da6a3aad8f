"""Linking: people who cross keep their tubes, gaps are bridged or end a tube, and only the past is used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stmixer.trainer.evaluators.tables import Detections, Keyframes, Tubes
from stmixer.trainer.evaluators.tubes import Linking, link

Found = Callable[..., Detections]
Box = tuple[float, float, float, float]
BOX: Box = (0.1, 0.1, 0.3, 0.6)


def _frames(tubes: Tubes) -> dict[tuple[int, int], list[int]]:
    """Frames by (label, tube)."""
    names = sorted(set(zip(tubes.label.tolist(), tubes.tube.tolist(), strict=True)))
    return {n: tubes.frame[(tubes.label == n[0]) & (tubes.tube == n[1])].tolist() for n in names}


@pytest.mark.parametrize("unit", ["normalised", "pixels"])
def test_crossing_people_keep_their_tubes(unit: str, found_of: Found) -> None:
    scale = 1.0 if unit == "normalised" else 100.0
    rng = np.random.default_rng(3)
    rows = []
    for step in range(21):
        x = 0.05 + 0.035 * step
        adult, child = (x, 0.1, x + 0.15, 0.9), (0.85 - x, 0.4, 1.0 - x, 0.85)
        # Scores alone would hand both tubes to whoever scores best while they overlap.
        for box, score in ((adult, 0.5), (child, 0.5 + 0.3 * rng.random())):
            rows.append(("v", 5 * step, tuple(scale * v for v in box), 0, score))
    found = found_of([rows[at] for at in rng.permutation(len(rows))], unit)
    tubes = link(found)
    assert _frames(tubes) == {(0, 0): list(range(0, 105, 5)), (0, 1): list(range(0, 105, 5))}
    heights = sorted(set(np.round((tubes.boxes[:, 3] - tubes.boxes[:, 1]) / scale, 6).tolist()))
    assert heights == [0.45, 0.8]
    for tube in (0, 1):
        mine = tubes.take(tubes.tube == tube)
        assert len(set(np.round(mine.boxes[:, 3], 6).tolist())) == 1
        assert len(set(mine.score.tolist())) == 1


def test_score_is_the_mean_and_labels_and_videos_stay_apart(found_of: Found) -> None:
    found = found_of([("v", 0, BOX, 0, 0.2), ("v", 1, BOX, 0, 0.4), ("v", 1, BOX, 1, 0.9), ("w", 2, BOX, 0, 0.7)])
    tubes = link(found)
    assert tubes.video.tolist() == ["v", "v", "v", "w"]
    assert tubes.label.tolist() == [0, 0, 1, 0]
    assert tubes.tube.tolist() == [0, 0, 0, 0]
    assert tubes.score == pytest.approx([0.3, 0.3, 0.9, 0.7])


def test_missed_pictures_are_filled_by_a_line(found_of: Found) -> None:
    far = (0.2, 0.2, 0.4, 0.7)
    # Frame 10 has a detection of another label only; 12 is not a picture at all.
    found = found_of([("v", 5, BOX, 0, 0.5), ("v", 10, BOX, 1, 0.5), ("v", 15, far, 0, 0.5)])
    tubes = link(found)
    mine = tubes.take(tubes.label == 0)
    assert mine.frame.tolist() == [5, 10, 15]
    assert mine.boxes[1] == pytest.approx([0.15, 0.15, 0.35, 0.65])


def test_too_long_a_gap_ends_a_tube(found_of: Found) -> None:
    pictures = Keyframes(np.array(["v"] * 6), np.arange(6) * 5)
    found = found_of([("v", 0, BOX, 0, 0.5), ("v", 15, BOX, 0, 0.5), ("v", 25, BOX, 0, 0.5)])
    assert _frames(link(found, Linking(max_gap=2), pictures=pictures)) == {(0, 0): [0, 5, 10, 15, 20, 25]}
    assert _frames(link(found, Linking(max_gap=1), pictures=pictures)) == {(0, 0): [0], (0, 1): [15, 20, 25]}
    # Without the list of pictures nobody looked between them.
    assert _frames(link(found, Linking(max_gap=0))) == {(0, 0): [0, 15, 25]}
    with pytest.raises(ValueError, match=r"frame 15.* lies on none of the pictures"):
        link(found, pictures=Keyframes(np.array(["v"]), np.array([0])))


def test_score_plus_overlap_decides(found_of: Found) -> None:
    near, off = (0.1, 0.1, 0.3, 0.59), (0.1, 0.1, 0.3, 0.3)
    one = link(found_of([("v", 0, BOX, 0, 0.5), ("v", 1, near, 0, 0.4), ("v", 1, off, 0, 0.6)]))
    assert one.take(one.tube == 0).boxes[1] == pytest.approx(near)
    two = link(found_of([("v", 0, BOX, 0, 0.5), ("v", 1, near, 0, 0.1), ("v", 1, off, 0, 0.9)]))
    assert two.take(two.tube == 0).boxes[1] == pytest.approx(off)


def test_the_best_tube_chooses_first(found_of: Found) -> None:
    twin, elsewhere = (0.12, 0.1, 0.32, 0.6), (0.7, 0.1, 0.9, 0.6)
    rows = [("v", 0, twin, 0, 0.4), ("v", 1, BOX, 0, 0.55), ("v", 1, twin, 0, 0.4), ("v", 2, BOX, 0, 0.8)]
    # Frame 2 has one box for two tubes: the younger and better one gets it.
    tubes = link(found_of([*rows, ("v", 2, elsewhere, 0, 0.3)]), Linking(min_iou=0.7))
    assert tubes.score.max() == pytest.approx(0.675)


def test_limits(found_of: Found) -> None:
    apart = (0.5, 0.1, 0.7, 0.6)
    found = found_of([("v", 0, BOX, 0, 0.5), ("v", 1, apart, 0, 0.5), ("v", 1, BOX, 0, 0.04), ("v", 2, BOX, 0, 0.05)])
    assert _frames(link(found)) == {(0, 0): [0, 1, 2], (0, 1): [1]}
    assert link(found, Linking(min_score=0.6)).boxes.shape == (0, 4)
    assert len(link(found_of([]))) == 0
    crowd = found_of([("v", 0, (x / 10, 0.1, x / 10 + 0.05, 0.3), 0, 0.1 + x / 20) for x in range(9)])
    assert sorted(link(crowd, Linking(per_frame=2)).score.tolist()) == pytest.approx([0.45, 0.5])
    some = found_of([("v", 0, BOX, 0, 0.5), ("v", 1, (0.1, 0.1, 0.3, 0.2), 0, 0.5)])
    assert len(_frames(link(some, Linking(min_iou=0.2)))) == 1
    assert len(_frames(link(some, Linking(min_iou=0.21)))) == 2
    with pytest.raises(ValueError, match="cannot link"):
        Linking(per_frame=0)


def test_the_future_changes_no_past(found_of: Found) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for frame in range(20):
        for _ in range(3):
            x, y = rng.random(2) / 2
            rows.append(("v", frame, (x, y, x + 0.3, y + 0.3), 0, float(rng.random())))
    whole = link(found_of(rows), Linking(min_iou=0.3))
    half = link(found_of(rows[:30]), Linking(min_iou=0.3))
    past = whole.take(whole.frame < 10)
    # A tube of the half may go on in the whole, and its filled gap too; every linked box is in both.
    assert {tuple(box) for box in half.boxes.tolist()} <= {tuple(box) for box in past.boxes.tolist()}
    number = {tuple(b): t for b, t in zip(past.boxes.tolist(), past.tube.tolist(), strict=True)}
    for tube in set(half.tube.tolist()):
        assert len({number[tuple(b)] for b in half.boxes[half.tube == tube].tolist()}) == 1
