"""What a clip should give: the one form in which data sets hand ground truth to matcher and criterion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """The people on one clip's keyframe; none is allowed.

    Attributes:
        boxes_xyxy_px: (n, 4) float, corners in px of the resized, unpadded clip, of positive area.
        actions: (n, C) float, 1 where the person does it.
        annotated: (n, C) bool, where ``actions`` means something: labels that the clip's set annotates, and none at all
            for a person whose action is unknown. What is not annotated gets no action loss.
    """

    boxes_xyxy_px: Tensor
    actions: Tensor
    annotated: Tensor

    def __post_init__(self) -> None:
        n = len(self.boxes_xyxy_px)
        assert self.boxes_xyxy_px.shape == (n, 4), self.boxes_xyxy_px.shape
        assert len(self.actions) == n, (self.actions.shape, n)
        assert self.actions.shape == self.annotated.shape, (self.actions.shape, self.annotated.shape)

    def to(self, device: torch.device) -> Target:
        """The same on another device."""
        return Target(
            self.boxes_xyxy_px.to(device, non_blocking=True),
            self.actions.to(device, non_blocking=True),
            self.annotated.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Target:
        """The same in page-locked memory."""
        return Target(self.boxes_xyxy_px.pin_memory(), self.actions.pin_memory(), self.annotated.pin_memory())


def fully_annotated(boxes_xyxy_px: Tensor, actions: Tensor) -> Target:
    """A target of which every label is known, as in AVA."""
    return Target(boxes_xyxy_px, actions, torch.ones_like(actions, dtype=torch.bool))
