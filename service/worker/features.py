"""What the frame stage made of a stream's frames, kept until no window can want it: the feature ring.

Lives in the worker beside the model. Nothing in it is needed to go on: after a restart, or where it is full, features
are computed again from the frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stmixer.model.frame_then_clip import by_cell, gather


@dataclass(frozen=True, slots=True)
class FrameKey:
    """A frame of a stream: the generation its slot was written as, which no other frame of the stream has."""

    stream: int
    generation: int


class FeatureRing:
    """Features by frame; after ``trim`` at most ``per_stream`` frames of each stream, those used last.

    ``cells``: kept cell by cell, as torch's samplers read them; ONNX graphs want maps as they are, and laying out a
    window's anew would cost them as much as a new frame.
    """

    def __init__(self, per_stream: int, *, cells: bool = True) -> None:
        self._per_stream, self._cells = per_stream, cells
        self._streams: dict[int, OrderedDict[int, tuple[Tensor, ...]]] = {}

    def __contains__(self, key: FrameKey) -> bool:
        return key.generation in self._streams.get(key.stream, ())

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._streams.values())

    def keep(self, key: FrameKey, maps: Sequence[Tensor]) -> None:
        """Take what the frame stage gave for one frame: maps (D, h, w)."""
        kept = by_cell(maps) if self._cells else tuple(x.clone() for x in maps)
        self._streams.setdefault(key.stream, OrderedDict())[key.generation] = kept

    def windows(self, windows: Sequence[Sequence[FrameKey]]) -> list[Tensor]:
        """The maps (B, T, D, h, w) of B windows of T frames that are all here, in their order."""
        for key in (key for window in windows for key in window):
            self._streams[key.stream].move_to_end(key.generation)
        clips = [[self._streams[key.stream][key.generation] for key in window] for window in windows]
        return gather(clips, cells=self._cells)

    def trim(self) -> None:
        """Forget what was used longest ago. Between batches: one batch may hold many windows of a stream."""
        for frames in self._streams.values():
            while len(frames) > self._per_stream:
                frames.popitem(last=False)

    def drop(self, stream: int) -> None:
        """Forget a stream."""
        self._streams.pop(stream, None)
