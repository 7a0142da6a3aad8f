"""JHMDB and UCF101-24 in the layout of ``JHMDB-GT.pkl`` (Kalogeiton et al., ICCV 2017).

A dict: ``labels`` (names), ``train_videos`` and ``test_videos`` (a list per split), ``nframes`` (per video),
``resolution`` (height, width), ``gttubes``: per video, per label index, tubes of rows (frame from 1, x1, y1, x2, y2 in
px). Frames are numbered from 0 here. Every frame with a box is a training keyframe; every frame of a video is an
evaluation keyframe, since people on frames outside the tubes are false.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stmixer.trainer.config.run import TubeSet
from stmixer.trainer.data.records import FrameFolder, Part, Rows, Split, Video, VideoFile, build_split
from stmixer.trainer.data.unpickle import read_pickle
from stmixer.trainer.errors import TrainError

PICKLES = {"jhmdb": "JHMDB-GT.pkl", "ucf101_24": "UCF101v2-GT.pkl"}
FOLDERS = {"jhmdb": "Frames", "ucf101_24": "rgb-images"}
RATES = {"jhmdb": 30.0, "ucf101_24": 25.0}
VIDEO_SUFFIXES = (".avi", ".mp4")
_KEYS = ("labels", "gttubes", "nframes", "train_videos", "test_videos", "resolution")


def read_tubes(config: TubeSet, root: Path, part: Part, split: int) -> Split:
    """One part of one split (1 to 3) of JHMDB or UCF101-24.

    Raises:
        TrainError: a pickle that is not of this layout, boxes that leave the picture by more than a pixel.
    """
    path = root / (config.annotations or PICKLES[config.kind])
    content = read_pickle(path)
    missing = [key for key in _KEYS if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise TrainError(f"{path} is not of the JHMDB-GT.pkl layout: no {', '.join(missing)}")
    try:
        return _read(config, root, part, split, content)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, TrainError):
            raise
        raise TrainError(f"{path} is not of the JHMDB-GT.pkl layout: {type(error).__name__} {error}") from None


def _read(config: TubeSet, root: Path, part: Part, split: int, content: Mapping[str, Any]) -> Split:
    lists = content["train_videos" if part == "train" else "test_videos"]
    if split > len(lists):
        raise TrainError(f"{config.kind} has {len(lists)} splits here, not {split}")
    names = [str(name) for name in lists[split - 1]]
    labels = tuple(str(label) for label in content["labels"])
    folder = root / (config.frames or FOLDERS[config.kind])
    fps = Fraction(config.fps or RATES[config.kind]).limit_denominator(1000)
    videos = [Video(name, _source(folder, name, int(content["nframes"][name]), fps)) for name in names]
    rows, faults = _rows(content, names)
    if faults:
        raise TrainError([f"{config.kind}: {fault}" for fault in faults])
    every = [(i, frame) for i, name in enumerate(names) for frame in range(int(content["nframes"][name]))]
    sizes_wh = np.array([content["resolution"][name][::-1] for name in names], dtype=np.float64).reshape(-1, 2)
    return build_split(
        config.name or config.kind,
        part,
        labels,
        videos,
        rows,
        empty_keyframes=every if part == "val" else (),
        sizes_wh=sizes_wh,
    )


def _rows(content: Mapping[str, Any], names: list[str]) -> tuple[Rows, list[str]]:
    video, label, track, parts, faults = [], [], [], [], []
    for i, name in enumerate(names):
        height, width = content["resolution"][name]
        person = 0
        for action, tubes in sorted(content["gttubes"][name].items()):
            for tube in tubes:
                table = np.asarray(tube, dtype=np.float64).reshape(-1, 5).copy()
                table[:, 1:] /= (width, height, width, height)
                if (bad := _leaves(table[:, 1:], width, height)).any():
                    faults.append(f"{name}, frame {int(table[bad.argmax(), 0])}: a box lies outside the picture")
                table[:, 1:] = table[:, 1:].clip(0, 1)
                table = table[(table[:, 3:] > table[:, 1:3]).all(1)]
                parts.append(table)
                video += [i] * len(table)
                label += [int(action)] * len(table)
                track += [person] * len(table)
                person += 1
    whole = np.concatenate(parts) if parts else np.zeros((0, 5))
    frames = whole[:, 0].astype(np.int64) - 1
    ids, actions, people = (np.asarray(column, dtype=np.int64) for column in (video, label, track))
    nothing = np.zeros(len(whole), dtype=np.int64)
    return Rows(ids, frames, whole[:, 1:], actions, people, nothing.astype(np.bool_), nothing), faults


def _leaves(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which boxes (0–1) leave the picture by more than a pixel: counting from 1, they may reach one past its edge."""
    slack = np.array((1 / width, 1 / height) * 2) + 1e-6
    return np.asarray(((boxes < -slack) | (boxes > 1 + slack)).any(1))


def _source(folder: Path, name: str, frames: int, fps: Fraction) -> VideoFile | FrameFolder:
    """The frame folder of a video, else its file."""
    for suffix in VIDEO_SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return VideoFile(path)
    pictures = folder / name
    names = sorted(p.name for p in pictures.iterdir()) if pictures.is_dir() else []
    match = next((m for name in names if (m := re.fullmatch(r"(.*?)(\d+)(\.\w+)", name))), None)
    if match is None:
        return FrameFolder(pictures, "", 5, ".png", 1, frames, fps)  # the check will say that it is not there
    return FrameFolder(pictures, match[1], len(match[2]), match[3], int(match[2]), frames, fps)
