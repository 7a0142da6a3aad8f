"""Segments of training videos: more frames than a clip, so that many clips share them, under one augmentation.

What `trainer.data.clipset` draws for every clip anew is drawn here once for all the clips of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from torch.utils.data import Dataset

from stmixer.model.clip import window
from stmixer.model.config import DetectorConfig
from stmixer.trainer.config.run import AugmentSection, CachedFeaturesSection
from stmixer.trainer.data import augment
from stmixer.trainer.data.augment import AnnotatedClip
from stmixer.trainer.data.camera_motion import camera_motion
from stmixer.trainer.data.clips import ClipReader
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.records import Ints, Mask, Picture
from stmixer.trainer.data.turn import turn


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Frames on the grid, in time, with the people of those whose clip lies inside and who are all known.

    Attributes:
        number: which of the run's segments it is.
        source: the set it is of; of a mosaic the first one's.
        clip: (S, H, W, 3) frames; ``at`` says on which of them each person stands.
        keyframes: (k,) ascending, the frames that a clip may be around; on the others nothing is known.
    """

    number: int
    source: int
    clip: AnnotatedClip
    keyframes: Ints


class SegmentSet(Dataset[Segment]):
    """Segments by number, each a function of its number and the seed alone. Runs in worker processes."""

    def __init__(
        self,
        sources: Sequence[ClipSource],
        config: DetectorConfig,
        augmentation: AugmentSection,
        features: CachedFeaturesSection,
        seed: int,
        cache_bytes: int,
    ) -> None:
        self._sources = tuple(sources)
        self._config = config
        self._augmentation = augmentation
        self._samples = max(features.samples, window(config.clip).span)
        self._count = features.segments
        self._seed = seed
        self._cache_bytes = cache_bytes
        weights = np.array([s.config.weight or len(s.split) for s in sources], dtype=np.float64)
        self._shares = weights / weights.sum()
        self._reader: ClipReader | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Segment:
        chances = self._augmentation
        assert chances.short_sides is not None
        assert chances.within is not None
        short_side = chances.short_sides[0]
        rng = np.random.default_rng((self._seed, number))
        source = int(rng.choice(len(self._sources), p=self._shares))
        if rng.random() < chances.mosaic:
            clip, known = self._in_mosaic(source, rng, short_side)
        else:
            clip, known = self._part(source, rng, short_side, whole=False)
        if rng.random() < chances.zoom:
            clip = augment.zoom(clip, *chances.zoom_range, rng, ignore_small=chances.ignore_small)
        clip = augment.within(clip, round(short_side * chances.within), short_side)
        if chances.ignore_small:
            clip = augment.small_ignored(clip)
        if chances.camera > 0 and rng.random() < chances.camera:
            clip = camera_motion(clip, range(len(clip.frames)), rng)
        if rng.random() < chances.flip:
            clip = augment.flip(clip)
        if chances.colour_jitter > 0:
            clip = augment.jitter_colour(clip, chances.colour_jitter, rng)
        return Segment(number, source, clip, np.flatnonzero(known))

    def _in_mosaic(self, source: int, rng: Generator, short_side: int) -> tuple[AnnotatedClip, Mask]:
        """With three others, each of a random set, in random quarters; a frame is known where all four are."""
        parts = [self._part(source, rng, short_side, whole=True)]
        parts += [self._part(int(s), rng, short_side, whole=True) for s in rng.integers(len(self._sources), size=3)]
        known = np.logical_and.reduce([part[1] for part in parts])
        if not known.any():
            return parts[0]
        shown, small = [_only(parts[i][0], known) for i in rng.permutation(4)], self._augmentation.ignore_small
        together = augment.mosaic(shown, rng, ignore_small=small)
        return parts[0] if together is None else (augment.to_short_side(together, short_side), known)

    def _part(self, source: int, rng: Generator, short_side: int, *, whole: bool) -> tuple[AnnotatedClip, Mask]:
        """A segment, perhaps on its side."""
        clip, known = self._segment(source, rng, short_side, whole=whole)
        share = self._augmentation.turn
        return (turn(clip, rng) if share > 0 and rng.random() < share else clip), known

    def _segment(self, source: int, rng: Generator, short_side: int, *, whole: bool) -> tuple[AnnotatedClip, Mask]:
        """Frames around a random keyframe, and which of them are known; ``whole``: so many even if the video ends."""
        if self._reader is None:  # one per worker process
            antialias = self._config.preprocess.antialias
            self._reader = ClipReader(self._config.clip, antialias=antialias, cache_bytes=self._cache_bytes)
        chosen = self._sources[source]
        split, offsets = chosen.split, window(self._config.clip).offsets
        video = split.video[int(rng.integers(len(split)))]
        if isinstance(split.videos[video].source, Picture):
            return self._of_picture(chosen, int(video), short_side, whole=whole)
        of_video = np.flatnonzero(split.video == video)
        grid = np.array([self._reader.window.grid.nearest(int(t)) for t in split.pts_us[of_video]])
        earliest, latest = int(grid.min()) + offsets[0], int(grid.max()) + offsets[-1] - self._samples + 1
        first = int(rng.integers(earliest, max(earliest, latest) + 1))
        count = self._samples if whole else min(self._samples, int(grid.max()) + offsets[-1] - first + 1)
        indices = tuple(range(first, first + count))
        frames = self._reader.read(split.videos[video], indices, short_side)
        usable = np.zeros(count, dtype=np.bool_)
        usable[-offsets[0] : count - offsets[-1]] = True
        if chosen.empty:  # nobody is anywhere
            return _standing(chosen.clip(int(of_video[0]), frames), 0), usable
        # of keyframes on one sample the first
        places, rows = np.unique(grid - first, return_index=True)
        inside = (places >= 0) & (places < count)
        places, rows = places[inside], of_video[rows[inside]]
        known = np.zeros(count, dtype=np.bool_)
        known[places] = usable[places]
        people = [(int(p), chosen.clip(int(k), frames)) for p, k in zip(places, rows, strict=True) if known[p]]
        return _together(chosen.clip(int(of_video[0]), frames), people), known

    def _of_picture(
        self, chosen: ClipSource, video: int, short_side: int, *, whole: bool
    ) -> tuple[AnnotatedClip, Mask]:
        """A still: its people stand on every frame that a clip may be around, which is one if not ``whole``."""
        assert self._reader is not None
        offsets = window(self._config.clip).offsets
        count = self._samples if whole else window(self._config.clip).span
        frames = self._reader.read(chosen.split.videos[video], (0,) * count, short_side)
        known = np.zeros(count, dtype=np.bool_)
        known[-offsets[0] : count - offsets[-1]] = True
        clip = chosen.clip(int(np.flatnonzero(chosen.split.video == video)[0]), frames)
        return _together(clip, [(int(place), clip) for place in np.flatnonzero(known)]), known


def _together(anybody: AnnotatedClip, people: Sequence[tuple[int, AnnotatedClip]]) -> AnnotatedClip:
    """A clip's frames, with all of these clips' people on the frames that stand beside them, and not its own."""
    nobody = _standing(anybody.take(np.zeros(len(anybody.boxes_xyxy), dtype=np.bool_)), 0)
    clips = [nobody, *(_standing(clip, place) for place, clip in people)]
    return augment.joined(anybody.frames, clips, np.concatenate([clip.boxes_xyxy for clip in clips]))


def _only(clip: AnnotatedClip, known: Mask) -> AnnotatedClip:
    """Without the people of frames on which not all are known."""
    assert clip.at is not None
    return clip.take(known[clip.at])


def _standing(clip: AnnotatedClip, frame: int) -> AnnotatedClip:
    """With all of its people on this one of its frames."""
    return replace(clip, at=np.full(len(clip.boxes_xyxy), frame, dtype=np.int64))
