"""Errors as moments of videos: what was wrong, when, and where it can be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from stmixer.trainer.config.run import AvaSet
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.records import FrameFolder, Picture, VideoFile
from stmixer.trainer.evaluate.pictures import Pick

Key = tuple[str, int]
"""A video's name and a frame as its set calls it."""


@dataclass(frozen=True, slots=True)
class ErrorMoment:
    """An error's place: seconds from the video's beginning (None of a picture), and a link to there from the report."""

    seconds: float | None
    link: str


class ErrorMoments:
    """The moments of one set's keyframes.

    Args:
        source: the set.
        page_folder: where the report will lie; links start there, so that both may move together.
    """

    def __init__(self, source: ClipSource, page_folder: Path) -> None:
        split = source.split
        self._folder = page_folder.absolute()
        self._videos = {video.name: video.source for video in split.videos}
        self._seconds_named = isinstance(source.config, AvaSet)
        names = [video.name for video in split.videos]
        self.pts_us: Mapping[Key, int] = {
            (names[video], frame): pts
            for video, frame, pts in zip(split.video.tolist(), split.frame.tolist(), split.pts_us.tolist(), strict=True)
        }

    def of(self, video: str, frame: int) -> ErrorMoment:
        """Of one of the set's frames."""
        place = self._videos[video]
        pts_us = self.pts_us.get((video, frame), 0)
        match place:
            case Picture(path):
                return ErrorMoment(None, self._link(path))
            case FrameFolder() as folder:
                index = round(pts_us * folder.fps / 1_000_000) if self._seconds_named else frame
                return ErrorMoment(pts_us / 1e6, self._link(folder.path(min(index, folder.count - 1))))
            case VideoFile(path):
                return ErrorMoment(pts_us / 1e6, f"{self._link(path)}#t={pts_us / 1e6:.3f}")

    def _link(self, path: Path) -> str:
        return quote(os.path.relpath(path.absolute(), self._folder).replace(os.sep, "/"))


def clock(seconds: float) -> str:
    """``1:02.4``."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def worst(picks: Sequence[Pick], most: int, rank: Callable[[Pick], float]) -> list[Pick]:
    """The worst pick of each of the videos that have most of them, at most so many; ``rank``: how bad one is."""
    of: dict[str, list[Pick]] = {}
    for one in picks:
        of.setdefault(one.video, []).append(one)
    ordered = sorted(of.values(), key=lambda own: (-len(own), own[0].video))[:most]
    return [max(own, key=rank) for own in ordered]
