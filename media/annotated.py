"""A copy of a video with boxes and labels on every frame: decode, draw, encode."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.draw import Box, DrawnActor, draw_actors
from stmixer.media.encode import Mp4Writer
from stmixer.media.limits import DRAWN_ACTION_SCORE, DRAWN_ACTIONS
from stmixer.media.resize import resize

UNTRAINED_BANNER = "UNTRAINED MODEL: boxes and names mean nothing yet"


class NamedAction(Protocol):
    """An action, and how much of it is said of the person, 0 to 1."""

    @property
    def name(self) -> str: ...
    @property
    def said(self) -> float: ...


class FoundActor(Protocol):
    """A person: x1, y1, x2, y2 in px of the picture, score 0 to 1, actions."""

    @property
    def box_px(self) -> Box: ...
    @property
    def person_score(self) -> float: ...
    @property
    def track_id(self) -> int | None: ...
    @property
    def actions(self) -> Sequence[NamedAction]: ...


class PictureShape(Protocol):
    """Pixels of a picture, as displayed."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


class FoundKeyframe(Protocol):
    """Who was found at a moment, µs from the first frame, in a picture of what size."""

    @property
    def pts_us(self) -> int: ...
    @property
    def frame(self) -> PictureShape: ...
    @property
    def actors(self) -> Sequence[FoundActor]: ...


def banner(trained: bool) -> str | None:
    """What has to be said on every picture of a model's results."""
    return None if trained else UNTRAINED_BANNER


def drawn(actors: Sequence[FoundActor]) -> list[DrawnActor]:
    """Actors as a picture names them: the best few actions that are likely enough to say."""
    return [
        DrawnActor(
            box_px=actor.box_px,
            person_score=actor.person_score,
            labels=sorted(
                [(a.name, a.said) for a in actor.actions if a.said >= DRAWN_ACTION_SCORE], key=lambda label: -label[1]
            )[:DRAWN_ACTIONS],
            track_id=actor.track_id,
        )
        for actor in actors
    ]


class Moments:
    """Who is where at any time, from what was found on keyframes, which come by rising time.

    Between two keyframes a person who is on both moves in a straight line from box to box; what they do is said as on
    the nearer one. Somebody who is on one alone stays there, and is shown as long as that one is the nearer.
    """

    def __init__(self, keyframes: Sequence[FoundKeyframe]) -> None:
        self._keyframes = keyframes
        self._times = [keyframe.pts_us for keyframe in keyframes]

    def at(self, t_us: int) -> list[DrawnActor]:
        """The people at a moment."""
        here = nearest(self._times, t_us)
        actors = drawn(self._keyframes[here].actors)
        before = bisect_right(self._times, t_us) - 1
        if before < 0 or before + 1 == len(self._times):
            return actors
        first, second = self._keyframes[before], self._keyframes[before + 1]
        share = (t_us - first.pts_us) / (second.pts_us - first.pts_us)
        starts, ends = _boxes_of_tracks(first), _boxes_of_tracks(second)
        for place, actor in enumerate(actors):
            if actor.track_id in starts and actor.track_id in ends:
                pairs = zip(starts[actor.track_id], ends[actor.track_id], strict=True)
                x1, y1, x2, y2 = (a + share * (b - a) for a, b in pairs)
                actors[place] = replace(actor, box_px=(x1, y1, x2, y2))
        return actors


def _boxes_of_tracks(keyframe: FoundKeyframe) -> dict[int | None, Box]:
    return {actor.track_id: actor.box_px for actor in keyframe.actors if actor.track_id is not None}


def write_annotated(
    source: str | Path | BinaryIO,
    target: Path | BinaryIO,
    keyframes: Sequence[FoundKeyframe],
    *,
    trained: bool,
    limits: Limits,
    progress: Callable[[float, float | None], None] | None = None,
) -> None:
    """Decode ``source`` again and write it as H.264 with people drawn on every frame, between keyframes as ``Moments``.

    The copy has the size of the first frame. One of another size is drawn upon in its own pixels, with what was found
    in pictures like it, and fitted in between black borders. ``keyframes``: by rising time. ``progress`` is told
    seconds of video done and in all (None if unknown). Raises MediaError.
    """
    found: dict[tuple[int, int], list[FoundKeyframe]] = {}
    for keyframe in keyframes:
        found.setdefault((keyframe.frame.width, keyframe.frame.height), []).append(keyframe)
    moments = {size: Moments(alike) for size, alike in found.items()}
    with VideoReader(source, limits=limits) as reader:
        info = reader.info
        with Mp4Writer(target, info.width, info.height, info.average_rate or 30.0) as writer:
            for frame in reader:
                alike = moments.get((frame.width, frame.height))
                actors = [] if alike is None else alike.at(frame.pts_us)
                picture = draw_actors(frame.rgb(), actors, banner=banner(trained))
                writer.write(_fitted(picture, info.width, info.height), frame.pts_us)
                if progress is not None:
                    progress(frame.pts_us / 1e6, info.duration_s)


def _fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (height, width, 3): as large as it goes in, in the middle, black around it."""
    rows, columns, _ = picture.shape
    if (columns, rows) == (width, height):
        return picture
    scale = min(width / columns, height / rows)
    inner_width, inner_height = max(1, round(columns * scale)), max(1, round(rows * scale))
    canvas = np.zeros((height, width, 3), np.uint8)
    x, y = (width - inner_width) // 2, (height - inner_height) // 2
    canvas[y : y + inner_height, x : x + inner_width] = resize(picture, inner_width, inner_height)
    return canvas


def nearest(times: Sequence[int], t_us: int) -> int:
    """Index of the keyframe closest to a moment, the earlier one of two."""
    after = bisect_left(times, t_us)
    if after == 0:
        return 0
    if after == len(times):
        return after - 1
    return after - 1 if t_us - times[after - 1] <= times[after] - t_us else after
