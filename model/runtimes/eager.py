"""PyTorch as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from stmixer.model.checkpoint import Model
from stmixer.model.decoder import DecoderOutput, StageOutput
from stmixer.model.runtimes.precision import DTYPES, full_float32
from stmixer.model.runtimes.prepare import prepared
from stmixer.model.runtimes.tensors import TensorArrays

R = TypeVar("R")


class EagerRuntime:
    """The prepared detector. Half precisions by autocast: products in 16 bits, boxes, points and norms in float32."""

    all_stages = True

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        if device.type == "cuda":
            full_float32()  # also beside half precisions: what stays in float32 there does for its bits' sake
        self.name, self.precision, self.card, self.device = "eager", precision, model.card, device
        self.arrays = TensorArrays(device)
        self.detector = prepared(model.detector.to(device), precision)

    def detect(self, clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        return as_float32(self._run(lambda: self.detector(clip, sizes_wh, *bank)))

    def frame_stage(self, frames: Tensor) -> tuple[Tensor, ...]:
        """See ``Runtime``."""
        return tuple(x.float() for x in self._run(lambda: self.detector.frame_stage(frames)))

    def clip_stage(self, maps: Sequence[Tensor], sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        return as_float32(self._run(lambda: self.detector.clip_stage(maps, sizes_wh, *bank)))

    def _run(self, forward: Callable[[], R]) -> R:
        half = self.precision != "fp32"
        with torch.inference_mode(), torch.autocast(self.device.type, DTYPES[self.precision], enabled=half):
            return forward()


def as_float32(output: DecoderOutput) -> DecoderOutput:
    """The same output in float32; what is float32 already is not copied."""
    stages = tuple(StageOutput(*(getattr(stage, name).float() for name in stage.__slots__)) for stage in output.stages)
    starts = output.start_logits
    return DecoderOutput(
        *(stages, output.spatial_queries.float(), output.temporal_queries.float()),
        start_logits=None if starts is None else starts.float(),
    )
