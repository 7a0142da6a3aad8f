"""The worst moments as short videos, found on the left and true on the right: what a picture of one does not show."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stmixer.media.annotated import nearest
from stmixer.media.draw import draw_actors, tile
from stmixer.media.encode import Mp4Writer
from stmixer.media.errors import MediaError
from stmixer.media.jpeg import encode_jpeg
from stmixer.media.resize import resize
from stmixer.trainer.data.check import read_picture
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.records import FrameFolder, VideoFile
from stmixer.trainer.data.seek import frames_from
from stmixer.trainer.evaluate.moments import ErrorMoments
from stmixer.trainer.evaluate.pictures import Pick, found_actors, true_actors
from stmixer.trainer.evaluate.predictions import Tables

CLIPS = 6
"""On a page, at most."""
AROUND_US = 1_500_000
"""Before and after the moment."""
APART_US = 79_000
"""Frames of a clip are at least so far apart."""
BOXES_US = 700_000
"""So long a keyframe's boxes are shown before and after it, where no other is nearer."""
WIDE = 320
"""px of a half, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportClip:
    """A moment with what comes before and after it: MP4, and its worst frame as JPEG; ``label``, in words."""

    pick: Pick
    label: str
    mp4: bytes
    jpeg: bytes


def make_clips(picks: Sequence[Pick], source: ClipSource, moments: ErrorMoments, given: Tables) -> list[ReportClip]:
    """One for each pick whose video can still be read; none of pictures, nor of a set that is shown turned."""
    clips = []
    for one in picks:
        try:
            clip = None if source.turned else _clip(one, source, moments, given)
        except MediaError:
            continue
        if clip is not None:
            clips.append(clip)
    return clips


def _clip(one: Pick, source: ClipSource, moments: ErrorMoments, given: Tables) -> ReportClip | None:
    """Raises MediaError."""
    at_us = moments.pts_us[one.video, one.frame]
    keyframes = sorted((pts, frame) for (video, frame), pts in moments.pts_us.items() if video == one.video)
    times = [pts for pts, _ in keyframes]
    shown: list[tuple[int, np.ndarray]] = []
    for t_us, rgb in _frames(source, one.video, at_us):
        at = nearest(times, t_us)
        frame = keyframes[at][1] if abs(times[at] - t_us) <= BOXES_US else None
        picture = _drawn(rgb, one, frame, given)
        if not shown or picture.shape == shown[0][1].shape:
            shown.append((t_us, picture))
    if len(shown) < 2:
        return None
    file, (height, width, _) = io.BytesIO(), shown[0][1].shape
    with Mp4Writer(file, width, height, 12.5, crf=26) as writer:
        for t_us, picture in shown:
            writer.write(picture, t_us - shown[0][0])
    poster = min(shown, key=lambda each: abs(each[0] - at_us))[1]
    return ReportClip(one, given.labels[one.label], file.getvalue(), encode_jpeg(poster))


def _drawn(rgb: np.ndarray, one: Pick, frame: int | None, given: Tables) -> np.ndarray:
    """(H, W, 3) uint8 -> found beside true, with the boxes of one of the video's keyframes, or none."""
    height, width = rgb.shape[:2]
    if width > WIDE and given.truth.unit == "normalised":
        rgb = resize(rgb, WIDE, max(1, round(height * WIDE / width)))
    size = rgb.shape[1], rgb.shape[0]
    if frame is None:
        return tile([rgb, rgb], 2)
    left = draw_actors(rgb, found_actors(given, one, frame, size))
    return tile([left, draw_actors(rgb, true_actors(given, one, frame, size))], 2)


def _frames(source: ClipSource, name: str, at_us: int) -> Iterator[tuple[int, np.ndarray]]:
    """Time and picture around a moment, none too near the one before. Raises MediaError."""
    split = source.split
    place = next(video.source for video in split.videos if video.name == name)
    start_us, end_us, last_us = max(at_us - AROUND_US, 0), at_us + AROUND_US, -APART_US
    if isinstance(place, VideoFile):
        for frame in frames_from(place.path, start_us, seekable=place.seekable):
            if frame.pts_us > end_us:
                return
            if frame.pts_us >= start_us and frame.pts_us - last_us >= APART_US:
                last_us = frame.pts_us
                yield last_us, frame.rgb()
    elif isinstance(place, FrameFolder):
        times = [place.time_us(index) for index in range(place.count)]
        for index in range(bisect_left(times, start_us), place.count):
            if times[index] > end_us:
                return
            if times[index] - last_us >= APART_US:
                last_us = times[index]
                yield last_us, read_picture(place.path(index))
