"""Clips out of videos: the same frames that serving takes (media.grid, model.clip), at a network's input size.

A short video is decoded once; its small frames stay in memory until newer ones need the room. Of a long one only the
clip's own stretch is decoded, unless its stamps do not tell where that is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import Frame, Limits, VideoReader
from stmixer.media.grid import HALF_RAW_US, FrameSampler, Sample, TimeGrid
from stmixer.media.resize import resize
from stmixer.model.clip import MAX_ASPECT, input_size, window
from stmixer.model.config import ClipConfig
from stmixer.trainer.data.check import read_picture
from stmixer.trainer.data.records import FrameFolder, Picture, Video, VideoFile
from stmixer.trainer.data.seek import SHORT_US, frames_from

Pixels = NDArray[np.uint8]

LARGEST_SHARE = 0.25
"""Of the cache, for one longer video that has to be decoded from its beginning for every clip otherwise."""


@dataclass(frozen=True, slots=True)
class View:
    """What of its window a clip sees: up to ``lookahead_ms`` (None: all), with ``still`` the keyframe alone, as often
    as the window has samples; with ``moving`` as an evaluated clip's simulated camera that moves sees it."""

    lookahead_ms: float | None = None
    still: bool = False
    moving: bool = False


WHOLE = View()


class ClipWindow:
    """Which grid samples a keyframe's clip takes: serving's rule (docs/protocol.md, Time)."""

    def __init__(self, clip: ClipConfig) -> None:
        self._window = window(clip)
        self.grid = TimeGrid(self._window.grid_s)
        self.lookahead_ms = float(self._window.lookahead_s * 1000)

    def indices(self, pts_us: int, lookahead_ms: float | None = None) -> tuple[int, ...]:
        """Grid indices around a moment; beyond ``lookahead_ms`` they stop and repeat. Default: the model's own."""
        most = self.lookahead_ms if lookahead_ms is None else min(lookahead_ms, self.lookahead_ms)
        steps_after = int(most / 1000 / self._window.grid_s + 1e-9)
        centre = self.grid.nearest(pts_us)
        return tuple(centre + min(offset, steps_after) for offset in self._window.offsets)

    def seen(self, pts_us: int, view: View) -> tuple[int, ...]:
        """The grid indices of a view around a moment."""
        if view.still:
            return (self.grid.nearest(pts_us),) * len(self._window.offsets)
        return self.indices(pts_us, view.lookahead_ms)


@dataclass(frozen=True, slots=True)
class _Strip:
    """A video's frames on the grid: the first index that each serves, ascending, and (n, H, W, 3)."""

    keys: list[int]
    frames: Pixels

    def at(self, indices: Iterable[int]) -> Pixels:
        return self.frames[[max(0, bisect_right(self.keys, i) - 1) for i in indices]]


class ClipReader:
    """Reads clips. One per process; not thread-safe. ``cached_bytes`` is what it keeps now.

    Args:
        clip: the model's window.
        antialias: of the resize (model.config.PreprocessConfig).
        cache_bytes: small frames that are kept.
    """

    def __init__(self, clip: ClipConfig, *, antialias: bool, cache_bytes: int) -> None:
        self.window = ClipWindow(clip)
        self._antialias = antialias
        self._cache_bytes = cache_bytes
        self.cached_bytes = 0
        self._strips: OrderedDict[tuple[Path, int | None], _Strip] = OrderedDict()

    def read(self, video: Video, indices: tuple[int, ...], short_side: int) -> Pixels:
        """The frames that stand for these grid indices, resized: (len(indices), H, W, 3) uint8 RGB.

        Raises:
            MediaError: a video that cannot be read.
        """
        match video.source:
            case FrameFolder() as folder:
                return self._from_folder(folder, indices, short_side)
            case Picture(path):
                return self._from_picture(path, len(indices), short_side)
            case VideoFile() as file if self._is_read_whole(file, short_side):
                return self._from_short(file.path, indices, short_side)
            case VideoFile() as file:
                return self._from_long(file, indices, short_side)

    def _is_read_whole(self, file: VideoFile, short_side: int) -> bool:
        """Short videos are, and of those that have to be read from their beginning the ones that fit into memory."""
        if file.duration_us is None or file.duration_us <= SHORT_US:
            return file.duration_us is not None
        samples = int(file.duration_us / self.window.grid.step_us) + 1
        wide = 2 * short_side * short_side * 3  # bytes of a picture twice as wide as high
        return not file.seekable and samples * wide <= self._cache_bytes * LARGEST_SHARE

    def _from_folder(self, folder: FrameFolder, indices: tuple[int, ...], short_side: int) -> Pixels:
        grid = self.window.grid
        wanted = [_shown(folder, grid.time_us(i) + HALF_RAW_US) for i in indices]
        pictures = {index: read_picture(folder.path(index)) for index in sorted(set(wanted))}
        height, width = pictures[wanted[0]].shape[:2]
        size = _size(width, height, short_side)
        small = {index: resize(picture, *size, self._antialias) for index, picture in pictures.items()}
        return np.stack([small[index] for index in wanted])

    def _from_picture(self, path: Path, frames: int, short_side: int) -> Pixels:
        """As often as frames are wanted: at every moment it shows the same."""
        picture = read_picture(path)
        small = resize(picture, *_size(picture.shape[1], picture.shape[0], short_side), self._antialias)
        return np.repeat(small[None], frames, axis=0)

    def _from_short(self, path: Path, indices: tuple[int, ...], short_side: int) -> Pixels:
        key: tuple[Path, int | None] = (path, None) if (path, None) in self._strips else (path, short_side)
        strip = self._strips.get(key)
        if strip is None:
            key, strip = self._decode(path, short_side)
            self._keep(key, strip)
        else:
            self._strips.move_to_end(key)
        frames = strip.at(indices)
        if key[1] is None:
            size = _size(frames.shape[2], frames.shape[1], short_side)
            frames = np.stack([resize(frame, *size, self._antialias) for frame in frames])
        return frames

    def _decode(self, path: Path, short_side: int) -> tuple[tuple[Path, int | None], _Strip]:
        """The whole video on the grid; at its own size where that takes less room than the input size."""
        with VideoReader(path, limits=Limits.unlimited(), threads=1) as reader:
            width, height = reader.info.width, reader.info.height
            size = _size(width, height, short_side)
            plain = reader.info.rotation == 0 and not reader.info.mirrored and reader.info.sample_aspect_ratio == 1
            own = plain and width * height <= size[0] * size[1]
            size = (width, height) if own else size
            samples = [(s.index, s.frame.resized(*size, self._antialias)) for s in self._samples(reader)]
        strip = _Strip([index for index, _ in samples], np.stack([frame for _, frame in samples]))
        return (path, None if own else short_side), strip

    def _from_long(self, file: VideoFile, indices: tuple[int, ...], short_side: int) -> Pixels:
        grid, wanted = self.window.grid, sorted(set(indices))
        # a frame before the first moment is what stands for it; half a second of margin for slow cameras
        start_us = max(0, grid.time_us(max(0, wanted[0])) - 500_000)
        end_us = grid.time_us(max(0, wanted[-1])) + HALF_RAW_US
        samples = self._samples(_until(frames_from(file.path, start_us, seekable=file.seekable), end_us))
        keys: list[int] = []
        small: list[Pixels] = []
        size: tuple[int, int] | None = None
        for sample, following in pairwise(chain(samples, (None,))):
            assert sample is not None
            if size is None:
                size = _size(sample.frame.width, sample.frame.height, short_side)
            if not keys or any(sample.index <= i and (following is None or i < following.index) for i in wanted):
                keys.append(sample.index)
                small.append(sample.frame.resized(*size, self._antialias))
        return _Strip(keys, np.stack(small)).at(indices)

    def _samples(self, frames: Iterable[Frame]) -> Iterator[Sample[Frame]]:
        """Those of the frames that the grid keeps, in order."""
        sampler: FrameSampler[Frame] = FrameSampler(self.window.grid)
        for frame in frames:
            settled = sampler.feed(frame.pts_us, frame)
            if settled is not None:
                yield settled
        if sampler.newest is not None:
            yield sampler.newest

    def _keep(self, key: tuple[Path, int | None], strip: _Strip) -> None:
        if strip.frames.nbytes > self._cache_bytes:
            return
        self._strips[key] = strip
        self.cached_bytes += strip.frames.nbytes
        while self.cached_bytes > self._cache_bytes:
            self.cached_bytes -= self._strips.popitem(last=False)[1].frames.nbytes


def _until(frames: Iterable[Frame], end_us: int) -> Iterator[Frame]:
    """The first frame and those up to a moment."""
    for i, frame in enumerate(frames):
        if i and frame.pts_us > end_us:
            return
        yield frame


def _size(width: int, height: int, short_side: int) -> tuple[int, int]:
    return input_size(width, height, short_side, MAX_ASPECT * short_side)


def _shown(folder: FrameFolder, t_us: int) -> int:
    """The last frame of a folder shown at a moment, the first before it begins."""
    index = min(max(0, int(t_us * folder.fps / 1_000_000) + 1), folder.count - 1)
    while index > 0 and folder.time_us(index) > t_us:
        index -= 1
    return index
