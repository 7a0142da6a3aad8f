"""Items to the network's input: normalised and padded on the device, to the batch's largest (as officially)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stmixer.model.clip import padded_size
from stmixer.model.config import PreprocessConfig
from stmixer.model.device_preprocess import normalise_and_pad
from stmixer.trainer.data.clipset import ClipItem
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.targets import Target


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """B clips as they come from the workers: (T, H, W, 3) uint8 each, their targets and origins."""

    frames: tuple[Tensor, ...]
    targets: tuple[Target, ...]
    draws: tuple[Draw, ...]

    def to(self, device: torch.device) -> ClipBatch:
        """The same on another device."""
        frames = tuple(f.to(device, non_blocking=True) for f in self.frames)
        return ClipBatch(frames, tuple(t.to(device) for t in self.targets), self.draws)

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from self.frames
        for target in self.targets:
            yield from target.tensors()

    def pin_memory(self) -> ClipBatch:
        """The same in page-locked memory; torch's loader calls it."""
        return ClipBatch(
            tuple(f.pin_memory() for f in self.frames), tuple(t.pin_memory() for t in self.targets), self.draws
        )


def collate(items: Sequence[ClipItem]) -> ClipBatch:
    """Items to a batch; nothing is padded yet."""
    return ClipBatch(tuple(i.frames for i in items), tuple(i.target for i in items), tuple(i.draw for i in items))


def network_input(frames: Sequence[Tensor], config: PreprocessConfig) -> tuple[Tensor, Tensor]:
    """B clips (T, H, W, 3) uint8 of any sizes -> the clip (B, 3, T, H32, W32) float32 and the sizes (B, 2), px.

    As model.preprocess.make_clip, whose batch takes one padded size; here it is that of the widest and the highest.
    """
    sizes = [(f.shape[2], f.shape[1]) for f in frames]
    canvas_wh = padded_size(max(w for w, _ in sizes), max(h for _, h in sizes), config)
    sizes_wh = torch.tensor(sizes, dtype=torch.float32, device=frames[0].device)
    return normalise_and_pad(frames, canvas_wh, config), sizes_wh
