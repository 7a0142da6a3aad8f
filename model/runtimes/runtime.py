"""What every runtime is, and what is measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stmixer.model.checkpoint import ModelCard
from stmixer.model.decoder import DecoderOutput


class RuntimeUnavailable(RuntimeError):
    """A runtime or precision that cannot be had here; the message says why and what to choose instead."""


class Runtime(Protocol):
    """A model on its device, ready to run. Tensors in and out are on that device and, whatever the precision, float32.

    ``name`` is eager, compile, cudagraph or onnx; ``precision`` fp32, bf16 or fp16; ``all_stages`` whether outputs hold
    every stage of the decoder or the last one alone. Results are the caller's: no later call changes them.
    """

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def card(self) -> ModelCard: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def all_stages(self) -> bool: ...

    def detect(self, clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """``Detector.forward``: (B, 3, frames, H, W) clip and (B, 2) sizes in px.

        ``bank``: of long-term models, which run eager alone: (B, K, 2D) queries and (B, K) mask.
        """
        ...

    def frame_stage(self, frames: Tensor) -> tuple[Tensor, ...]:
        """``Detector.frame_stage``: (F, 3, H, W) -> four maps (F, D, H / s, W / s), and starts if the model has them.

        Families that have one only.
        """
        ...

    def clip_stage(self, maps: Sequence[Tensor], sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """``Detector.clip_stage``: what its frames' ``frame_stage`` gave, (B, T, ...) each, and (B, 2) sizes in px."""
        ...


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


def last_stage(output: DecoderOutput) -> tuple[Tensor, ...]:
    """The tensors that ``OUTPUTS`` names."""
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


def deviation(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst difference, of each expected tensor's largest value; infinite for a number that is none."""
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        difference = (ours.float().cpu() - theirs.float().cpu()).abs().max() / theirs.abs().max().cpu().clamp(min=1e-6)
        worst = max(worst, float(difference.nan_to_num(torch.inf)))
    return worst
