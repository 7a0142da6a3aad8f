"""Clips out of cached features, a frozen backbone's maps (made by `trainer.training.cached_features`).

A folder holds for each segment ``<number>.npy`` (S, values) float16, a row per frame with its four maps in turn, and
``<number>.npz``, its people, written last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stmixer.model.clip import window
from stmixer.model.config import ClipConfig
from stmixer.model.frame_maps import STRIDES
from stmixer.trainer.config.run import AugmentSection
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.records import Ints
from stmixer.trainer.data.segments import Segment
from stmixer.trainer.data.targets import Target, target_of
from stmixer.trainer.errors import TrainError


@dataclass(frozen=True, slots=True)
class FeatureItem:
    """One clip: the backbone's four maps (T, C_k, H / s, W / s) float16, its size (2,) px, target and origin."""

    maps: tuple[Tensor, ...]
    size_wh: Tensor
    target: Target
    draw: Draw


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """B clips: maps (B, T, C_k, H / s, W / s) float16, sizes (B, 2) px, unpadded."""

    maps: tuple[Tensor, ...]
    sizes_wh: Tensor
    targets: tuple[Target, ...]
    draws: tuple[Draw, ...]

    def to(self, device: torch.device) -> FeatureBatch:
        """The same on another device."""
        maps = tuple(m.to(device, non_blocking=True) for m in self.maps)
        sizes_wh = self.sizes_wh.to(device, non_blocking=True)
        return FeatureBatch(maps, sizes_wh, tuple(t.to(device) for t in self.targets), self.draws)

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from (*self.maps, self.sizes_wh)
        for target in self.targets:
            yield from target.tensors()

    def pin_memory(self) -> FeatureBatch:
        """The same in page-locked memory; torch's loader calls it."""
        targets = tuple(t.pin_memory() for t in self.targets)
        return FeatureBatch(tuple(m.pin_memory() for m in self.maps), self.sizes_wh.pin_memory(), targets, self.draws)


def collate_features(items: Sequence[FeatureItem]) -> FeatureBatch:
    """Items to a batch; all have one padded size."""
    maps = tuple(torch.stack(level) for level in zip(*(item.maps for item in items), strict=True))
    sizes_wh = torch.stack([item.size_wh for item in items])
    return FeatureBatch(maps, sizes_wh, tuple(i.target for i in items), tuple(i.draw for i in items))


@dataclass(frozen=True, slots=True)
class _SegmentPeople:
    """What is known of a segment, as in Segment; boxes in px."""

    source: int
    size_wh: NDArray[np.float32]
    keyframes: Ints
    at: Ints
    boxes_xyxy_px: NDArray[np.float32]
    actions: NDArray[np.bool_]
    annotated: NDArray[np.bool_]
    crowd: NDArray[np.bool_]


_COLUMNS = ("size_wh", "keyframes", "at", "boxes_xyxy_px", "actions", "annotated")


class FeatureFolder:
    """Maps of ``count`` segments, all of one padded size.

    Args:
        canvas_wh: that size, px.
        channels: C_k of the four maps.
    """

    def __init__(self, root: Path, count: int, canvas_wh: tuple[int, int], channels: Sequence[int]) -> None:
        self.root = root
        self.count = count
        self.canvas_wh = canvas_wh
        width, height = canvas_wh
        self._shapes = [(c, height // s, width // s) for c, s in zip(channels, STRIDES, strict=True)]

    def missing(self) -> list[int]:
        """The segments that are not there yet."""
        return [number for number in range(self.count) if not self._file(number, "npz").exists()]

    def write(self, segment: Segment, rows: NDArray[np.float16]) -> None:
        """One segment; ``rows`` are its frames' maps. Raises OSError."""
        clip = segment.clip
        height, width = clip.frames.shape[1:3]
        np.save(self._file(segment.number, "npy"), rows)
        partial = self._file(segment.number, "partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                source=segment.source,
                size_wh=np.array((width, height), dtype=np.float32),
                keyframes=segment.keyframes,
                at=np.zeros(0, dtype=np.int64) if clip.at is None else clip.at,
                boxes_xyxy_px=(clip.boxes_xyxy * (width, height, width, height)).astype(np.float32),
                actions=clip.actions,
                annotated=clip.annotated,
                crowd=clip.crowd,
            )
        partial.replace(self._file(segment.number, "npz"))

    def clips(self, sources: int) -> list[Ints]:
        """For each of so many sets (k, 2), segment and frame, of all its keyframes. Raises TrainError where k is 0."""
        clips = []
        for source in range(sources):
            rows = [(i, k) for i, p in enumerate(self._people) if p.source == source for k in p.keyframes]
            if not rows:
                raise TrainError(f"cached_features: {self.count} segments are too few to hold a keyframe of every set")
            clips.append(np.array(rows, dtype=np.int64))
        return clips

    def target(self, segment: int, keyframe: int) -> tuple[Tensor, Target]:
        """Size and people of a clip."""
        people = self._people[segment]
        rows = people.at == keyframe
        columns = (people.boxes_xyxy_px, people.actions, people.annotated, people.crowd)
        return torch.from_numpy(people.size_wh), target_of(*(column[rows] for column in columns))

    def maps(self, segment: int, frames: Sequence[int]) -> tuple[Tensor, ...]:
        """The maps of some of a segment's frames, (T, C_k, H / s, W / s) float16 each."""
        rows = torch.from_numpy(np.load(self._file(segment, "npy"), mmap_mode="r")[list(frames)])
        parts = torch.split(rows, [c * h * w for c, h, w in self._shapes], dim=1)
        return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True))

    @cached_property
    def _people(self) -> list[_SegmentPeople]:
        people = []
        for number in range(self.count):
            with np.load(self._file(number, "npz")) as columns:
                rows = [columns[name] for name in _COLUMNS]
                # folders of earlier versions hold people alone
                crowd = columns["crowd"] if "crowd" in columns else np.zeros(len(columns["at"]), dtype=np.bool_)
                people.append(_SegmentPeople(int(columns["source"]), *[*rows, crowd]))
        return people

    def _file(self, number: int, suffix: str) -> Path:
        return self.root / f"{number:06d}.{suffix}"


class FeatureClips(Dataset[FeatureItem]):
    """Items out of a folder of maps; draws number the keyframes of its ``clips``."""

    def __init__(self, folder: FeatureFolder, clip: ClipConfig, augmentation: AugmentSection, sources: int) -> None:
        self._folder = folder
        self._offsets = window(clip).offsets
        self._augmentation = augmentation
        self._clips = folder.clips(sources)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Keyframes per set."""
        return tuple(len(clips) for clips in self._clips)

    def __getitem__(self, draw: Draw) -> FeatureItem:
        rng = np.random.default_rng(draw.seed)
        chances = self._augmentation
        segment, keyframe = (int(n) for n in self._clips[draw.source][draw.keyframe])
        # as a stream would that sees less far ahead, or not at all
        last = self._offsets[-1]
        if rng.random() < chances.reduced_lookahead:
            last = int(rng.integers(0, last + 1))
        still = rng.random() < chances.still
        frames = [keyframe if still else keyframe + min(offset, last) for offset in self._offsets]
        size_wh, target = self._folder.target(segment, keyframe)
        return FeatureItem(self._folder.maps(segment, frames), size_wh, target, draw)
