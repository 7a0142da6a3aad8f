"""The custom set: a folder with videos.csv, boxes.csv and videos/.

- videos.csv: ``video, split`` (train or val) and whatever else; a row per video.
- boxes.csv: ``video, frame`` (0-based), ``x1, y1, x2, y2`` (0–1), ``label``, ``track``, ``crowd`` and whatever else; a
  row per box and label. An empty label, or ``none``, is a person whose action is not annotated; ``crowd`` 1 is an area
  to ignore; ``track`` and ``crowd`` may be missing.
- more tables beside it: `trainer.data.beside_boxes`.

A frame without rows is no keyframe. Evaluation keyframes are all annotated frames, or those whose index is a multiple
of a run's ``evaluate.every``.

A set of videos without people (``empty: true``) has no rows at all, and ``frames`` in videos.csv: every n-th frame is a
keyframe on which nobody is, for training as for evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.beside_boxes import LookedLabel, Negatives, read_ignored, read_looked, read_negatives
from stmixer.trainer.data.csv_table import CORNERS, Row, corners, outside, read_table, whole, yes
from stmixer.trainer.data.records import (
    UNKNOWN,
    Origin,
    Part,
    Rows,
    Split,
    Video,
    VideoFile,
    box_faults,
    build_split,
    disagreements,
)
from stmixer.trainer.errors import TrainError

EMPTY_STEP = 15
"""Frames from one keyframe of a video without people to the next: the next one shows nothing new."""

NO_LABEL = ("", "none")
"""What boxes.csv has for a person whose action is not annotated."""

_VIDEO_COLUMNS = ("video", "split")
_BOX_COLUMNS = ("video", "frame", *CORNERS, "label")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The labels that are read from a set; of others nothing is known where ``partial``, else they are faults."""

    labels: tuple[str, ...]
    partial: bool

    def number(self, label: str) -> int:
        """Its index, or UNKNOWN. Raises ValueError for a label that is not to be."""
        if label in self.labels:
            return self.labels.index(label)
        if self.partial or label in NO_LABEL:
            return UNKNOWN
        raise ValueError(f"label {label!r} is not in the list: {', '.join(self.labels)}")


def read_custom(
    config: CustomSet, root: Path, part: Part, allowed: tuple[str, ...] | None, *, step: int | None = None
) -> Split:
    """One split of a custom set.

    Args:
        config: the set.
        root: its folder.
        part: ``train`` or ``val``.
        allowed: the run's labels, where the run names them.
        step: annotated frames whose index is a multiple of it are keyframes. Default: in training what the set wants,
            else all.

    Raises:
        TrainError: a line for every fault found in the set's files.
    """
    name = config.name or root.resolve().name
    split_of = _read_videos(root / "videos.csv", config.exclude)
    boxes = root / "boxes.csv"
    table = read_table(boxes, _BOX_COLUMNS)
    if config.empty:
        return _read_empty(config, root, name, part, table)
    absent = read_negatives(root)
    if absent is not None and config.unlabelled == "negative":
        raise TrainError(f"sets: {name} has a negatives.csv, which says what is absent: leave out unlabelled")
    looked = read_looked(root) if config.by_looking else []
    vocabulary = _Vocabulary(_labels(config, table, looked, absent, allowed), partial=absent is not None)
    names = [video for video, its_part in split_of.items() if its_part == part and video not in config.exclude]
    numbers = {video: i for i, video in enumerate(names)}
    rows, faults = _rows(boxes, table, split_of, numbers, vocabulary)
    more, more_faults = _looked_rows(root / "by_looking.csv", table, rows, looked, numbers, vocabulary)
    faults += more_faults
    if absent is not None:
        taken = [each for each in _said(table, looked, vocabulary) if each[1] not in config.exclude]
        faults += absent.contradicted_by(taken)
    if faults:
        raise TrainError(faults)
    rows = rows.and_more(more)
    if config.ignore is not None:
        rows = rows.and_more(_on_annotated_frames(read_ignored(config.ignore, numbers, split_of), rows))
    step = step or (1 if part == "val" else config.keyframe_every or 1)
    kept = rows.take(rows.frame % step == 0)
    if len(rows.frame) and not len(kept.frame):
        raise TrainError(
            f"{name}, {part}: the split is empty: no annotated frame has a multiple of {step} for its index"
        )
    split = build_split(
        name,
        part,
        vocabulary.labels,
        [Video(video, VideoFile(root / "videos" / video)) for video in names],
        kept,
        unlabelled_is_negative=config.unlabelled == "negative",
        origin=origin_of({row.get("origin") or "true" for row in table if row["video"] in numbers}),
    )
    return split if absent is None else _label_by_label(split, absent)


def video_names(root: Path) -> set[str]:
    """The videos that a set lists. Raises TrainError."""
    return {row["video"] for row in read_table(root / "videos.csv", _VIDEO_COLUMNS)}


def origin_of(found: set[str]) -> Origin:
    """Who drew a split's boxes, by what its rows say. Where the file does not say, people did."""
    if found <= {"true"}:
        return "true"
    return "pseudo" if found == {"pseudo"} else "mixed"


def _read_empty(config: CustomSet, root: Path, name: str, part: Part, boxes: list[Row]) -> Split:
    """Keyframes of videos without people. Raises TrainError for boxes, and for videos whose length is not stated."""
    path = root / "videos.csv"
    if boxes:
        raise TrainError(f"sets: {name} is said to be empty, but {root / 'boxes.csv'} has {len(boxes)} rows")
    step = config.keyframe_every or EMPTY_STEP
    videos: list[Video] = []
    keyframes: list[tuple[int, int]] = []
    faults = []
    for row in read_table(path, (*_VIDEO_COLUMNS, "frames")):
        if row["split"] != part or row["video"] in config.exclude:
            continue
        try:
            frames = whole(row["frames"], "frames")
        except ValueError:
            frames = 0
        if frames < 1:
            faults.append(f"{path}:{row.line}: frames {row['frames']!r} is no number of frames")
            continue
        # from the middle of the first stretch on, so that a clip of any length has one
        keyframes += [(len(videos), frame) for frame in range(min(step, frames) // 2, frames, step)]
        videos.append(Video(row["video"], VideoFile(root / "videos" / row["video"])))
    if faults:
        raise TrainError(faults)
    return build_split(name, part, (), videos, Rows.of([], [], [], [], []), empty_keyframes=keyframes)


def _read_videos(path: Path, exclude: tuple[str, ...]) -> dict[str, str]:
    """The split of every video. Raises TrainError, a line per fault."""
    split_of: dict[str, str] = {}
    faults = []
    for row in read_table(path, _VIDEO_COLUMNS):
        line, video, part = row.line, row["video"], row["split"]
        if part not in ("train", "val"):
            faults.append(f"{path}:{line}: split {part!r} is neither train nor val")
        if video in split_of and video not in exclude:
            faults.append(f"{path}:{line}: {video} a second time")
        if outside(video):
            faults.append(f"{path}:{line}: video {video!r} is no name inside videos/")
        split_of[video] = part
    faults += [f"sets: exclude names {video}, which is not in {path}" for video in exclude if video not in split_of]
    if faults:
        raise TrainError(faults)
    return split_of


def _labels(
    config: CustomSet,
    table: list[Row],
    looked: list[LookedLabel],
    absent: Negatives | None,
    allowed: tuple[str, ...] | None,
) -> tuple[str, ...]:
    """The labels that are read from the set, all of them in the run's list."""
    if config.annotates is not None:
        if allowed is not None and (strange := [label for label in config.annotates if label not in allowed]):
            raise TrainError(f"sets: annotates {', '.join(strange)}, not among the run's labels")
        return config.annotates
    found = {row["label"] for row in table} | {line.label for line in looked}
    if absent is not None:
        found |= absent.labels
    found -= set(NO_LABEL)
    return tuple(sorted(found)) if allowed is None else tuple(label for label in allowed if label in found)


def _rows(
    path: Path, table: list[Row], split_of: dict[str, str], videos: dict[str, int], vocabulary: _Vocabulary
) -> tuple[Rows, list[str]]:
    """The rows of the numbered videos, and the faults of all of these rows and of rows of unknown videos."""
    faults: list[str] = []
    lines: list[int] = []
    video, frame, boxes, label, track, crowd = [], [], [], [], [], []
    for row in table:
        line = row.line
        if row["video"] not in split_of:
            faults.append(f"{path}:{line}: video {row['video']!r} is not in videos.csv")
            continue
        if row["video"] not in videos:
            continue
        try:
            its_label, numbers = vocabulary.number(row["label"]), corners(row)
            index, person = whole(row["frame"], "frame"), whole(row.get("track") or "-1", "track")
            area = yes(row, "crowd")
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
            continue
        if index < 0:
            faults.append(f"{path}:{line}: frame {index} is negative")
            continue
        if area and row["label"] not in NO_LABEL:
            faults.append(f"{path}:{line}: an area to ignore (crowd 1) does nothing: leave out {row['label']!r}")
            continue
        video.append(videos[row["video"]])
        frame.append(index)
        boxes.append(numbers)
        label.append(its_label)
        track.append(person)
        crowd.append(area)
        lines.append(line)
    rows = Rows.of(video, frame, boxes, label, track, crowd)
    wrong = box_faults(rows.boxes_xyxy) + disagreements(rows)
    return rows, faults + [f"{path}:{lines[row]}: {fault}" for row, fault in wrong]


def _looked_rows(
    path: Path,
    table: list[Row],
    rows: Rows,
    looked: list[LookedLabel],
    videos: dict[str, int],
    vocabulary: _Vocabulary,
) -> tuple[Rows, list[str]]:
    """The rows of tracks that have a label by looking, once more with that label; and what is wrong with its lines."""
    tracks = {(row["video"], _track(row)) for row in table}
    faults: list[str] = []
    more = rows.take(np.zeros(0, dtype=np.int64))
    for line in looked:
        if (line.video, line.track) not in tracks:
            faults.append(f"{path}:{line.line}: boxes.csv has no track {line.track} of {line.video}")
            continue
        try:
            label = vocabulary.number(line.label)
        except ValueError as error:
            faults.append(f"{path}:{line.line}: {error}")
            continue
        if line.video in videos and label != UNKNOWN:
            of_track = rows.take((rows.video == videos[line.video]) & (rows.track == line.track) & ~rows.crowd)
            more = more.and_more(replace(of_track, label=np.full_like(of_track.label, label)))
    return more, faults


def _track(row: Row) -> int | None:
    """A row's track; None where it has none, or something that `_rows` says is none."""
    try:
        return whole(row.get("track"), "track")
    except ValueError:
        return None


def _said(table: list[Row], looked: list[LookedLabel], vocabulary: _Vocabulary) -> list[tuple[str, str, str]]:
    """Place, video and label of every line that gives somebody a label that is read."""
    said = [(f"boxes.csv:{row.line}", row["video"], row["label"]) for row in table]
    said += [(f"by_looking.csv:{line.line}", line.video, line.label) for line in looked]
    return [each for each in said if each[2] in vocabulary.labels]


def _on_annotated_frames(areas: Rows, rows: Rows) -> Rows:
    """The areas on frames that have rows: an area alone does not make a frame annotated."""
    annotated = set(zip(rows.video.tolist(), rows.frame.tolist(), strict=True))
    pairs = zip(areas.video.tolist(), areas.frame.tolist(), strict=True)
    return areas.take(np.array([pair in annotated for pair in pairs], dtype=np.bool_))


def _label_by_label(split: Split, absent: Negatives) -> Split:
    """With what people do, and what is absent from their video, as all that is known of them."""
    missing = np.array(
        [[label in absent.of(video.name) for label in split.labels] for video in split.videos], dtype=np.bool_
    ).reshape(len(split.videos), len(split.labels))
    of_people = missing[split.video[split.person_keyframes]] & ~split.crowd[:, None]
    return replace(split, annotated=split.actions | of_people)
