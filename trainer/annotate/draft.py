"""One video's draft of boxes: who was found on every n-th frame, linked, and a picture that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.draw import DrawnActor, draw_actors
from stmixer.media.errors import MediaError
from stmixer.model.clip import MAX_ASPECT, input_size
from stmixer.trainer.annotate.person_detector import PersonFinder, Pixels
from stmixer.trainer.annotate.tracks import Track, Tracker
from stmixer.trainer.data.check import frame_times

SHOWN = 6
"""Pictures on a preview."""

_PREVIEW_SIDE = 480


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """``every`` n-th frame is looked at; tracks under ``min_length_s`` are dropped (but not in shorter videos); a
    person missed for up to ``max_gap_s`` is the same and gets boxes in between; ``copy`` puts copies into the set
    instead of links; ``force`` overwrites the csv files of an earlier draft, corrected or not.
    """

    every: int = 5
    min_length_s: float = 0.5
    max_gap_s: float = 0.5
    copy: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """One video's: ``tracks`` with steps of ``every`` frames; ``shown``, the preview's (frame, picture)."""

    name: str
    frames: int
    fps: float
    width: int
    height: int
    tracks: tuple[Track, ...]
    shown: tuple[tuple[int, Pixels], ...]

    @property
    def boxes(self) -> int:
        """Their number."""
        return sum(len(track.steps) for track in self.tracks)

    @property
    def filled(self) -> int:
        """Those of them that were not found but lie between found ones."""
        return sum(len(track.filled) for track in self.tracks)


def draft_video(
    name: str,
    path: Path,
    detector: PersonFinder,
    options: LabelOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> Draft:
    """Find and link the people of one video.

    Raises:
        MediaError: a video that training could not use either: unreadable, cut off, damaged or too elongated.
    """
    with VideoReader(path, limits=Limits.unlimited(), threads=1) as reader:
        info = reader.info
        input_size(info.width, info.height, 256, 256 * MAX_ASPECT)
        times = frame_times(path)
        step_s = max(float(times[-1]), 1.0) / max(len(times) - 1, 1) * options.every / 1e6
        tracker = Tracker(round(options.max_gap_s / step_s))
        last = (len(times) - 1) // options.every
        wanted = {options.every * round(i * last / (SHOWN - 1)) for i in range(SHOWN)}
        shown: list[tuple[int, Pixels]] = []
        frames = 0
        for frame in reader:
            frames += 1
            if frame.index % options.every == 0:
                rgb = frame.rgb()
                tracker.feed(frame.index // options.every, detector.find(rgb))
                if frame.index in wanted:
                    shown.append((frame.index, _thumbnail(rgb, info.width, info.height)))
            if progress is not None:
                progress(name, frames, len(times))
    if frames != len(times):
        # boxes are counted by frames, and training counts those that the container names
        raise MediaError("unreadable", f"{frames} of {len(times)} frames can be decoded: encode the video anew")
    least_s = min(options.min_length_s, last * step_s)
    kept = [track for track in tracker.tracks if (track.steps[-1] - track.steps[0]) * step_s >= least_s - 1e-6]
    fps = options.every / step_s if frames > 1 else 0.0
    return Draft(name, frames, fps, info.width, info.height, tuple(kept), tuple(shown))


def _thumbnail(rgb: Pixels, width: int, height: int) -> Pixels:
    """At one size for all pictures of a video of this size, even where it changes midway."""
    scale = min(1.0, _PREVIEW_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def preview(draft: Draft, every: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: the shown frames with their boxes, three in a row, each with its frame's number."""
    tiles = []
    for frame, rgb in draft.shown:
        height, width = rgb.shape[:2]
        actors = [
            DrawnActor(_in_px(track.boxes[at], width, height), track.scores[at], (), number)
            for number, track in enumerate(draft.tracks)
            for at, step in enumerate(track.steps)
            if step * every == frame
        ]
        tiles.append(draw_actors(rgb, actors, banner=f"draft, frame {frame}"))
    columns = min(3, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _in_px(box: NDArray[np.float64], width: int, height: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1 * width, y1 * height, x2 * width, y2 * height
