"""What a detector's forward gives, as whatever arrays its runtime computes with. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from typing_extensions import TypeVar

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", default="Tensor")
"""Arrays of a runtime: torch's unless it is said otherwise."""


@dataclass(frozen=True, slots=True)
class StageOutput(Generic[A]):
    """What one stage says of its B x N queries.

    ``human_logits`` (B, N, 2), ``action_logits`` (B, N, C), the refined boxes as ``boxes_cxcyzr`` and
    ``boxes_xyxy_px`` (B, N, 4), and ``points_xyz`` (B, N, G, P, 3), where it looked (px, level).
    """

    human_logits: A
    action_logits: A
    boxes_cxcyzr: A
    boxes_xyxy_px: A
    points_xyz: A


@dataclass(frozen=True, slots=True)
class DecoderOutput(Generic[A]):
    """All stages, first to last, and the last stage's queries (B, N, D).

    ``start_logits`` (B, K, 1) are the person logits of the cells at which the first K queries started: None where none
    did, or where the runtime gives the last stage alone.
    """

    stages: tuple[StageOutput[A], ...]
    spatial_queries: A
    temporal_queries: A
    start_logits: A | None = None


OUTPUTS = (
    "human_logits",
    "action_logits",
    "boxes_cxcyzr",
    "boxes_xyxy_px",
    "points_xyz",
    "spatial_queries",
    "temporal_queries",
)
"""What is compared between runtimes, and what an exported graph gives: the last stage, and its queries."""


def last_stage(output: DecoderOutput[A]) -> tuple[A, ...]:
    """The arrays that ``OUTPUTS`` names."""
    last = output.stages[-1]
    return (
        last.human_logits,
        last.action_logits,
        last.boxes_cxcyzr,
        last.boxes_xyxy_px,
        last.points_xyz,
        output.spatial_queries,
        output.temporal_queries,
    )
