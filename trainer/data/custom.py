"""The custom set: a folder with videos.csv, boxes.csv and videos/.

- videos.csv: ``video, split`` (train or val) and whatever else; a row per video.
- boxes.csv: ``video, frame`` (0-based), ``x1, y1, x2, y2`` (0–1), ``label``, ``track`` and whatever else; a row per box
  and label. An empty label is a person whose action is not annotated; ``track`` may be missing.

A frame without rows is no keyframe. Evaluation keyframes are the annotated frames whose index is a multiple of 5.

A set of videos without people (``empty: true``) has no rows at all, and ``frames`` in videos.csv: every n-th frame is a
keyframe on which nobody is, for training as for evaluation.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.records import UNKNOWN, Origin, Part, Rows, Split, Video, VideoFile, box_faults, build_split
from stmixer.trainer.errors import TrainError, reading

EVALUATION_STEP = 5
EMPTY_STEP = 15
"""Frames from one keyframe of a video without people to the next: the next one shows nothing new."""

_VIDEO_COLUMNS = ("video", "split")
_BOX_COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "label")


def read_custom(
    config: CustomSet, root: Path, part: Part, allowed: tuple[str, ...] | None, *, step: int | None = None
) -> Split:
    """One split of a custom set.

    Args:
        config: the set.
        root: its folder.
        part: ``train`` or ``val``.
        allowed: the run's labels, where the run names them.
        step: annotated frames whose index is a multiple of it are keyframes. Default: what the part wants.

    Raises:
        TrainError: a line for every fault found in the two files.
    """
    name = config.name or root.resolve().name
    split_of = _read_videos(root / "videos.csv", config.exclude)
    boxes = root / "boxes.csv"
    table = _read_table(boxes, _BOX_COLUMNS)
    if config.empty:
        return _read_empty(config, root, name, part, table)
    labels = _labels(config, boxes, table, allowed)
    names = [video for video, its_part in split_of.items() if its_part == part and video not in config.exclude]
    rows, faults = _rows(boxes, table, split_of, names, labels)
    if faults:
        raise TrainError(faults)
    step = step or (EVALUATION_STEP if part == "val" else config.keyframe_every or 1)
    videos = [Video(video, VideoFile(root / "videos" / video)) for video in names]
    return build_split(
        name,
        part,
        labels,
        videos,
        rows.take(rows.frame % step == 0),
        unlabelled_is_negative=config.unlabelled == "negative",
        origin=_origin({row.get("origin") or "true" for row in table if row["video"] in names}),
    )


def video_names(root: Path) -> set[str]:
    """The videos that a set lists. Raises TrainError."""
    return {row["video"] for row in _read_table(root / "videos.csv", _VIDEO_COLUMNS)}


def _read_empty(config: CustomSet, root: Path, name: str, part: Part, boxes: list[dict[str, str]]) -> Split:
    """Keyframes of videos without people. Raises TrainError for boxes, and for videos whose length is not stated."""
    path = root / "videos.csv"
    if boxes:
        raise TrainError(f"sets: {name} is said to be empty, but {root / 'boxes.csv'} has {len(boxes)} rows")
    step = config.keyframe_every or EMPTY_STEP
    videos: list[Video] = []
    keyframes: list[tuple[int, int]] = []
    faults = []
    for line, row in enumerate(_read_table(path, (*_VIDEO_COLUMNS, "frames")), start=2):
        if row["split"] != part or row["video"] in config.exclude:
            continue
        if not row["frames"].isdecimal() or int(row["frames"]) < 1:
            faults.append(f"{path}:{line}: frames {row['frames']!r} is no number of frames")
            continue
        # from the middle of the first stretch on, so that a clip of any length has one
        frames = int(row["frames"])
        keyframes += [(len(videos), frame) for frame in range(min(step, frames) // 2, frames, step)]
        videos.append(Video(row["video"], VideoFile(root / "videos" / row["video"])))
    if faults:
        raise TrainError(faults)
    return build_split(name, part, (), videos, Rows.of([], [], [], [], []), empty_keyframes=keyframes)


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with reading(path), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise TrainError(f"{path}: no column {', '.join(missing)}")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainError(f"{path} is no csv in UTF-8: {error}") from None


def _read_videos(path: Path, exclude: tuple[str, ...]) -> dict[str, str]:
    """The split of every video. Raises TrainError, a line per fault."""
    split_of: dict[str, str] = {}
    faults = []
    for line, row in enumerate(_read_table(path, _VIDEO_COLUMNS), start=2):
        video, part = row["video"], row["split"]
        if part not in ("train", "val"):
            faults.append(f"{path}:{line}: split {part!r} is neither train nor val")
        if video in split_of and video not in exclude:
            faults.append(f"{path}:{line}: {video} a second time")
        if not video or Path(video).is_absolute() or ".." in Path(video).parts:
            faults.append(f"{path}:{line}: video {video!r} is no name inside videos/")
        split_of[video] = part
    faults += [f"sets: exclude names {video}, which is not in {path}" for video in exclude if video not in split_of]
    if faults:
        raise TrainError(faults)
    return split_of


def _labels(
    config: CustomSet, path: Path, table: list[dict[str, str]], allowed: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The labels that the set annotates, all of them in the run's list."""
    found = sorted({row["label"] for row in table} - {""})
    if config.annotates is not None:
        if allowed is not None and (strange := [label for label in config.annotates if label not in allowed]):
            raise TrainError(f"sets: annotates {', '.join(strange)}, not among the run's labels")
        return config.annotates
    return tuple(found) if allowed is None else tuple(label for label in allowed if label in found)


def _origin(found: set[str]) -> Origin:
    """Who drew a split's boxes. Where the file does not say, people did."""
    if found <= {"true"}:
        return "true"
    return "pseudo" if found == {"pseudo"} else "mixed"


def _rows(
    path: Path, table: list[dict[str, str]], split_of: dict[str, str], names: list[str], labels: tuple[str, ...]
) -> tuple[Rows, list[str]]:
    """The rows of the named videos, and the faults of all of these rows and of rows of unknown videos."""
    videos = {video: i for i, video in enumerate(names)}
    label_ids = {"": UNKNOWN} | {label: i for i, label in enumerate(labels)}
    faults: list[str] = []
    lines: list[int] = []
    video, frame, boxes, label, track = [], [], [], [], []
    for line, row in enumerate(table, start=2):
        if row["video"] not in split_of:
            faults.append(f"{path}:{line}: video {row['video']!r} is not in videos.csv")
            continue
        if row["video"] not in videos:
            continue
        if row["label"] not in label_ids:
            faults.append(f"{path}:{line}: label {row['label']!r} is not in the list: {', '.join(labels)}")
            continue
        try:
            numbers = [float(row[corner]) for corner in ("x1", "y1", "x2", "y2")]
            index, person = int(row["frame"]), int(row.get("track") or -1)
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
            continue
        if index < 0:
            faults.append(f"{path}:{line}: frame {index} is negative")
            continue
        video.append(videos[row["video"]])
        frame.append(index)
        boxes.append(numbers)
        label.append(label_ids[row["label"]])
        track.append(person)
        lines.append(line)
    rows = Rows.of(video, frame, boxes, label, track)
    faults += [f"{path}:{lines[row]}: {fault}" for row, fault in box_faults(np.asarray(rows.boxes_xyxy))]
    return rows, faults
