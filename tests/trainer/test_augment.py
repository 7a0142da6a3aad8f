"""Pictures and boxes change together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training import own_set, run_config, same_in_any_order

from stmixer.model.preprocess import make_clip
from stmixer.model.zoo import variant
from stmixer.trainer.config.run import AugmentSection
from stmixer.trainer.data.augment import AnnotatedClip, flip, jitter_colour, tile, to_short_side
from stmixer.trainer.data.batch import network_input
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.sets import load_data


def marked(height: int, width: int, box: tuple[int, int, int, int], label: int = 0) -> AnnotatedClip:
    """Black frames with a white rectangle (px), which is the box."""
    frames = np.zeros((4, height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    frames[:, y1:y2, x1:x2] = 255
    actions = np.eye(3, dtype=np.bool_)[[label]]
    boxes = np.array([box]) / (width, height, width, height)
    return AnnotatedClip(frames, boxes, actions, np.ones((1, 3), np.bool_), np.zeros(1, np.bool_))


def white(clip: AnnotatedClip) -> list[tuple[float, ...]]:
    """Bounding boxes 0-1 of what is white under each box's own area."""
    height, width = clip.frames.shape[1:3]
    found = []
    for x1, y1, x2, y2 in clip.boxes_xyxy * (width, height, width, height):
        part = np.zeros((height, width), bool)
        part[int(y1) - 3 if y1 > 3 else 0 : int(y2) + 3, int(x1) - 3 if x1 > 3 else 0 : int(x2) + 3] = True
        ys, xs = np.nonzero((clip.frames[2, :, :, 0] > 127) & part)
        found.append((xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height))
    return found


def test_flip() -> None:
    clip = marked(40, 80, (10, 5, 30, 35))
    flipped = flip(clip)
    assert flipped.boxes_xyxy[0].tolist() == pytest.approx([50 / 80, 5 / 40, 70 / 80, 35 / 40])
    assert white(flipped)[0] == pytest.approx(flipped.boxes_xyxy[0].tolist())
    assert np.array_equal(flip(flipped).frames, clip.frames)


def test_tile_keeps_both_actors_where_they_are() -> None:
    left, right = marked(40, 60, (10, 5, 30, 35), 0), marked(80, 80, (20, 30, 50, 70), 2)
    tiled = tile(left, right)
    assert tiled is not None
    assert tiled.frames.shape == (4, 40, 100, 3)
    assert tiled.actions.argmax(1).tolist() == [0, 2]
    for box, seen in zip(tiled.boxes_xyxy, white(tiled), strict=True):
        assert seen == pytest.approx(box.tolist(), abs=0.02)
    small = to_short_side(tiled, 64)
    assert small.frames.shape == (4, 64, 160, 3)
    assert tile(marked(40, 80, (0, 0, 9, 9)), marked(40, 81, (0, 0, 9, 9))) is None, "too long and thin"


def test_colour_jitter_changes_all_frames_alike_and_no_box() -> None:
    clip = marked(40, 60, (10, 5, 30, 35))
    clip.frames[...] = np.random.default_rng(0).integers(0, 255, (1, 40, 60, 3))
    changed = jitter_colour(clip, 0.4, np.random.default_rng(3))
    assert not np.array_equal(changed.frames, clip.frames)
    assert all(np.array_equal(changed.frames[0], frame) for frame in changed.frames)
    assert changed.frames.dtype == np.uint8
    assert np.array_equal(jitter_colour(clip, 0.0, np.random.default_rng(3)).frames, clip.frames)


@pytest.fixture
def clips(tmp_path: Path):
    """``clips(**augment)``: the repository's clips with that augmentation."""
    own_set(tmp_path, "train")
    data = load_data(run_config(tmp_path, sets=[{"kind": "custom", "parts": ["train"]}]), ("train",))
    return lambda **chances: ClipSet(data.train, variant("tiny"), AugmentSection(**chances), 1 << 28)


def test_items_depend_on_their_draw_alone(clips) -> None:
    chances = {"flip": 0.5, "colour_jitter": 0.3, "tile": 0.5, "reduced_lookahead": 0.5}
    draws = [Draw(0, k, (0, 0, k)) for k in (3, 11, 18)]
    one, other = clips(**chances), clips(**chances)
    same_in_any_order(one, other, draws)


def test_short_sides_tiles_and_boxes_in_pixels(clips) -> None:
    items = [clips(short_sides=(96, 128), tile=1.0)[Draw(0, k, (1, k), (k,))] for k in range(4)]
    assert {min(item.frames.shape[1:3]) for item in items} == {96, 128}
    for item in items:
        assert len(item.target.boxes_xyxy_px) in (1, 2)
        height, width = item.frames.shape[1:3]
        boxes = item.target.boxes_xyxy_px
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_reduced_lookahead_repeats_the_last_frame_that_came(clips) -> None:
    whole = clips(flip=0.0, short_sides=(64,))[Draw(0, 7, (0,))].frames
    cut = [clips(flip=0.0, short_sides=(64,), reduced_lookahead=1.0)[Draw(0, 7, (s,))].frames for s in range(6)]
    assert all(torch.equal(frames[:3], whole[:3]) for frames in cut), "what came before the keyframe stays"
    assert any(not torch.equal(frames[3], whole[3]) for frames in cut)


def test_network_input_is_servings(clips) -> None:
    items = [clips(flip=0.0, short_sides=(64,))[Draw(0, k, (0,))] for k in (0, 9)]
    ours, sizes = network_input([item.frames for item in items], variant("tiny").preprocess)
    theirs, their_sizes = make_clip([item.frames.numpy() for item in items], variant("tiny").preprocess)
    assert np.array_equal(ours.numpy(), theirs)
    assert np.array_equal(sizes.numpy(), their_sizes)


def test_network_input_pads_to_the_largest() -> None:
    frames = [torch.full((4, 64, 96, 3), 255, dtype=torch.uint8), torch.full((4, 128, 64, 3), 255, dtype=torch.uint8)]
    clip, sizes = network_input(frames, variant("tiny").preprocess)
    assert clip.shape == (2, 3, 4, 128, 96)
    assert sizes.tolist() == [[96, 64], [64, 128]]
    assert float(clip[0, :, :, 64:].abs().max()) == 0
    assert float(clip[1, :, :, :, 64:].abs().max()) == 0
