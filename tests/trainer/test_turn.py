"""Pictures on their side: whoever is painted into the frames is found again where the boxes say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training import picture_set, run_config

from stmixer.model.zoo import variant
from stmixer.trainer.config.run import AugmentSection
from stmixer.trainer.data.augment import AnnotatedClip
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.data.turn import quarter_turned, turn, turned_extent


def ellipses(rng: np.random.Generator, people: int = 2, height: int = 120, width: int = 160) -> AnnotatedClip:
    """Upright white ellipses on black, apart from each other, each in its box."""
    frames = np.zeros((3, height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    boxes = []
    for column in range(people):
        left, right = (column + np.array((0.2, 0.7))) * width / people
        top, bottom = height * rng.uniform((0.1, 0.7), (0.3, 0.9))
        inside = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
        frames[:, inside] = 255
        boxes.append((left / width, top / height, right / width, bottom / height))
    known = np.ones((people, 3), dtype=np.bool_)
    return AnnotatedClip(frames, np.array(boxes), known, known.copy(), np.zeros(people, dtype=np.bool_))


def seen_in(frame: np.ndarray, box: np.ndarray) -> list[float]:
    """Where a picture is white near a box, px."""
    x1, y1, x2, y2 = box
    part = np.zeros(frame.shape[:2], dtype=np.bool_)
    part[max(0, int(y1) - 4) : int(y2) + 4, max(0, int(x1) - 4) : int(x2) + 4] = True
    ys, xs = np.nonzero((frame[..., 0] > 127) & part)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_quarter_turn_of_boxes() -> None:
    box = np.array([(0.1, 0.2, 0.3, 0.6)])
    assert quarter_turned(box)[0].tolist() == pytest.approx([0.2, 0.7, 0.6, 0.9])
    whole = box
    for _ in range(4):
        whole = quarter_turned(whole)
    assert whole == pytest.approx(box)


def test_people_are_where_their_boxes_are() -> None:
    rng = np.random.default_rng(1)
    exact = oblique = 0
    for _ in range(60):
        clip = ellipses(rng)
        turned = turn(clip, rng)
        height, width = turned.frames.shape[1:3]
        assert (width, height) == (120, 160), "width and height exchanged"
        assert len(turned.boxes_xyxy) == 2
        # a black and white picture's new corners have one random colour
        corners = np.unique(turned.frames[0].reshape(-1, 3), axis=0)
        if len(corners) <= 2:
            exact += 1
            tolerance = 1.01
        else:
            oblique += 1
            tolerance = 2.5
        picture = np.where(np.ptp(turned.frames[1].astype(int), axis=2, keepdims=True) > 0, 0, turned.frames[1])
        for box in turned.boxes_xyxy * (width, height, width, height):
            assert seen_in(picture, box) == pytest.approx(box.tolist(), abs=tolerance)
        assert np.array_equal(turned.frames[0], turned.frames[2])
    assert exact > 15
    assert oblique > 15


def test_what_the_turned_do_is_unknown_and_areas_stay_areas() -> None:
    clip = replace(ellipses(np.random.default_rng(2)), crowd=np.array([False, True]))
    turned = turn(clip, np.random.default_rng(3))
    assert not turned.actions.any()
    assert not turned.annotated.any()
    assert turned.crowd.tolist() == [False, True]
    assert clip.actions.all(), "the clip itself stays"


def test_both_ways_and_from_the_generator_alone() -> None:
    clip = ellipses(np.random.default_rng(4), people=1)
    clip.frames[:, :10, :10] = 255  # the top left corner goes down or up
    ways = set()
    for seed in range(20):
        one, other = turn(clip, np.random.default_rng(seed)), turn(clip, np.random.default_rng(seed))
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
        if len(np.unique(one.frames)) == 2:
            ways.add((bool(one.frames[0, -5, 5, 0]), bool(one.frames[0, 5, -5, 0])))
    assert ways == {(True, False), (False, True)}


def test_an_ellipse_and_an_area() -> None:
    box = np.array([(-3.0, -10.0, 3.0, 10.0)] * 2)
    person, area = turned_extent(box, 90, np.array([False, True]))
    assert person.tolist() == pytest.approx([-10, -3, 10, 3])
    assert area.tolist() == pytest.approx([-10, -3, 10, 3])
    person, area = turned_extent(box, 60, np.array([False, True]))
    assert person[2] == pytest.approx(np.hypot(3 * 0.5, 10 * np.sqrt(0.75)))
    assert area[2] == pytest.approx(3 * 0.5 + 10 * np.sqrt(0.75))
    assert (area[2:] > person[2:]).all()


def test_a_clip_without_people() -> None:
    empty = ellipses(np.random.default_rng(0), people=0)
    turned = turn(replace(empty, boxes_xyxy=np.zeros((0, 4))), np.random.default_rng(0))
    assert turned.frames.shape == (3, 160, 120, 3)
    assert turned.boxes_xyxy.shape == (0, 4)


def test_one_person_left_by_a_turn_has_no_neighbour_where_all_have_company(tmp_path: Path) -> None:
    boxes = "image,x1,y1,x2,y2\nstreet.png,0.45,0.3,0.55,0.7\nstreet.png,0.0,0.75,0.06,1.0\n"
    picture_set(tmp_path, "image,split\nstreet.png,train\n", boxes)
    run = run_config(tmp_path, sets=[{"kind": "pictures", "parts": ["train"]}], labels=["walk"])
    sources = load_data(run, ("train",)).train
    assert not len(sources[0].single_actors())
    clips = ClipSet(sources, variant("tiny", classes=1), AugmentSection(turn=1, tile=1, short_sides=(64,)), 0)
    people = {len(clips[Draw(0, 0, (number,))].target.boxes_xyxy_px) for number in range(24)}
    assert people == {1, 2}, "the turn drops one of them at times"
