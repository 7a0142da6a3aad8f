"""What a clip should give: the one form in which data sets hand ground truth to matcher and criterion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """The people on one clip's keyframe, and where there may be others; none is allowed.

    Attributes:
        boxes_xyxy_px: (n, 4) float, corners in px of the resized, unpadded clip, of positive area.
        actions: (n, C) float, 1 where the person does it.
        annotated: (n, C) bool, where ``actions`` means something: labels that the clip's set annotates, and none at all
            for a person whose action is unknown. What is not annotated gets no action loss.
        ignore_xyxy_px: (m, 4) float, areas in which nobody is taught to be absent, px as above, of positive area.
    """

    boxes_xyxy_px: Tensor
    actions: Tensor
    annotated: Tensor
    ignore_xyxy_px: Tensor = field(default_factory=lambda: torch.zeros(0, 4))

    def __post_init__(self) -> None:
        n = len(self.boxes_xyxy_px)
        assert self.boxes_xyxy_px.shape == (n, 4), self.boxes_xyxy_px.shape
        assert len(self.actions) == n, (self.actions.shape, n)
        assert self.actions.shape == self.annotated.shape, (self.actions.shape, self.annotated.shape)
        assert self.ignore_xyxy_px.shape == (len(self.ignore_xyxy_px), 4), self.ignore_xyxy_px.shape

    def to(self, device: torch.device) -> Target:
        """The same on another device."""
        return Target(
            self.boxes_xyxy_px.to(device, non_blocking=True),
            self.actions.to(device, non_blocking=True),
            self.annotated.to(device, non_blocking=True),
            self.ignore_xyxy_px.to(device, non_blocking=True),
        )

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from (self.boxes_xyxy_px, self.actions, self.annotated, self.ignore_xyxy_px)

    def pin_memory(self) -> Target:
        """The same in page-locked memory."""
        return Target(*(column.pin_memory() for column in self.tensors()))


def fully_annotated(boxes_xyxy_px: Tensor, actions: Tensor) -> Target:
    """A target of which every label is known, as in AVA."""
    return Target(boxes_xyxy_px, actions, torch.ones_like(actions, dtype=torch.bool))


def target_of(
    boxes_xyxy_px: NDArray[np.floating],
    actions: NDArray[np.bool_],
    annotated: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
) -> Target:
    """Rows of people and of areas to ignore, (n, 4) px, (n, C), (n, C) and (n,), as a target."""
    people = ~crowd
    return Target(
        torch.from_numpy(boxes_xyxy_px[people]).float(),
        torch.from_numpy(actions[people]).float(),
        torch.from_numpy(annotated[people]),
        torch.from_numpy(boxes_xyxy_px[crowd]).float(),
    )
