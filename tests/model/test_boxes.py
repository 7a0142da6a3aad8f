"""Boxes as arrays: fractions of the frame, overlaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from stmixer.model.boxes import areas, pairwise_iou, xyxy_px_to_xyxy


def test_fractions_of_each_clips_own_frame() -> None:
    boxes = np.array([[[-5, -1, 120, 60], [10, 20, 50, 25]]] * 2, np.float32)
    sizes = np.array([[100, 50], [200, 400]], np.float32)
    fractions = xyxy_px_to_xyxy(boxes, sizes)
    assert fractions.dtype == np.float32
    np.testing.assert_allclose(fractions[0], [[0, 0, 0.99, 0.98], [0.1, 0.4, 0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(fractions[1], [[0, 0, 0.6, 0.15], [0.05, 0.05, 0.25, 0.0625]], rtol=1e-6)


def test_overlaps_are_torchvisions() -> None:
    draw = np.random.default_rng(0)
    boxes = [np.sort(draw.random((n, 2, 2)), axis=1).reshape(n, 4) for n in (7, 5)]
    expected = box_iou(*(torch.from_numpy(b) for b in boxes)).numpy()
    np.testing.assert_allclose(pairwise_iou(*boxes), expected, atol=1e-12)
    assert (expected > 0).any()


def test_boxes_without_area_overlap_nothing() -> None:
    point = np.array([[0.5, 0.5, 0.5, 0.5]])
    with np.errstate(all="raise"):
        assert pairwise_iou(point, point).tolist() == [[0.0]]
    assert pairwise_iou(np.zeros((0, 4)), point).shape == (0, 1)


def test_areas() -> None:
    assert areas(np.array([[1.0, 2.0, 4.0, 8.0]])).tolist() == [pytest.approx(18)]
