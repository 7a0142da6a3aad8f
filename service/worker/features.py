"""What the frame stage made of a stream's frames, kept until no window can want it: the feature ring.

Lives in the worker beside the model. Nothing in it is needed to go on: after a restart, or where it is full, features
are computed again from the frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from stmixer.model.runtimes.arrays import Arrays

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class FrameKey:
    """A frame of a stream: the generation its slot was written as, which no other frame of the stream has."""

    stream: int
    generation: int


class FeatureRing(Generic[A]):
    """Features by frame; after ``trim`` at most ``per_stream`` frames of each stream, those used last.

    ``arrays``: of the runtime, which says how they are laid out.
    """

    def __init__(self, per_stream: int, arrays: Arrays[A]) -> None:
        self._per_stream, self._arrays = per_stream, arrays
        self._streams: dict[int, OrderedDict[int, tuple[A, ...]]] = {}

    def __contains__(self, key: FrameKey) -> bool:
        return key.generation in self._streams.get(key.stream, ())

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._streams.values())

    def keep(self, key: FrameKey, maps: Sequence[A]) -> None:
        """Take what the frame stage gave for one frame: maps (D, h, w)."""
        self._streams.setdefault(key.stream, OrderedDict())[key.generation] = self._arrays.kept(maps)

    def windows(self, windows: Sequence[Sequence[FrameKey]]) -> list[A]:
        """The maps (B, T, D, h, w) of B windows of T frames that are all here, in their order."""
        for key in (key for window in windows for key in window):
            self._streams[key.stream].move_to_end(key.generation)
        clips = [[self._streams[key.stream][key.generation] for key in window] for window in windows]
        return self._arrays.windows(clips)

    def trim(self, wanted: Collection[FrameKey] = ()) -> None:
        """Forget what was used longest ago, but nothing that a later window of the batch wants: ``wanted``."""
        kept = frozenset(wanted)
        for stream, frames in self._streams.items():
            spare = [generation for generation in frames if FrameKey(stream, generation) not in kept]
            for generation in spare[: max(0, len(frames) - self._per_stream)]:
                del frames[generation]

    def drop(self, stream: int) -> None:
        """Forget a stream."""
        self._streams.pop(stream, None)
