"""torch.compile: fused kernels, made at the first call of each shape (tens of seconds on a CPU)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from stmixer.model.checkpoint import Model
from stmixer.model.decoder import DecoderOutput
from stmixer.model.runtimes.eager import EagerRuntime, as_float32
from stmixer.model.runtimes.prepare import prepared
from stmixer.model.runtimes.runtime import RuntimeUnavailable

_COMPILERS = ("g++", "c++", "clang++")


class CompiledRuntime(EagerRuntime):
    """The same forward, compiled. A shape is compiled once; batch sizes after the first share one kernel set."""

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        if not any(map(shutil.which, _COMPILERS)):
            raise RuntimeUnavailable("--runtime compile needs a C++ compiler (apt install g++); or use --runtime eager")
        super().__init__(model, device, precision)
        self.name = "compile"
        # the compiler packs weights in its own way
        detector = prepared(model.detector.to(device), precision, pack=False)
        self._detect = torch.compile(detector)
        self._frame_stage = torch.compile(detector.frame_stage)
        self._clip_stage = torch.compile(detector.clip_stage)

    def detect(self, clip: Tensor, sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        return as_float32(self._run(lambda: self._detect(clip, sizes_wh)))

    def frame_stage(self, frames: Tensor) -> tuple[Tensor, ...]:
        """See ``Runtime``."""
        return tuple(x.float() for x in self._run(lambda: self._frame_stage(frames)))

    def clip_stage(self, maps: Sequence[Tensor], sizes_wh: Tensor, *bank: Tensor) -> DecoderOutput:
        """See ``Runtime``."""
        assert not bank, "long-term models run eager (stmixer.model.runtimes.choose)"
        return as_float32(self._run(lambda: self._clip_stage(list(maps), sizes_wh)))
