"""Drafted clips as sets that training reads: who does what, and who does none of it (docs/data.md, Custom set).

In ``taught`` the actor of each clip has its label and nobody knows what the others do. In ``none`` everybody is said to
do nothing of what is taught: the people of the ``none`` clips, and those of other sets but where they do it.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stmixer.trainer.annotate.tracks import Track
from stmixer.trainer.data.csv_table import CORNERS, Row, read_table, whole
from stmixer.trainer.data.set_folder import BOX_COLUMNS, VIDEO_COLUMNS, rate_text, write_csv
from stmixer.trainer.errors import TrainError, writing
from stmixer.trainer.teach.drafts import EVERY, DraftedClip
from stmixer.trainer.teach.split import ClipPart

LOOKED_AT = 8
"""Keyframes of a clip that are kept to check by, at most: more of one clip say the same."""

CHECKED_BY = 12
"""Clips of another set that are kept to check by, at most."""

Cells = tuple[object, ...]


@dataclass(slots=True)
class _SetTables:
    """A set's rows as they come, and the file of each of its videos."""

    videos: list[Cells] = field(default_factory=list)
    boxes: list[Cells] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def parts(self) -> list[str]:
        """Those that have a box."""
        boxed = {row[0] for row in self.boxes}
        return [part for part in ("train", "val") if any(row[1] == part and row[0] in boxed for row in self.videos)]


@dataclass(frozen=True, slots=True)
class TaughtSets:
    """Folders of sets, and the parts that each has; ``none`` is None where nobody is said to do nothing of it."""

    taught: Path
    none: Path | None
    none_parts: tuple[str, ...]


def write_sets(
    root: Path,
    drafts: Sequence[DraftedClip],
    parts: Mapping[str, ClipPart],
    labels: Sequence[str],
    negatives: Sequence[Path],
) -> TaughtSets:
    """Write ``taught/`` and ``none/`` into a folder, in place of what an earlier run wrote there.

    Args:
        drafts: of clips with a label, those that have an actor.
        negatives: folders of custom sets.

    Raises:
        TrainError: the folder cannot be written; a set of ``negatives`` that cannot be read, or has nobody in it.
    """
    taught, none = _SetTables(), _SetTables()
    for draft in drafts:
        _add(taught if draft.clip.label is not None else none, draft, parts[draft.clip.name])
    for folder, name in _named(negatives, {draft.clip.name.split("/")[0] for draft in drafts}):
        _add_set(none, folder, name, labels)
    with writing(root):
        _write(root / "taught", taught, ())
        _write(root / "none", none, labels)
    found = tuple(none.parts)
    return TaughtSets(root / "taught", root / "none" if "train" in found else None, found)


def _add(tables: _SetTables, draft: DraftedClip, part: ClipPart) -> None:
    clip = draft.clip
    tables.videos.append(
        (clip.name, part, rate_text(draft.fps), draft.frames, draft.width, draft.height, "", clip.name, clip.scene)
    )
    tables.files[clip.name] = clip.path.resolve()
    step = 1 if part == "train" else EVERY * math.ceil(draft.frames / EVERY / LOOKED_AT)
    rows = []
    for number, track in enumerate(draft.tracks):
        label = clip.label or "" if number == draft.actor else ""
        rows += [
            (clip.name, frame, *corners, label, number, "pseudo")
            for frame, corners in _every_frame(track)
            if frame % step == 0 and corners[0] != corners[2] and corners[1] != corners[3]
        ]
    tables.boxes += sorted(rows, key=lambda row: (row[1], row[7]))


def _every_frame(track: Track) -> list[tuple[int, list[str]]]:
    """Frames from a track's first to its last, and their boxes: those between drafted ones on the line."""
    at, boxes = np.array(track.steps) * EVERY, np.clip(np.array(track.boxes), 0.0, 1.0)
    frames = np.arange(at[0], at[-1] + 1)
    between = np.stack([np.interp(frames, at, boxes[:, k]) for k in range(4)], 1)
    return [(int(frame), [f"{v:.4f}" for v in box]) for frame, box in zip(frames, between, strict=True)]


def check_set(folder: Path) -> tuple[list[Row], list[Row]]:
    """Its rows of videos and of boxes. Raises TrainError for what is no custom set."""
    return read_table(folder / "videos.csv", ("video", "split")), read_table(folder / "boxes.csv", BOX_COLUMNS[:7])


def _named(folders: Sequence[Path], taken: set[str]) -> list[tuple[Path, str]]:
    """Every set once, with a name for its videos that no other has and that is not ``taken``."""
    named: list[tuple[Path, str]] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        used = taken | {name for _, name in named}
        numbers = (f"{folder.name} {number}" for number in itertools.count(2))
        named.append((folder, next(name for name in itertools.chain([folder.name], numbers) if name not in used)))
    return named


def _add_set(tables: _SetTables, folder: Path, name: str, labels: Sequence[str]) -> None:
    """Another set's people, without what they do; ``name`` stands before its videos'. Raises TrainError."""
    listed, boxes = check_set(folder)
    looked = folder / "by_looking.csv"
    said = defaultdict(set)
    for row in [*boxes, *(read_table(looked, ("video", "track", "label")) if looked.exists() else [])]:
        said[row["video"]].add(row["label"].casefold())
    taught = {label.casefold() for label in labels}
    used = [row for row in listed if not taught & {*said[row["video"]], *_activities(row)}]
    if not used:
        raise TrainError(f"{folder}: all of its videos show what is taught; leave it out")
    kept = _spread([row["video"] for row in used if row["split"] == "val"])
    steps: dict[str, int] = {}
    for row in used:
        if row["split"] == "val" and row["video"] not in kept:
            continue
        video = f"{name}/{row['video']}"
        steps[row["video"]] = 1 if row["split"] == "train" else 3 * EVERY
        frames = [row.get(column) for column in VIDEO_COLUMNS[2:6]]
        scene = f"{name} {row['scene']}" if row.get("scene") else ""
        tables.videos.append((video, row["split"], *frames, "", video, scene))
        tables.files[video] = (folder / "videos" / row["video"]).resolve()
    for box in boxes:
        step = steps.get(box["video"])
        if step is not None and _frame(folder, box) % step == 0:
            corners = [box[column] for column in CORNERS]
            tables.boxes.append((f"{name}/{box['video']}", box["frame"], *corners, "", box.get("track"), "pseudo"))


def _frame(folder: Path, box: Row) -> int:
    try:
        return whole(box["frame"], "frame")
    except ValueError as error:
        raise TrainError(f"{folder / 'boxes.csv'}:{box.line}: {error}") from None


def _activities(row: Row) -> set[str]:
    """What a set's ``source`` says that its video is of: all of it, and what stands behind a colon."""
    source = (row.get("source") or "").casefold()
    return {source, source.rpartition(":")[2]}


def _spread(videos: Sequence[str]) -> set[str]:
    """At most CHECKED_BY of them, from the first to the last."""
    count = min(CHECKED_BY, len(videos))
    return {videos[round(i * (len(videos) - 1) / max(count - 1, 1))] for i in range(count)}


def _write(root: Path, tables: _SetTables, absent: Sequence[str]) -> None:
    """A set's folder, its videos as links. Raises OSError."""
    shutil.rmtree(root, ignore_errors=True)
    for name, file in tables.files.items():
        link = root / "videos" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    root.mkdir(parents=True, exist_ok=True)
    write_csv(root / "boxes.csv", BOX_COLUMNS, tables.boxes)
    write_csv(root / "videos.csv", (*VIDEO_COLUMNS, "source", "scene"), tables.videos)
    if absent:
        write_csv(root / "negatives.csv", ("source", "labels"), [(row[7], ";".join(absent)) for row in tables.videos])
