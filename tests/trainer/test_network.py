"""Evaluations of realtime variants compute a frame once, with the numbers of the plain forward."""

from __future__ import annotations

import pytest
import torch

from stmixer.model.detector import build
from stmixer.model.zoo import variant
from stmixer.trainer.evaluate.network import once_per_frame

SIZES_WH = torch.tensor([[64.0, 60.0], [50.0, 64.0]])


@torch.inference_mode()
def test_shared_frames_are_computed_once_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build(variant("rt_lite0", classes=3))
    frames = torch.randn(10, 3, 64, 64)
    clip = torch.stack((frames[:8], frames[[2, 3, 4, 5, 6, 7, 8, 8]])).transpose(1, 2)
    expected = detector(clip, SIZES_WH).stages[-1]
    seen: list[int] = []
    stage = detector.frame_stage
    monkeypatch.setattr(detector, "frame_stage", lambda x: (seen.append(len(x)), stage(x))[1])
    found = once_per_frame(detector, clip, SIZES_WH).stages[-1]
    assert seen == [9]
    assert (found.boxes_xyxy_px - expected.boxes_xyxy_px).abs().max() <= 1e-4
    assert (found.action_logits - expected.action_logits).abs().max() <= 1e-4


@torch.inference_mode()
def test_other_variants_run_as_they_are() -> None:
    detector = build(variant("tiny"))
    clip = torch.randn(2, 3, 4, 64, 64)
    expected, found = detector(clip, SIZES_WH), once_per_frame(detector, clip, SIZES_WH)
    assert torch.equal(found.stages[-1].action_logits, expected.stages[-1].action_logits)
