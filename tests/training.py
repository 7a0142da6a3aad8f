"""What the trainer's tests share: reference networks and inputs, and small sets written by the test."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from model.detector import Detector, skeleton
from model.published import published_name
from model.zoo import variant
from trainer.targets import Target, fully_annotated

TESTS = Path(__file__).resolve().parent
REFERENCE = TESTS / "reference"
CLIPS = TESTS / "clips"
DATA = TESTS / "trainer" / "data"


def filled(fill: ModuleType, name: str, classes: int | None = None, seed: int = 0) -> Detector:
    """A variant with fill.py's weights: no zero, no degenerate norm."""
    detector = skeleton(variant(name, classes=classes))
    state = {
        key: torch.as_tensor(fill.fill(published_name(key), tensor.shape, seed))
        for key, tensor in detector.state_dict().items()
    }
    detector.load_state_dict(state, strict=True, assign=True)
    return detector.requires_grad_(True).eval()


def reference_detector(fill: ModuleType, name: str, sizes: list[tuple[int, int]]) -> tuple[Detector, Tensor, Tensor]:
    """A detector and its clips at these sizes (width, height), padded together as the reference has them."""
    detector = filled(fill, name)
    width, height = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    clip = torch.zeros(len(sizes), 3, detector.config.clip.frames, height, width)
    for i, (w, h) in enumerate(sizes):
        clip[i, :, :, :h, :w] = torch.from_numpy(fill.clip((3, clip.shape[2], h, w), i))
    return detector, clip, torch.tensor(sizes, dtype=torch.float32)


def reference_targets(fill: ModuleType, sizes: list[tuple[int, int]], classes: int = 80) -> list[Target]:
    """fill.py's targets, every label annotated."""
    return [
        fully_annotated(torch.from_numpy(boxes), torch.from_numpy(actions))
        for boxes, actions in fill.targets(sizes, classes, 0)
    ]
