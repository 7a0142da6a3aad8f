"""What every runtime is. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stmixer.model.card import ModelCard
from stmixer.model.outputs import A, DecoderOutput
from stmixer.model.runtimes.arrays import Arrays, DeviceName


class RuntimeUnavailable(RuntimeError):
    """A runtime or precision that cannot be had here; the message says why and what to choose instead."""


class Runtime(Protocol[A]):
    """A model on its device, ready to run. Arrays in and out are on that device and, whatever the precision, float32.

    ``name`` is eager, compile, cudagraph or onnx; ``precision`` fp32, bf16 or fp16; ``all_stages`` whether outputs hold
    every stage of the decoder or the last one alone. Results are the caller's: no later call changes them. ``arrays``:
    what its arrays are, torch's but where ONNX Runtime runs on a CPU.
    """

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def card(self) -> ModelCard: ...

    @property
    def device(self) -> DeviceName: ...

    @property
    def arrays(self) -> Arrays[A]: ...

    @property
    def all_stages(self) -> bool: ...

    def detect(self, clip: A, sizes_wh: A, *bank: A) -> DecoderOutput[A]:
        """``Detector.forward``: (B, 3, frames, H, W) clip and (B, 2) sizes in px.

        ``bank``: of long-term models, which run eager alone: (B, K, 2D) queries and (B, K) mask.
        """
        ...

    def frame_stage(self, frames: A) -> tuple[A, ...]:
        """``Detector.frame_stage``: (F, 3, H, W) -> four maps (F, D, H / s, W / s), and starts if the model has them.

        Families that have one only.
        """
        ...

    def clip_stage(self, maps: Sequence[A], sizes_wh: A, *bank: A) -> DecoderOutput[A]:
        """``Detector.clip_stage``: what its frames' ``frame_stage`` gave, (B, T, ...) each, and (B, 2) sizes in px."""
        ...
