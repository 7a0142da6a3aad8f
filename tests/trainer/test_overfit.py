"""Each ablation and long-term model, at toy size, learns two clips by heart, as the default does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from narrow import ABLATIONS, LONG_TERM, narrow
from torch import Tensor

from stmixer.model.box_tensors import pairwise_iof
from stmixer.model.config import DetectorConfig
from stmixer.model.decoder import last_arrays
from stmixer.model.detector import Detector, build
from stmixer.model.postprocess import PostProcess
from stmixer.trainer.data.targets import Target, fully_annotated
from stmixer.trainer.training.criterion import Criterion

STEPS = 80
RATE = 2e-3
CLASSES = 4
WIDTH, HEIGHT = 96, 64


def two_clips(config: DetectorConfig) -> tuple[list[Tensor], list[Target]]:
    """Noise with bright people in it: two in the first clip, one in the second; each does one thing."""
    draw = torch.Generator().manual_seed(0)
    clip = 0.3 * torch.randn(2, 3, config.clip.frames, HEIGHT, WIDTH, generator=draw)
    people = [[(8, 10, 40, 58, 0), (56, 6, 90, 50, 1)], [(30, 4, 66, 60, 2)]]
    targets = []
    for i, actors in enumerate(people):
        actions = torch.zeros(len(actors), CLASSES)
        for k, (x1, y1, x2, y2, action) in enumerate(actors):
            clip[i, action, :, y1:y2, x1:x2] += 2.0
            actions[k, action] = 1
        boxes = torch.tensor([actor[:4] for actor in actors], dtype=torch.float32)
        targets.append(fully_annotated(boxes, actions))
    given = [clip, torch.tensor([[float(WIDTH), float(HEIGHT)]] * 2)]
    if config.long_term is not None:
        entries = torch.randn(2, config.long_term.entries, 2 * config.decoder.dim, generator=draw)
        given += [entries, torch.rand(entries.shape[:2], generator=draw) < 0.7]
    return given, targets


def learn(detector: Detector, given: list[Tensor], targets: list[Target]) -> list[float]:
    """Losses, step by step."""
    criterion = Criterion()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=RATE, weight_decay=1e-4)
    losses = []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (0.1 if step >= 0.8 * STEPS else 1.0)
        loss = criterion(detector(*given), targets, given[1]).total
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


def overlap(a: Tensor, b: Tensor) -> float:
    """IoU of two boxes, from their shares of each other."""
    iof = pairwise_iof(torch.stack((a, b))[None])[0]
    ab, ba = iof[0, 1].item(), iof[1, 0].item()
    return 0.0 if ab == 0 else 1 / (1 / ab + 1 / ba - 1)


SLOW = ("default", "coupled", "fixed", "keyframe_res5", *LONG_TERM)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.drill)
        for name in ("default", *ABLATIONS, *LONG_TERM)
    ],
)
def test_overfits_two_clips(name: str) -> None:
    """Every person is found once, nobody else is, boxes fit to IoU 0.8, and the actions are the right ones."""
    config = narrow("slowonly" if name == "default" else name)
    config = replace(config, decoder=replace(config.decoder, classes=CLASSES))
    given, targets = two_clips(config)
    torch.manual_seed(0)
    detector = build(config)
    losses = learn(detector, given, targets)
    assert losses[-1] < 0.1 * losses[0], f"{losses[0]:.3f} -> {losses[-1]:.3f}"
    with torch.inference_mode():
        found = PostProcess(0.6)(*last_arrays(detector(*given), given[1]))
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    for people, target in zip(found, targets, strict=True):
        boxes = torch.from_numpy(people.boxes_xyxy) * scale
        assert len(boxes) == len(target.boxes_xyxy_px)
        for box, actions in zip(target.boxes_xyxy_px, target.actions, strict=True):
            best = max(
                range(len(boxes)),
                key=lambda i: overlap(boxes[i], box),
            )
            assert overlap(boxes[best], box) > 0.8
            assert np.array_equal(people.action_scores[best] > 0.5, actions.bool().numpy())
