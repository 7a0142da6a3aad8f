"""Somebody who lies, cut out of another clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stmixer.trainer.data.augment import AnnotatedClip
from stmixer.trainer.data.paste import LENGTH_SHARES, paste

HEIGHT, WIDTH = 200, 260


def grey(boxes: list[tuple[float, ...]], crowd: list[bool] | None = None, level: int = 60) -> AnnotatedClip:
    """Grey frames; the boxes show nothing."""
    frames = np.full((3, HEIGHT, WIDTH, 3), level, np.uint8)
    n = len(boxes)
    known = np.ones((n, 2), dtype=np.bool_)
    areas = np.array(crowd or [False] * n, dtype=np.bool_)
    return AnnotatedClip(frames, np.array(boxes, dtype=np.float64).reshape(-1, 4), known, known.copy(), areas)


def standing() -> AnnotatedClip:
    """A white ellipse, 40 by 120 px."""
    clip = grey([(0.4, 0.2, 0.4 + 40 / WIDTH, 0.8)])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = ((x - 0.4 * WIDTH - 20) / 20) ** 2 + ((y - 100) / 60) ** 2 < 1
    clip.frames[:, inside] = 255
    return clip


def test_somebody_lies_where_the_new_box_is() -> None:
    lying = 0
    for seed in range(40):
        clip = grey([])
        pasted = paste(clip, standing(), np.random.default_rng(seed))
        assert pasted.boxes_xyxy.shape == (1, 4)
        box = pasted.boxes_xyxy[0] * (WIDTH, HEIGHT, WIDTH, HEIGHT)
        width, height = box[2:] - box[:2]
        lying += width > height
        assert width > 0.8 * height
        assert max(width, height) <= LENGTH_SHARES[1] * HEIGHT + 1
        ys, xs = np.nonzero(pasted.frames[1, ..., 0] > 127)
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        # the rim is soft: a little less is seen
        assert seen == pytest.approx(box.tolist(), abs=0.08 * max(width, height) + 1.5)
        outside = pasted.frames.copy()
        outside[:, max(0, int(box[1]) - 6) : int(box[3]) + 7, max(0, int(box[0]) - 6) : int(box[2]) + 7] = 60
        assert (outside == 60).all(), "nothing else has changed"
        assert not pasted.actions.any()
        assert not pasted.annotated.any()
        assert not pasted.crowd.any()
    assert lying > 30


def test_only_into_free_room() -> None:
    there = grey([(0.0, 0.0, 1.0, 0.55), (0.6, 0.5, 1.0, 1.0)], [False, True])
    done = 0
    for seed in range(40):
        pasted = paste(there, standing(), np.random.default_rng(seed))
        if pasted is there:
            continue
        done += 1
        assert pasted.crowd.tolist() == [False, True, False]
        assert pasted.actions.any(1).tolist() == [True, True, False]
        x1, y1, x2, y2 = pasted.boxes_xyxy[2]
        assert y1 >= 0.55 - 1e-9
        assert x2 <= 0.6 + 1e-9
        assert x1 >= 0
        assert y2 <= 1
    assert done > 5
    full = grey([(0.0, 0.0, 1.0, 1.0)])
    assert paste(full, standing(), np.random.default_rng(0)) is full


@pytest.mark.parametrize(
    ("boxes", "crowd"),
    [
        ([], []),
        ([(0.1, 0.1, 0.2, 0.8)], [True]),
        ([(0.1, 0.4, 0.8, 0.6)], [False]),
        ([(0.1, 0.0, 0.2, 0.8)], [False]),
        ([(0.1, 0.2, 0.2, 1.0)], [False]),
        ([(0.0, 0.1, 0.1, 0.8)], [False]),
        ([(0.9, 0.1, 1.0, 0.8)], [False]),
        ([(0.1, 0.1, 0.11, 0.2)], [False]),
        ([(0.1, 0.1, 0.25, 0.8), (0.15, 0.1, 0.3, 0.8)], [False, False]),
    ],
    ids=["nobody", "an area", "lying", "cut above", "below", "left", "right", "too small", "behind each other"],
)
def test_who_is_not_cut_out(boxes: list[tuple[float, ...]], crowd: list[bool]) -> None:
    clip = grey([])
    assert paste(clip, grey(boxes, crowd), np.random.default_rng(0)) is clip


def test_donors_of_another_size_and_one_generator() -> None:
    clip = grey([])
    small = standing()
    small = replace(small, frames=np.ascontiguousarray(small.frames[:, ::2, ::2]))
    one, other = (paste(clip, small, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(one.frames, other.frames)
    assert len(one.boxes_xyxy) == 1
    assert (clip.frames == 60).all(), "the clip itself stays"
