"""AVA as PySlowFast lays it out.

- ``annotations/ava_{train,val}_vX.csv``: ``video, second, x1, y1, x2, y2, action, person`` without a header; without
  box and action, nobody is annotated at that second.
- ``annotations/ava_{train,val}_excluded_timestamps_vX.csv``: ``video, second``, left out.
- ``annotations/ava_action_list_vX*.pbtxt`` is not needed: AVA's 80 labels are built in.
- ``frame_lists/{train,val}.csv``: ``original_vido_id video_id frame_id path labels`` by blanks, paths below
  ``frames/``, 30 pictures a second; or ``videos/``: a file per video.

Train keyframes are those with boxes; evaluation keyframes all that the csv names. Frames are named by second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from stmixer.model.config import RAW_FPS
from stmixer.model.labels import AVA_LABELS
from stmixer.trainer.config.run import AvaSet
from stmixer.trainer.data.csv_table import number, read_lines, whole
from stmixer.trainer.data.records import (
    FrameFolder,
    Part,
    Rows,
    Split,
    Video,
    VideoFile,
    box_faults,
    build_split,
    timed,
)
from stmixer.trainer.errors import TrainError

LABEL_NAMES = tuple(label.name for label in AVA_LABELS)
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")


@dataclass(frozen=True, slots=True)
class _AnnotationTable:
    """The annotation's rows, video names still as texts; ``named`` are the (video, second) pairs it mentions."""

    videos: list[str]
    seconds: list[int]
    boxes: list[list[float]]
    labels: list[int]
    people: list[int]
    named: set[tuple[str, int]]


def read_ava(config: AvaSet, root: Path, part: Part) -> Split:
    """One split of AVA. Raises TrainError, a line for every fault found in its files."""
    folder = root / "annotations"
    path = folder / f"ava_{part}_v{config.version}.csv"
    excluded = _read_excluded(folder / f"ava_{part}_excluded_timestamps_v{config.version}.csv")
    table = _read_annotations(path, excluded)
    names = sorted({video for video, _ in table.named})
    ids = {name: i for i, name in enumerate(names)}
    videos = _frame_lists(root, part, names) if config.source == "frames" else _video_files(root, names)
    rows = Rows.of([ids[v] for v in table.videos], table.seconds, table.boxes, table.labels, table.people)
    empty = [(ids[video], second) for video, second in sorted(table.named)] if part == "val" else []
    split = build_split(config.name or "ava", part, LABEL_NAMES, videos, rows, empty_keyframes=empty)
    pts_us = ((split.frame - config.start_s) * 1_000_000).astype(np.int64)
    if (pts_us < 0).any():
        raise TrainError(f"{path}: seconds before start_s {config.start_s:g}, where the videos begin")
    return timed(split, split.videos, pts_us)


def _read_excluded(path: Path) -> set[tuple[str, int]]:
    """The seconds left out. Raises TrainError, a line per fault."""
    # AVA publishes a list for the validation split alone
    if not path.exists():
        return set()
    excluded: set[tuple[str, int]] = set()
    faults = []
    for line, row in read_lines(path):
        try:
            excluded.add((row[0], whole(row[1], "second")))
        except (ValueError, IndexError):
            faults.append(f"{path}:{line}: not video, second: {','.join(row)}")
    if faults:
        raise TrainError(faults)
    return excluded


def _read_annotations(path: Path, excluded: set[tuple[str, int]]) -> _AnnotationTable:
    table = _AnnotationTable([], [], [], [], [], set())
    lines: list[int] = []
    faults: list[str] = []
    for line, row in read_lines(path):
        try:
            video, second = row[0], whole(row[1], "second")
            if (video, second) in excluded:
                continue
            if not any(row[2:]):
                table.named.add((video, second))
                continue
            box, action = [number(value) for value in row[2:6]], whole(row[6], "action")
            person = whole(row[7] or "-1", "person") if len(row) > 7 else -1
        except (ValueError, IndexError):
            faults.append(f"{path}:{line}: not video, second, x1, y1, x2, y2, action, person: {','.join(row)}")
            continue
        if not 1 <= action <= len(LABEL_NAMES):
            faults.append(f"{path}:{line}: action {action} is not in the list: 1 to {len(LABEL_NAMES)}")
            continue
        table.named.add((video, second))
        table.videos.append(video)
        table.seconds.append(second)
        table.boxes.append(box)
        table.labels.append(action - 1)
        table.people.append(person)
        lines.append(line)
    boxes = np.asarray(table.boxes, dtype=np.float64).reshape(-1, 4)
    faults += [f"{path}:{lines[row]}: {fault}" for row, fault in box_faults(boxes)]
    if faults:
        raise TrainError(faults)
    return table


def _frame_lists(root: Path, part: Part, names: list[str]) -> list[Video]:
    """The frame folders of the named videos. Each video's pictures must be numbered without gaps."""
    path = root / "frame_lists" / f"{part}.csv"
    first: dict[str, tuple[Path, str, str, int, str]] = {}
    count: dict[str, int] = {}
    faults = []
    for line, row in read_lines(path, " "):
        if row[0].startswith("original_vid"):
            continue
        try:
            video, frame_id, picture = row[0], whole(row[2], "frame_id"), Path(row[3])
        except (ValueError, IndexError):
            faults.append(f"{path}:{line}: not video, number, frame_id, path, by blanks: {' '.join(row)}")
            continue
        match = re.fullmatch(r"(.*?)(\d+)(\.\w+)", picture.name)
        if match is None:
            faults.append(f"{path}:{line}: {picture.name} has no number")
            continue
        number = int(match[2]) - frame_id
        start = first.setdefault(video, (picture.parent, match[1], match[2], number, match[3]))
        if start[0] != picture.parent or start[3] != number or start[1] != match[1]:
            faults.append(f"{path}:{line}: {picture} breaks the numbering of {video}")
        count[video] = max(count.get(video, 0), frame_id + 1)
    faults += [f"{path}: no frames of {name}, which is annotated" for name in names if name not in first]
    if faults:
        raise TrainError(faults)
    folders = []
    for name in names:
        folder, prefix, digits, number, suffix = first[name]
        source = FrameFolder(
            root / "frames" / folder, prefix, len(digits), suffix, number, count[name], Fraction(RAW_FPS)
        )
        folders.append(Video(name, source))
    return folders


def _video_files(root: Path, names: list[str]) -> list[Video]:
    videos = []
    for name in names:
        candidates = [root / "videos" / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES]
        path = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
        videos.append(Video(name, VideoFile(path)))
    return videos
