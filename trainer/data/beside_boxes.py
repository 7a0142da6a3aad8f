"""What a custom set says beside boxes.csv: labels certainly absent, labels found by looking, areas to ignore.

- negatives.csv: ``source, labels`` (separated by ``;``), with ``source`` a column of videos.csv: nobody in the videos
  of a source does any of these. A set that has this file annotates people label by label: what somebody does is known,
  and what is certainly absent; all else is unknown.
- by_looking.csv: ``video, track, label``: labels of whole tracks, read where the run says ``by_looking: true``.
- any file that the run names in ``ignore``: ``video, frame, x1, y1, x2, y2``, areas in which people may lack boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stmixer.trainer.data.csv_table import CORNERS, corners, read_table, whole
from stmixer.trainer.data.records import Rows, box_faults
from stmixer.trainer.errors import TrainError


@dataclass(frozen=True, slots=True)
class LookedLabel:
    """A line of by_looking.csv."""

    line: int
    video: str
    track: int
    label: str


@dataclass(frozen=True, slots=True)
class Negatives:
    """A negatives.csv: the source of every video of the set, and the labels that are certainly absent from sources."""

    path: Path
    source_of: Mapping[str, str]
    absent: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> set[str]:
        """All that it names."""
        return {label for labels in self.absent.values() for label in labels}

    def of(self, video: str) -> tuple[str, ...]:
        """The labels that are certainly absent from a video of the set."""
        return self.absent.get(self.source_of[video], ())

    def contradicted_by(self, said: Iterable[tuple[str, str, str]]) -> list[str]:
        """A fault for each source and label that it says is absent, and a table says is there all the same.

        Args:
            said: place of the line, video and label, each.
        """
        faults: dict[tuple[str, str], str] = {}
        for place, video, label in said:
            source = self.source_of.get(video)
            if source is not None and label in self.absent.get(source, ()):
                fault = f"{self.path}: {label!r} is absent from source {source!r}, but {place} says it of {video}"
                faults.setdefault((source, label), fault)
        return list(faults.values())


def read_negatives(root: Path) -> Negatives | None:
    """What is certainly absent; None for a set without negatives.csv.

    Raises:
        TrainError: no column ``source`` in videos.csv, a source a second time, or one that has no video.
    """
    path = root / "negatives.csv"
    if not path.exists():
        return None
    source_of = {row["video"]: row["source"] for row in read_table(root / "videos.csv", ("video", "source"))}
    absent: dict[str, tuple[str, ...]] = {}
    faults = []
    for row in read_table(path, ("source", "labels")):
        line, source = row.line, row["source"]
        if source in absent:
            faults.append(f"{path}:{line}: {source} a second time")
        if source not in source_of.values():
            faults.append(f"{path}:{line}: source {source!r} is not in {root / 'videos.csv'}")
        absent[source] = tuple(label.strip() for label in row["labels"].split(";") if label.strip())
    if faults:
        raise TrainError(faults)
    return Negatives(path, source_of, absent)


def read_looked(root: Path) -> list[LookedLabel]:
    """Every line of by_looking.csv. Raises TrainError for a track that is no number."""
    path = root / "by_looking.csv"
    found: list[LookedLabel] = []
    faults = []
    for row in read_table(path, ("video", "track", "label")):
        try:
            found.append(LookedLabel(row.line, row["video"], whole(row["track"], "track"), row["label"]))
        except ValueError as error:
            faults.append(f"{path}:{row.line}: {error}")
    if faults:
        raise TrainError(faults)
    return found


def read_ignored(path: Path, videos: Mapping[str, int], listed: Mapping[str, str]) -> Rows:
    """Areas to ignore, of the videos that have a number in ``videos``.

    Args:
        path: the table.
        videos: numbers of the wanted videos.
        listed: every video of the set.

    Raises:
        TrainError: a line for each video that the set does not list, and each row that is no box.
    """
    faults: list[str] = []
    lines: list[int] = []
    video, frame, boxes = [], [], []
    for row in read_table(path, ("video", "frame", *CORNERS)):
        line = row.line
        if row["video"] not in listed:
            faults.append(f"{path}:{line}: video {row['video']!r} is not in videos.csv")
            continue
        if row["video"] not in videos:
            continue
        try:
            area, index = corners(row), whole(row["frame"], "frame")
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
            continue
        video.append(videos[row["video"]])
        frame.append(index)
        boxes.append(area)
        lines.append(line)
    nothing = [-1] * len(video)
    rows = Rows.of(video, frame, boxes, nothing, nothing, [True] * len(video))
    faults += [f"{path}:{lines[row]}: {fault}" for row, fault in box_faults(rows.boxes_xyxy)]
    if faults:
        raise TrainError(faults)
    return rows
