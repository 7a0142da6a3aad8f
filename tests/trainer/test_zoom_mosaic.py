"""Zoom, mosaic and stills: whoever is painted into the frames is found again where the boxes say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training import same_in_any_order

from stmixer.trainer.config.file import parse_config
from stmixer.trainer.data.augment import LEAST_PX, AnnotatedClip, flip, mosaic, tile, zoom
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.errors import TrainError

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def painted(
    rng: np.random.Generator, people: int, height: int = 120, width: int = 160, least: int = 14
) -> AnnotatedClip:
    """Up to three people as rectangles of a pure colour, side by side, each with a row of its own."""
    frames = np.full((3, height, width, 3), 128, np.uint8)
    boxes = []
    for column in range(people):
        start, end = column * width // 3, (column + 1) * width // 3
        wide, high = rng.integers(least, end - start + 1), rng.integers(least, height + 1)
        left, top = rng.integers(start, end - wide + 1), rng.integers(0, height - high + 1)
        frames[:, top : top + high, left : left + wide] = COLOURS[column]
        boxes.append((left / width, top / height, (left + wide) / width, (top + high) / height))
    rows = np.eye(3, dtype=np.bool_)[:people]
    return AnnotatedClip(frames, np.array(boxes).reshape(-1, 4), rows, rows.copy(), np.zeros(people, dtype=np.bool_))


def seen(frame: np.ndarray, colour: tuple[int, ...]) -> tuple[float, ...] | None:
    """Where a frame has nearly this colour, px."""
    there = (np.abs(frame.astype(int) - colour) < 100).all(-1)
    if not there.any():
        return None
    ys, xs = np.nonzero(there)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


@pytest.mark.parametrize("scales", [(1.2, 3.0), (0.4, 0.9), (0.5, 2.0)])
def test_zoomed_people_are_where_their_boxes_are(scales: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    changed = cut = left_out = 0
    for _ in range(150):
        clip = painted(rng, int(rng.integers(1, 4)))
        zoomed = zoom(clip, *scales, rng)
        height, width = zoomed.frames.shape[1:3]
        assert (width, height) == (160, 120)
        assert (zoomed.boxes_xyxy >= 0).all()
        assert (zoomed.boxes_xyxy <= 1).all()
        if zoomed.frames is clip.frames:
            continue
        changed += 1
        people = zoomed.actions.argmax(1)
        left_out += len(clip.boxes_xyxy) - len(people)
        assert len(people), "never without everybody"
        sides = (zoomed.boxes_xyxy[:, 2:] - zoomed.boxes_xyxy[:, :2]) * (width, height)
        assert (sides >= LEAST_PX - 1e-9).all()
        cut += int((zoomed.boxes_xyxy == 0).any() or (zoomed.boxes_xyxy == 1).any())
        for box, person in zip(zoomed.boxes_xyxy * (width, height, width, height), people, strict=True):
            # the padding's random colour may look like a person's; it does not lie inside the box
            inner = zoomed.frames[1, round(box[1]) : round(box[3]), round(box[0]) : round(box[2])]
            place = seen(inner, COLOURS[person])
            assert place is not None
            assert place == pytest.approx((0, 0, inner.shape[1], inner.shape[0]), abs=1.51)
        assert np.array_equal(zoomed.frames[0], zoomed.frames[2])
    assert changed > 75
    if scales[0] > 1:
        assert cut
        assert left_out


def test_nobody_is_cut_in_half() -> None:
    """Of whoever has no box after a zoom, next to nothing shows."""
    rng = np.random.default_rng(2)
    checked = 0
    for _ in range(200):
        clip = painted(rng, 3)
        zoomed = zoom(clip, 1.2, 2.5, rng)
        for person in set(range(3)) - set(zoomed.actions.argmax(1)):
            x1, y1, x2, y2 = clip.boxes_xyxy[person] * (160, 120, 160, 120)
            now = int((np.abs(zoomed.frames[1].astype(int) - COLOURS[person]) < 100).all(-1).sum())
            assert now <= 0.15 * (x2 - x1) * (y2 - y1) * 2.5**2
            checked += 1
    assert checked > 30


def test_zoom_of_an_empty_clip_and_of_one_that_cannot_be() -> None:
    empty = zoom(painted(np.random.default_rng(0), 0), 1.5, 1.5, np.random.default_rng(0))
    assert (empty.boxes_xyxy.shape, empty.actions.shape) == ((0, 4), (0, 3))
    small = painted(np.random.default_rng(3), 1)
    assert zoom(small, 0.05, 0.06, np.random.default_rng(0)) is small, "everybody would be smaller than 8 px"


def test_zoom_takes_everything_from_its_generator() -> None:
    clip = painted(np.random.default_rng(5), 2)
    one, other, third = (zoom(clip, 0.5, 2, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(one.frames, other.frames)
    assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
    assert not np.array_equal(one.frames, third.frames)


def test_mosaic_keeps_everybody_with_their_own_mask() -> None:
    rng = np.random.default_rng(4)
    sizes = ((120, 160), (160, 120), (90, 200), (121, 161))
    done = 0
    for _ in range(20):
        clips = [painted(rng, people, *size, least=25) for people, size in zip((1, 2, 3, 0), sizes, strict=True)]
        together = mosaic(clips, rng)
        if together is None:
            continue
        done += 1
        assert together.frames.shape == clips[0].frames.shape
        assert together.actions.argmax(1).tolist() == [0, 0, 1, 0, 1, 2]
        assert np.array_equal(together.annotated, together.actions), "as each clip has it"
        for box, person in zip(together.boxes_xyxy * (160, 120, 160, 120), together.actions.argmax(1), strict=True):
            inner = together.frames[0, round(box[1]) : round(box[3]), round(box[0]) : round(box[2])]
            place = seen(inner, COLOURS[person])
            assert place is not None
            assert place == pytest.approx((0, 0, inner.shape[1], inner.shape[0]), abs=1.51)
    assert done > 3
    tiny = painted(rng, 1, 120, 160)
    tiny.boxes_xyxy[0] = (0.1, 0.1, 0.15, 0.15)
    assert mosaic([tiny] * 4, rng) is None


def test_a_still_is_the_keyframe_all_along(clips) -> None:
    plain = clips(flip=0.0, short_sides=(64,))[Draw(0, 7, (0,))]
    still = clips(flip=0.0, short_sides=(64,), still=1.0)[Draw(0, 7, (0,))]
    middle = len(plain.frames) // 2
    assert still.frames.shape == plain.frames.shape
    assert all(torch.equal(frame, plain.frames[middle]) for frame in still.frames)
    assert not torch.equal(plain.frames[0], plain.frames[middle])
    assert torch.equal(still.target.boxes_xyxy_px, plain.target.boxes_xyxy_px)


def test_mosaics_mix_sets_and_depend_on_their_draw_alone(clips) -> None:
    chances = {"mosaic": 1.0, "zoom": 0.5, "still": 0.3, "short_sides": (64, 96)}
    draws = [Draw(0, k, (0, 0, k)) for k in range(8)]
    one, other = clips(**chances), clips(**chances)
    forwards = same_in_any_order(one, other, draws)
    assert max(len(item.target.boxes_xyxy_px) for item in forwards) >= 4
    masks = {tuple(row) for item in forwards for row in item.target.annotated.tolist()}
    assert len(masks) >= 3, "two sets' labels, and people of unknown action"


def test_a_range_that_falls_is_refused() -> None:
    with pytest.raises(TrainError, match="zoom_range must rise"):
        parse_config({"run_dir": ".", "sets": [{"kind": "custom"}], "augment": {"zoom_range": [2, 0.5]}})


def with_area(clip: AnnotatedClip, area: tuple[float, ...]) -> AnnotatedClip:
    """The clip with an area to ignore, painted white, beside its people."""
    height, width = clip.frames.shape[1:3]
    x1, y1, x2, y2 = np.rint(np.array(area) * (width, height, width, height)).astype(int)
    clip.frames[:, y1:y2, x1:x2] = 255
    nothing = np.zeros((1, 3), dtype=np.bool_)
    return AnnotatedClip(
        clip.frames,
        np.concatenate((clip.boxes_xyxy, [area])),
        np.concatenate((clip.actions, nothing)),
        np.concatenate((clip.annotated, nothing)),
        np.append(clip.crowd, True),
    )


def test_a_zoom_may_cut_an_area_to_ignore_and_nobody_is_kept_for_it() -> None:
    rng = np.random.default_rng(2)
    cut = gone = 0
    for _ in range(60):
        clip = with_area(painted(rng, 1), (0.5, 0, 1, 0.5))
        zoomed = zoom(clip, 1.5, 3, rng)
        if zoomed.frames is clip.frames:
            continue
        assert zoomed.people == 1, "an area is nobody: a view that shows it alone is not to be"
        gone += not zoomed.crowd.any()
        for x1, y1, x2, y2 in zoomed.boxes_xyxy[zoomed.crowd] * (160, 120, 160, 120):
            inner = zoomed.frames[0, round(y1) : round(y2), round(x1) : round(x2)]
            assert inner.size == 0 or (inner[1:-1, 1:-1] > 200).all(), "what is ignored is what was ignored"
            cut += (x2 - x1, y2 - y1) != pytest.approx((240, 180), abs=1)
        outside = zoomed.frames[0].copy()
        for x1, y1, x2, y2 in zoomed.boxes_xyxy[zoomed.crowd] * (160, 120, 160, 120):
            outside[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = 0
        assert not (outside > 250).all(-1).any(), "and all of it that can be seen"
    assert cut > 10
    assert gone > 0


def test_areas_of_any_size_go_into_a_mosaic_and_a_flip() -> None:
    rng = np.random.default_rng(6)
    clips = [with_area(painted(rng, 1, least=30), (0.9, 0.9, 0.93, 0.93)) for _ in range(4)]
    together = mosaic(clips, rng)
    assert together is not None, "an area under 8 px is no reason to leave a mosaic out"
    assert together.crowd.tolist() == [False, True] * 4
    assert together.people == 4
    for quarter, box in enumerate(together.boxes_xyxy[together.crowd]):
        corner = np.array((quarter % 2, quarter // 2)) / 2
        assert box.tolist() == pytest.approx([*(corner + 0.45), *(corner + 0.465)], abs=1e-6)
    beside = tile(clips[0], clips[1])
    assert beside is not None
    assert beside.crowd.tolist() == [False, True, False, True]
    assert flip(clips[0]).crowd.tolist() == [False, True]
