"""Draws to items: reading, augmenting, targets. Runs in the worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from stmixer.model.clip import window
from stmixer.model.config import DetectorConfig
from stmixer.trainer.config.run import AugmentSection, CustomSet, SetConfig
from stmixer.trainer.data import augment
from stmixer.trainer.data.augment import AnnotatedClip
from stmixer.trainer.data.camera_motion import camera_motion
from stmixer.trainer.data.clips import WHOLE, ClipReader, View
from stmixer.trainer.data.paste import paste
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.records import Ints, Mask, Split
from stmixer.trainer.data.targets import Target, target_of
from stmixer.trainer.data.turn import quarter_turned, turn

DONORS = 4
"""Clips in which somebody is looked for who can be cut out."""


@dataclass(frozen=True, slots=True)
class ClipItem:
    """One clip: (T, H, W, 3) uint8 frames, what they show, and where they come from."""

    frames: Tensor
    target: Target
    draw: Draw


@dataclass(frozen=True, slots=True, eq=False)
class ClipSource:
    """A split, the set it is of, and its people's labels in the run's order, (n, C) each.

    ``turned``: its pictures are shown turned by 90° anticlockwise; the split's boxes and sizes are those of the turned
    ones.
    """

    config: SetConfig
    split: Split
    actions: Mask
    annotated: Mask
    turned: bool = False

    @classmethod
    def of(
        cls, config: SetConfig, split: Split, labels: Sequence[str], exclusive: Sequence[Sequence[str]] = ()
    ) -> ClipSource:
        """Labels and ``exclusive`` groups are the run's. Raises ValueError for a label that the run does not have."""
        return cls(config, split, *split.relabelled(labels, exclusive))

    def quarter_turned(self) -> ClipSource:
        """The same turned by 90° anticlockwise."""
        split, sizes = self.split, self.split.sizes_wh
        boxes = quarter_turned(split.boxes_xyxy)
        split = replace(split, boxes_xyxy=boxes, sizes_wh=None if sizes is None else sizes[:, ::-1])
        return replace(self, split=split, turned=not self.turned)

    @property
    def empty(self) -> bool:
        """Whether it is a set of clips without people."""
        return isinstance(self.config, CustomSet) and self.config.empty

    def clip(self, keyframe: int, frames: augment.Pixels) -> AnnotatedClip:
        """A video's frames, upright, with the keyframe's people and areas to ignore."""
        if self.turned:
            frames = np.rot90(frames, axes=(1, 2))
        rows = self.split.people(keyframe)
        split = self.split
        boxes, crowd = split.boxes_xyxy[rows], split.crowd[rows]
        return AnnotatedClip(frames, boxes, self.actions[rows], self.annotated[rows], crowd)

    def single_actors(self) -> Ints:
        """The keyframes with exactly one person."""
        people = self.split.person_keyframes[~self.split.crowd]
        return np.flatnonzero(np.bincount(people, minlength=len(self.split)) == 1)


@dataclass(frozen=True, slots=True)
class _Look:
    """How the clips of one item are read: size, what of the window, and the chances of what is done to each."""

    short_side: int
    view: View
    chances: AugmentSection


class ClipSet(Dataset[ClipItem]):
    """Items of several sets. ``augmentation`` is None for evaluation: every clip as serving would see it.
    ``stills``: clips of the keyframe alone. ``view``: what evaluated clips see of their windows."""

    def __init__(
        self,
        sources: Sequence[ClipSource],
        config: DetectorConfig,
        augmentation: AugmentSection | None,
        cache_bytes: int,
        *,
        stills: bool = False,
        view: View = WHOLE,
    ) -> None:
        self._sources = tuple(sources)
        self._config = config
        self._augmentation = augmentation
        self._cache_bytes = cache_bytes
        self._stills = stills
        self._view = view
        self._singles = [source.single_actors() for source in sources]
        self._reader: ClipReader | None = None

    def __getitem__(self, draw: Draw) -> ClipItem:
        clip = self._evaluated(draw) if self._augmentation is None else self._augmented(draw, self._augmentation)
        height, width = clip.frames.shape[1:3]
        boxes_px = clip.boxes_xyxy * (width, height, width, height)
        target = target_of(boxes_px, clip.actions, clip.annotated, clip.crowd)
        return ClipItem(torch.from_numpy(np.ascontiguousarray(clip.frames)), target, draw)

    def _clip(self, source: int, keyframe: int, short_side: int, view: View) -> AnnotatedClip:
        if self._reader is None:  # one per worker process
            antialias = self._config.preprocess.antialias
            self._reader = ClipReader(self._config.clip, antialias=antialias, cache_bytes=self._cache_bytes)
        split = self._sources[source].split
        moment = int(split.pts_us[keyframe])
        grid = self._reader.window.grid
        indices = (grid.nearest(moment),) if self._stills else self._reader.window.seen(moment, view)
        frames = self._reader.read(split.videos[split.video[keyframe]], indices, short_side)
        return self._sources[source].clip(keyframe, frames)

    def _evaluated(self, draw: Draw) -> AnnotatedClip:
        clip = self._clip(draw.source, draw.keyframe, self._config.preprocess.short_side, self._view)
        if not self._view.moving:
            return clip
        # the same for all weights
        rng = np.random.default_rng((draw.source, draw.keyframe))
        return camera_motion(clip, self._moments(draw, self._view, len(clip.frames)), rng)

    def _augmented(self, draw: Draw, chances: AugmentSection) -> AnnotatedClip:
        rng = np.random.default_rng(draw.seed)
        own = self._config.preprocess.short_side
        # one size a batch: a batch is padded to its largest clip
        sizes = np.random.default_rng(draw.batch_seed)
        short_side = int(sizes.choice(chances.short_sides or (own, own * 5 // 4)))
        lookahead_ms = None
        if rng.random() < chances.reduced_lookahead:
            lookahead_ms = rng.uniform(0, float(window(self._config.clip).lookahead_s * 1000))
        view = View(lookahead_ms, still=rng.random() < chances.still)
        look = _Look(short_side, view, chances)
        clip = self._part(draw.source, draw.keyframe, look, rng)
        if _happens(chances.crowd_mosaic, rng):
            clip = self._in_mosaic(clip, look, rng, side=chances.crowd_side, ignore_small=True)
        elif rng.random() < chances.mosaic:
            clip = self._in_mosaic(clip, look, rng, side=2, ignore_small=chances.ignore_small)
        elif clip.people == 1 and len(self._singles[draw.source]) and rng.random() < chances.tile:
            clip = self._tiled(clip, draw, rng, short_side, view)
        if _happens(chances.paste, rng):
            clip = self._with_somebody(clip, look, rng)
        if rng.random() < chances.zoom:
            clip = augment.zoom(clip, *chances.zoom_range, rng, ignore_small=chances.ignore_small)
        if chances.within is not None:
            clip = augment.within(clip, round(short_side * chances.within), short_side)
        if chances.ignore_small:
            clip = augment.small_ignored(clip)
        if _happens(chances.camera, rng):
            clip = camera_motion(clip, self._moments(draw, view, len(clip.frames)), rng)
        if rng.random() < chances.flip:
            clip = augment.flip(clip)
        if chances.colour_jitter > 0:
            clip = augment.jitter_colour(clip, chances.colour_jitter, rng)
        return clip

    def _part(self, source: int, keyframe: int, look: _Look, rng: Generator) -> AnnotatedClip:
        """A clip, perhaps on its side."""
        clip = self._clip(source, keyframe, look.short_side, look.view)
        return turn(clip, rng) if _happens(look.chances.turn, rng) else clip

    def _with_somebody(self, clip: AnnotatedClip, look: _Look, rng: Generator) -> AnnotatedClip:
        """The clip with a person of a random clip of a random set, lying; as it is where some have nobody for it."""
        for _ in range(DONORS):
            source = int(rng.integers(len(self._sources)))
            keyframe = int(rng.integers(len(self._sources[source].split)))
            pasted = paste(clip, self._clip(source, keyframe, look.short_side, look.view), rng)
            if pasted is not clip:
                return pasted
        return clip

    def _moments(self, draw: Draw, view: View, count: int) -> Sequence[int]:
        """When a clip's frames are, in samples of the grid; those of a still are one after the other all the same."""
        assert self._reader is not None
        if self._stills or view.still:
            return range(count)
        return self._reader.window.seen(int(self._sources[draw.source].split.pts_us[draw.keyframe]), view)

    def _in_mosaic(
        self, clip: AnnotatedClip, look: _Look, rng: Generator, *, side: int, ignore_small: bool
    ) -> AnnotatedClip:
        """The clip with others, each of a random set, in random cells."""
        clips = [clip]
        for source in rng.integers(len(self._sources), size=side * side - 1):
            keyframe = int(rng.integers(len(self._sources[source].split)))
            clips.append(self._part(int(source), keyframe, look, rng))
        order = rng.permutation(side * side)
        together = augment.mosaic([clips[i] for i in order], rng, ignore_small=ignore_small)
        return clip if together is None else augment.to_short_side(together, look.short_side)

    def _tiled(self, clip: AnnotatedClip, draw: Draw, rng: Generator, short_side: int, view: View) -> AnnotatedClip:
        """The clip beside another clip of its set with one actor, in random order."""
        other = int(rng.choice(self._singles[draw.source]))
        neighbour = self._clip(draw.source, other, short_side, view)
        pair = (clip, neighbour) if rng.random() < 0.5 else (neighbour, clip)
        tiled = augment.tile(*pair)
        return clip if tiled is None else augment.to_short_side(tiled, short_side)


def _happens(share: float, rng: Generator) -> bool:
    """Whether something of this share is done. What is off draws nothing: others' draws stay what they were."""
    return share > 0 and rng.random() < share
