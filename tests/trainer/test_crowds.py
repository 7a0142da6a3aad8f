"""Many people and small ones: k x k mosaics, and zooms that make people as small as they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training import custom_set, run_config, same_in_any_order

from stmixer.model.zoo import variant
from stmixer.trainer.config.file import parse_config
from stmixer.trainer.config.run import AugmentSection
from stmixer.trainer.data.augment import LEAST_PX, MOST_PEOPLE, AnnotatedClip, mosaic, small_ignored, zoom
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError


def people(*boxes_px: tuple[int, int, int, int], height: int = 120, width: int = 160) -> AnnotatedClip:
    """White boxes, px, on black."""
    frames = np.zeros((2, height, width, 3), np.uint8)
    for x1, y1, x2, y2 in boxes_px:
        frames[:, y1:y2, x1:x2] = 255
    n = len(boxes_px)
    known = np.ones((n, 3), dtype=np.bool_)
    boxes = np.array(boxes_px, dtype=np.float64).reshape(-1, 4) / (width, height, width, height)
    return AnnotatedClip(frames, boxes, known, known.copy(), np.zeros(n, dtype=np.bool_))


def longer_sides(clip: AnnotatedClip) -> np.ndarray:
    height, width = clip.frames.shape[1:3]
    return ((clip.boxes_xyxy[:, 2:] - clip.boxes_xyxy[:, :2]) * (width, height)).max(1)


def test_nine_in_one_with_the_small_as_areas() -> None:
    clip = people((10, 10, 30, 100), (80, 20, 90, 32))  # 90 px become 30, 12 become 4
    together = mosaic([clip] * 9, np.random.default_rng(0), ignore_small=True)
    assert together is not None
    assert together.frames.shape == clip.frames.shape
    assert together.crowd.tolist() == [False, True] * 9
    assert longer_sides(together)[~together.crowd] == pytest.approx(30, abs=1)
    assert together.people == 9
    assert not together.annotated[together.crowd].any()
    assert not together.actions[together.crowd].any()
    assert together.annotated[~together.crowd].all()
    for box in together.boxes_xyxy[~together.crowd] * (160, 120, 160, 120):
        x1, y1, x2, y2 = np.rint(box).astype(int)
        assert together.frames[0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 200
    assert mosaic([clip] * 9, np.random.default_rng(0)) is None, "without areas nobody may be so small"


def test_at_most_forty_are_taught_the_largest() -> None:
    row = people(*((i * 26, 10, i * 26 + 20, 60 + 8 * i) for i in range(6)))
    together = mosaic([row] * 9, np.random.default_rng(0), ignore_small=True)
    assert together is not None
    assert len(together.boxes_xyxy) == 54
    assert together.people == MOST_PEOPLE
    sizes = longer_sides(together)
    assert sizes[together.crowd].max() <= sizes[~together.crowd].min() + 1e-9


def test_zoom_reaches_people_of_ten_pixels() -> None:
    rng = np.random.default_rng(1)
    clip = people((20, 20, 40, 80), (100, 30, 116, 60))
    small, areas = [], 0
    for _ in range(100):
        view = zoom(clip, 0.15, 0.5, rng, ignore_small=True)
        assert view.people
        sizes = longer_sides(view)
        assert (sizes[~view.crowd] >= LEAST_PX).all()
        assert (sizes[view.crowd] < LEAST_PX).all()
        small += sizes[~view.crowd].tolist()
        areas += int(view.crowd.sum())
        assert not view.annotated[view.crowd].any()
    assert min(small) < 10
    assert areas > 10
    plain = [longer_sides(zoom(clip, 0.15, 0.5, rng)).min() for _ in range(100)]
    assert min(plain) > 12, "without areas the narrow one must keep 8 px in width"


def test_a_view_of_nothing_but_areas_is_none() -> None:
    clip = people((20, 20, 40, 80))
    assert zoom(clip, 0.05, 0.06, np.random.default_rng(0), ignore_small=True) is clip
    area = replace(clip, crowd=np.ones(1, dtype=np.bool_))
    assert zoom(area, 0.05, 0.06, np.random.default_rng(0), ignore_small=True) is not area, "there nobody is to be seen"


def test_what_is_shrunk_far_is_softened_first() -> None:
    """A picture of stripes becomes grey and not stripes of another width."""
    clip = people()
    clip.frames[:, :, ::2] = 255
    shrunk = zoom(clip, 0.25, 0.25, np.random.default_rng(0)).frames[0]
    grey = (np.abs(shrunk.astype(int) - 127) < 20).all(2)
    assert grey.sum() > 0.8 * 40 * 30


def test_only_people_become_areas() -> None:
    clip = people((0, 0, 7, 7), (0, 0, 7, 8), (50, 50, 60, 60))
    assert small_ignored(clip).crowd.tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["crowd_mosaic", "turn", "paste", "camera"])
def test_each_is_done_and_depends_on_its_draw_alone(clips, name: str) -> None:
    draws = [Draw(0, k, (0, 0, k)) for k in range(4)]
    chances = {"flip": 0.0, "short_sides": (96,)}
    one, other = clips(**chances, **{name: 1.0}), clips(**chances, **{name: 1.0})
    done = same_in_any_order(one, other, draws)
    plain = [clips(**chances)[draw] for draw in draws]
    assert any(
        a.frames.shape != b.frames.shape or not torch.equal(a.frames, b.frames)
        for a, b in zip(done, plain, strict=True)
    )
    for item in done:
        height, width = item.frames.shape[1:3]
        assert min(height, width) == 96
        assert (item.target.boxes_xyxy_px >= 0).all()
        assert (item.target.boxes_xyxy_px <= torch.tensor([width, height, width, height])).all()
    if name == "crowd_mosaic":
        assert max(len(i.target.boxes_xyxy_px) + len(i.target.ignore_xyxy_px) for i in done) >= 7
    if name == "turn":
        assert all(a.frames.shape[1:3] == b.frames.shape[2:0:-1] for a, b in zip(done, plain, strict=True))
        assert not any(item.target.annotated.any() for item in done)
    if name == "camera":
        middle = len(plain[0].frames) // 2
        assert all(torch.equal(a.frames[middle], b.frames[middle]) for a, b in zip(done, plain, strict=True))


def test_all_together(clips) -> None:
    chances = {"turn": 0.3, "paste": 0.5, "camera": 0.5, "crowd_mosaic": 0.3, "crowd_side": 4, "mosaic": 0.3}
    chances |= {"zoom": 0.7, "zoom_range": (0.2, 2.0), "ignore_small": True, "reduced_lookahead": 0.5, "still": 0.2}
    draws = [Draw(k % 2, 3 if k % 2 else k, (0, 1, k)) for k in range(10)]
    same_in_any_order(clips(short_sides=(96,), **chances), clips(short_sides=(96,), **chances), draws)


def test_in_the_end_nobody_small_is_taught(tmp_path: Path) -> None:
    """Also where nothing but the size of the picture makes them small."""
    boxes = (
        "video,frame,x1,y1,x2,y2,label,track\nwalk.mp4,0,0.1,0.2,0.2,0.6,walk,1\nwalk.mp4,0,0.5,0.5,0.52,0.6,walk,2\n"
    )
    custom_set(tmp_path, boxes, {"walk.mp4": "train"})
    data = load_data(run_config(tmp_path, sets=[{"kind": "custom", "parts": ["train"]}]), ("train",))
    counts = []
    for ignore in (True, False):
        chances = AugmentSection(flip=0.0, short_sides=(64,), ignore_small=ignore)
        target = ClipSet(data.train, variant("tiny"), chances, 1 << 28)[Draw(0, 0, (0,))].target
        counts.append((len(target.boxes_xyxy_px), len(target.ignore_xyxy_px)))
    assert counts == [(1, 1), (2, 0)]


@pytest.mark.parametrize("name", ["crowd_mosaic", "paste"])
def test_not_with_cached_features(name: str) -> None:
    augment = {"short_sides": [224], "within": 1.4, name: 0.1}
    run = {"run_dir": ".", "model": "rt_lite0", "sets": [{"kind": "custom"}], "frozen": ["backbone."]}
    with pytest.raises(TrainError, match=r"not together with augment.crowd_mosaic or augment\.paste"):
        parse_config({**run, "cached_features": {"segments": 3}, "augment": augment})
