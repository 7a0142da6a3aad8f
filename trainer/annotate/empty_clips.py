"""Clips without people out of one annotated video: a fixed camera's background, and corners that nobody enters.

Trusts the annotation where every person of the video has a box, and a person detector at a low score besides. Neither
is proof: whoever makes such clips looks at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from stmixer.media.decode import Limits, VideoReader
from stmixer.trainer.annotate.background import background
from stmixer.trainer.annotate.free_space import Boxes, Mask, Rectangle, covered, largest_rectangle
from stmixer.trainer.annotate.person_detector import PersonDetector, Pixels
from stmixer.trainer.data.records import Part, Split, VideoFile

Kind = Literal["median", "crop"]

MARGIN = 0.15
"""By which boxes grow, of their own size: hands and feet reach out of them."""

MOMENTS = 31
"""Pictures that a background is made of, at most."""

CROP_FRAMES = 30
LEAST_CROP_FRAMES = 10
MEDIAN_FRAMES = 5
MOST_GAP = 5
"""Frames from one annotated frame to the next within a crop: nobody gets far out of a grown box in between."""

CROPS = 2
"""Of one video, at most: at different times and places."""

LEAST_PX = 96
LEAST_SHARE = 1 / 3
"""Of the picture's short side, which a clip's short side has at least."""

_ROUNDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedVideo:
    """An annotated video: ``boxes`` (n, 4), 0–1, of each annotated frame. ``everybody``: nobody in it lacks a box."""

    set: str
    part: Part
    name: str
    path: Path
    boxes: Mapping[int, Boxes]
    everybody: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class EmptyClip:
    """(H, W, 3) uint8 RGB frames at moments in µs, and what they were made of: frames ``first`` to ``last``."""

    kind: Kind
    pictures: tuple[Pixels, ...]
    pts_us: tuple[int, ...]
    first: int
    last: int
    place: Rectangle


@dataclass(frozen=True, slots=True, eq=False)
class _TimedFrame:
    """A frame of a video and when it is shown."""

    rgb: Pixels
    pts_us: int


def annotated_videos(split: Split, uncertain: Sequence[str]) -> list[AnnotatedVideo]:
    """The videos of a split of which every annotated frame is a keyframe; in ``uncertain`` some people lack boxes."""
    videos = []
    for number, video in enumerate(split.videos):
        assert isinstance(video.source, VideoFile), video
        rows = np.flatnonzero(split.video == number)
        boxes = {int(split.frame[k]): split.boxes_xyxy[split.people(int(k))] for k in rows}
        certain = video.name not in uncertain
        videos.append(AnnotatedVideo(split.name, split.part, video.name, video.source.path, boxes, certain))
    return videos


def empty_clips(video: AnnotatedVideo, detector: PersonDetector) -> list[EmptyClip]:
    """A background, where the camera is fixed, and up to CROPS crops of other places.

    Raises:
        MediaError: a video that cannot be read.
    """
    moments = _spread(sorted(video.boxes), MOMENTS)
    segments = _segments(sorted(video.boxes)) if video.everybody else []
    wanted = set(moments).union(*segments)
    shown: dict[int, _TimedFrame] = {}
    with VideoReader(video.path, limits=Limits.unlimited(), threads=1) as reader:
        for frame in reader:
            if frame.index in wanted:
                shown[frame.index] = _TimedFrame(frame.rgb(), frame.pts_us)
            if frame.index >= max(wanted):
                break
    clips: list[EmptyClip] = []
    attempts = [partial(_median, video, [m for m in moments if m in shown], shown, detector)]
    attempts += [partial(_crop, video, [f for f in segment if f in shown], shown, detector) for segment in segments]
    for attempt in attempts:
        clip = attempt([earlier.place for earlier in clips])
        if clip is not None:
            clips.append(clip)
    return clips


def _median(
    video: AnnotatedVideo,
    moments: Sequence[int],
    shown: Mapping[int, _TimedFrame],
    detector: PersonDetector,
    taken: Sequence[Rectangle],
) -> EmptyClip | None:
    frames = [shown[m].rgb for m in moments]
    hidden = [_covered(video.boxes[m], rgb) for m, rgb in zip(moments, frames, strict=True)]
    found = background(frames, hidden)
    place = None if found is None else _empty_place(found.trusted, [found.picture], taken, detector)
    if found is None or place is None:
        return None
    picture = _cut_out(found.picture, place)
    pts_us = tuple(round(i * 1e6 / 30) for i in range(MEDIAN_FRAMES))
    return EmptyClip("median", (picture,) * MEDIAN_FRAMES, pts_us, moments[0], moments[-1], place)


def _crop(
    video: AnnotatedVideo,
    segment: Sequence[int],
    shown: Mapping[int, _TimedFrame],
    detector: PersonDetector,
    taken: Sequence[Rectangle],
) -> EmptyClip | None:
    if len(segment) < LEAST_CROP_FRAMES:
        return None
    pictures = [shown[f].rgb for f in segment]
    free = ~_covered(np.concatenate([video.boxes[f] for f in segment if f in video.boxes]), pictures[0])
    place = _empty_place(free, [pictures[0], pictures[len(pictures) // 2], pictures[-1]], taken, detector)
    if place is None:
        return None
    start_us = shown[segment[0]].pts_us
    return EmptyClip(
        "crop",
        tuple(_cut_out(rgb, place) for rgb in pictures),
        tuple(shown[f].pts_us - start_us for f in segment),
        segment[0],
        segment[-1],
        place,
    )


def _empty_place(
    free: Mask, pictures: Sequence[Pixels], taken: Sequence[Rectangle], detector: PersonDetector
) -> Rectangle | None:
    """The largest free rectangle in which the detector sees nobody, neither in the whole pictures nor close up."""
    free = free.copy()
    for x1, y1, x2, y2 in taken:
        free[y1:y2, x1:x2] = False
    least = max(LEAST_PX, int(np.ceil(LEAST_SHARE * min(free.shape))))
    if largest_rectangle(free, least) is None:
        return None  # before the detector is asked, which takes its time
    for rgb in pictures:
        free &= ~_covered(detector.find(rgb).boxes_xyxy, rgb)
    for _ in range(_ROUNDS):
        place = largest_rectangle(free, least)
        if place is None:
            return None
        x1, y1, x2, y2 = place
        people = [_covered(detector.find(part).boxes_xyxy, part) for part in (_cut_out(p, place) for p in pictures)]
        seen = np.logical_or.reduce(people)
        if not seen.any():
            return place
        free[y1:y2, x1:x2] &= ~seen
    return None


def _segments(annotated: Sequence[int]) -> list[range]:
    """Up to CROPS segments of CROP_FRAMES frames that are annotated closely, as far apart as they come."""
    runs = np.split(np.array(annotated), np.flatnonzero(np.diff(annotated) > MOST_GAP) + 1)
    whole = []
    for run in runs:
        for start in range(int(run[0]), int(run[-1]) + 1, CROP_FRAMES):
            inside = run[(run >= start) & (run < start + CROP_FRAMES)]
            if len(inside) and inside[-1] - inside[0] >= LEAST_CROP_FRAMES - 1:
                whole.append(range(int(inside[0]), int(inside[-1]) + 1))
    return [whole[i] for i in _spread(range(len(whole)), CROPS)]


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of them, from the first to the last in even steps."""
    if not values:
        return []
    at = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))
    return [values[i] for i in at]


def _covered(boxes: Boxes, rgb: Pixels) -> Mask:
    return covered(boxes, rgb.shape[1], rgb.shape[0], MARGIN)


def _cut_out(rgb: Pixels, place: Rectangle) -> Pixels:
    x1, y1, x2, y2 = place
    return np.ascontiguousarray(rgb[y1:y2, x1:x2])
