"""A moving camera: the keyframe stays, the other frames move smoothly, and boxes move with their own frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stmixer.trainer.data.augment import AnnotatedClip
from stmixer.trainer.data.camera_motion import camera_motion

T = 8


def marked(count: int = T, height: int = 90, width: int = 120) -> AnnotatedClip:
    """A white rectangle in the middle of black frames."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, 30:60, 50:70] = 255
    boxes = np.array([(50 / width, 30 / height, 70 / width, 60 / height)])
    known = np.ones((1, 2), dtype=np.bool_)
    return AnnotatedClip(frames, boxes, known, known.copy(), np.zeros(1, dtype=np.bool_))


def centre(frame: np.ndarray) -> np.ndarray:
    """Of what is white, px."""
    ys, xs = np.nonzero(frame[..., 0] > 127)
    return np.array((xs.mean() + 0.5, ys.mean() + 0.5))


def test_the_keyframe_stays_and_the_others_move_smoothly() -> None:
    clip, far = marked(), []
    for seed in range(40):
        moved = camera_motion(clip, range(T), np.random.default_rng(seed))
        assert np.array_equal(moved.frames[T // 2], clip.frames[T // 2])
        assert moved.boxes_xyxy is clip.boxes_xyxy
        assert np.array_equal(moved.actions, clip.actions)
        places = np.array([centre(frame) for frame in moved.frames])
        # 3 % of the short side a sample, 1 % of shaking at both ends, and what zoom and roll add in the middle
        assert np.abs(np.diff(places, axis=0)).max() < 0.06 * 90
        far.append(np.abs(places - places[T // 2]).max())
    assert np.median(far) > 3
    assert not np.array_equal(clip.frames, moved.frames)


def test_frames_of_one_moment_move_alike() -> None:
    clip = marked()
    moments = [0, 1, 2, 3, 4, 5, 5, 5]
    moved = camera_motion(clip, moments, np.random.default_rng(3))
    assert np.array_equal(moved.frames[5], moved.frames[6])
    assert np.array_equal(moved.frames[5], moved.frames[7])
    assert not np.array_equal(moved.frames[4], moved.frames[5])


def test_people_of_several_frames_move_with_them() -> None:
    count = 24
    clip = marked(count)
    rows = np.zeros(count, dtype=np.int64)
    clip = replace(clip.take(rows), at=np.arange(count), crowd=np.zeros(count, dtype=np.bool_))
    for seed in range(10):
        moved = camera_motion(clip, range(count), np.random.default_rng(seed))
        assert moved.at is not None
        assert moved.at.tolist() == list(range(count))
        middles = (moved.boxes_xyxy[:, :2] + moved.boxes_xyxy[:, 2:]) / 2 * (120, 90)
        for at, middle in zip(moved.at, middles, strict=True):
            assert centre(moved.frames[at]) == pytest.approx(middle, abs=0.6)
        sides = (moved.boxes_xyxy[:, 2:] - moved.boxes_xyxy[:, :2]) * (120, 90)
        areas = np.array([(moved.frames[at, ..., 0] > 127).sum() for at in moved.at])
        assert sides.prod(1) == pytest.approx(areas, rel=0.12)
        assert np.ptp(middles, axis=0).max() > 1


def test_a_still_stays_and_all_comes_from_the_generator() -> None:
    still = marked(1)
    assert camera_motion(still, (7,), np.random.default_rng(0)) is still
    one, other, third = (camera_motion(marked(), range(T), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one.frames, other.frames)
    assert not np.array_equal(one.frames, third.frames)


def test_nobody_is_moved_out_of_sight() -> None:
    """Who stands at the edge on another frame is cut, or the clip stays as it is."""
    clip = replace(marked(24), boxes_xyxy=np.array([(0.0, 0.3, 0.05, 0.6)]), at=np.array([23]))
    for seed in range(30):
        moved = camera_motion(clip, range(24), np.random.default_rng(seed))
        assert len(moved.boxes_xyxy) == 1
        assert (moved.boxes_xyxy >= 0).all()
        assert (moved.boxes_xyxy[:, 2:] > moved.boxes_xyxy[:, :2]).all()
