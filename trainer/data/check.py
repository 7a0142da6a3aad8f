"""Looking at every video before training starts, so that nothing is met at epoch 7.

Also finds when each annotated frame is shown: what the container says of every frame, not the index over a nominal
rate, which phones do not keep.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.trainer.data.frame_index import LIMITS, FrameIndex, is_of_several, read_index
from stmixer.trainer.data.records import FrameFolder, Ints, Picture, Split, Video, VideoFile, timed
from stmixer.trainer.data.seek import SHORT_US, is_sought_alike
from stmixer.trainer.errors import TrainError

Thoroughness = Literal["quick", "full"]
MOST_UNSOUGHT_US = 600_000_000
"""A video whose clips have to be decoded from its beginning may be so long."""

_STAMPED_CONTAINERS = ("mov", "matroska")
"""Beginnings of the names of containers of one clock, in which every frame has a stamp."""

_THREADS = 4


@dataclass(frozen=True, slots=True)
class CheckedVideo:
    """A video that can be used: its frames' times where they are needed, and what it is from now on.

    ``sure``: how many of its frames can be counted without doubt, None for all; ``left_out`` says what comes then.
    """

    video: Video
    times_us: Ints | None
    sure: int | None = None
    left_out: str = ""


def check_split(split: Split, thoroughness: Thoroughness) -> Split:
    """Open every video of a split and time its keyframes.

    ``quick`` opens each file, decodes its first frame and reads the times of all; ``full`` decodes everything, and so
    finds pictures too that are cut off.

    Raises:
        TrainError: a line for each video that is missing, broken, too elongated or shorter than its annotation, and
            for a split without keyframes.
    """
    where = f"{split.name}, {split.part}"
    if not len(split):
        raise TrainError(f"{where}: the split is empty: no annotated frame of any video")
    by_index = bool((split.pts_us < 0).any())
    last = np.zeros(len(split.videos), dtype=np.int64)
    np.maximum.at(last, split.video, split.frame if by_index else split.pts_us)

    def look(i: int) -> CheckedVideo | str:
        video = split.videos[i]
        try:
            checked = _check_video(video, thoroughness, by_index)
        except MediaError as error:
            return f"{where}: {_place(video)}: {error}"
        times = checked.times_us
        if times is not None and by_index and last[i] >= len(times):
            return f"{where}: {_place(video)} has {len(times)} frames, its annotation names frame {last[i]}"
        if by_index and checked.sure is not None and last[i] >= checked.sure:
            return (
                f"{where}: {_place(video)}: which frame is which is in doubt from {checked.sure} on, some being left "
                f"out ({checked.left_out}); convert it, for instance to H.264 in MP4"
            )
        if times is not None and not by_index and last[i] > times[-1] + 1_000_000:
            return f"{where}: {_place(video)} ends {(last[i] - times[-1]) / 1e6:.1f} s before its last keyframe"
        return checked

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(look, range(len(split.videos))))
    if faults := [line for line in found if isinstance(line, str)]:
        raise TrainError(faults)
    good = [checked for checked in found if isinstance(checked, CheckedVideo)]
    pts_us = split.pts_us
    if by_index:
        pts_us = np.array([_times(good[v])[f] for v, f in zip(split.video, split.frame, strict=True)], dtype=np.int64)
    return timed(split, [checked.video for checked in good], pts_us)


def _times(checked: CheckedVideo) -> Ints:
    assert checked.times_us is not None
    return checked.times_us


def _place(video: Video) -> Path:
    return video.source.folder if isinstance(video.source, FrameFolder) else video.source.path


def _check_video(video: Video, thoroughness: Thoroughness, by_index: bool) -> CheckedVideo:
    """Raises MediaError for a video that cannot be used."""
    if isinstance(video.source, FrameFolder):
        return _check_folder(video, video.source, thoroughness)
    path = video.source.path
    if isinstance(video.source, Picture):
        _check_picture(path, thoroughness)
        return CheckedVideo(video, np.zeros(1, dtype=np.int64))
    with VideoReader(path, limits=LIMITS, threads=1) as reader:
        input_size(reader.info.width, reader.info.height, 256, 256 * MAX_ASPECT)
        stamped = reader.info.container.startswith(_STAMPED_CONTAINERS)
        if thoroughness == "full":
            decoded = np.array([frame.pts_us for frame in reader], dtype=np.int64)
            if reader.dropped or reader.warnings:
                raise MediaError("unreadable", "; ".join(reader.warnings) or f"frames left out: {reader.dropped}")
    # of several the first alone is sought
    sought = thoroughness == "quick" and stamped and not by_index and not is_of_several(path)
    if sought and is_sought_alike(path):
        return CheckedVideo(replace(video, source=VideoFile(path)), None)
    index = read_index(path)
    times = decoded if thoroughness == "full" else index.times_us
    duration = int(times[-1])
    seekable = duration <= SHORT_US or (index.seekable and is_sought_alike(path))
    if not seekable and duration > MOST_UNSOUGHT_US:
        raise MediaError(
            "unreadable",
            f"its frames cannot be placed reliably but from the beginning, for every clip anew, and it runs "
            f"{duration / 60e6:.0f} minutes (at most {MOST_UNSOUGHT_US // 60_000_000}); convert it to H.264 in MP4",
        )
    file = VideoFile(path, duration, seekable)
    return CheckedVideo(replace(video, source=file), times, _sure(index), index.left_out)


def _sure(index: FrameIndex) -> int | None:
    return index.sure if index.left_out else None


def frame_times(path: Path) -> Ints:
    """The time of every frame after the first, µs, in order. Raises MediaError as `read_index`."""
    return read_index(path).times_us


def _check_folder(video: Video, source: FrameFolder, thoroughness: Thoroughness) -> CheckedVideo:
    try:
        there = {path.name for path in source.folder.iterdir()}
    except OSError as error:
        raise MediaError("unreadable", f"the frame folder cannot be read: {error.strerror or error}") from None
    missing = [i for i in range(source.count) if source.name(i) not in there]
    if missing:
        raise MediaError(
            "unreadable", f"{len(missing)} of {source.count} pictures missing, first {source.name(missing[0])}"
        )
    for index in range(source.count) if thoroughness == "full" else (0, source.count - 1):
        _check_picture(source.path(index), thoroughness)
    return CheckedVideo(video, np.array([source.time_us(i) for i in range(source.count)], dtype=np.int64))


def _check_picture(path: Path, thoroughness: Thoroughness) -> None:
    """Raises MediaError for a picture that cannot be read, or is too long and thin for a model; ``full``: that is not
    whole."""
    picture = read_picture(path)
    input_size(picture.shape[1], picture.shape[0], 256, 256 * MAX_ASPECT)
    if thoroughness == "full":
        _check_whole(path)


def _check_whole(path: Path) -> None:
    """Raises MediaError for a picture that is cut off, which OpenCV fills up in silence. Of formats that Pillow does
    not read, and of pictures too large for it, OpenCV is believed."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError("unreadable", f"{path.name} is cut off or broken: {error}") from None


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises MediaError for a picture that cannot be read."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise MediaError("unreadable", f"{path.name} is missing or no picture")
    return np.ascontiguousarray(picture[:, :, ::-1])
