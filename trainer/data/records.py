"""The one form of every data set's split: videos, keyframes in time, and who does what on them.

Arrays rather than objects: AVA has a million boxes, and worker processes share them without copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stmixer.media.grid import HALF_RAW_US, TimeGrid

Part = Literal["train", "val"]
Origin = Literal["true", "pseudo", "mixed"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNKNOWN = -1
"""A label: the person's action is not annotated."""

SAME_TRACK, SAME_PLACE = 2e-3, 1e-4
"""How far corners of one person's boxes may lie apart, in shares of width and height: with a track and without."""

POSTURES = ("unknown", "stand", "sit", "lie", "crouch")
"""How somebody in a picture holds themself, where a set says it."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video that is decoded when a clip is wanted.

    Attributes:
        path: the file.
        duration_us: when its last frame is shown; known once it has been checked.
        seekable: a frame's stamp tells its time wherever reading starts (`trainer.data.frame_index`).
    """

    path: Path
    duration_us: int | None = None
    seekable: bool = True


@dataclass(frozen=True, slots=True)
class FrameFolder:
    """Pictures numbered without gaps from ``first``: ``prefix``, the number of ``digits`` figures, ``suffix``."""

    folder: Path
    prefix: str
    digits: int
    suffix: str
    first: int
    count: int
    fps: Fraction

    def path(self, index: int) -> Path:
        """The picture of a 0-based frame index."""
        return self.folder / self.name(index)

    def name(self, index: int) -> str:
        """Its file name."""
        return f"{self.prefix}{self.first + index:0{self.digits}d}{self.suffix}"

    def time_us(self, index: int) -> int:
        """Its moment after the first frame, µs."""
        return round(index * 1_000_000 / self.fps)


@dataclass(frozen=True, slots=True)
class Picture:
    """A single picture: a video of one frame, which is shown at all times."""

    path: Path


@dataclass(frozen=True, slots=True)
class Video:
    """A video, or a picture, as its set names it."""

    name: str
    source: VideoFile | FrameFolder | Picture


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The keyframes of one split of a set, with K keyframes and n rows: people, and areas to ignore.

    In an area to ignore there may be people without boxes of their own: nobody is taught or counted as absent there.
    It does nothing, and nothing is annotated of it.

    Attributes:
        name: the set's name.
        part: ``train`` or ``val``.
        labels: the C labels that the set annotates.
        videos: those with keyframes.
        video: (K,) index into ``videos``.
        frame: (K,) what the annotation calls the frame: 0-based index, or AVA's timestamp in seconds.
        pts_us: (K,) the keyframe's moment after the video's first frame, µs; -1 until the videos are checked.
        starts: (K + 1,) the first row of each keyframe.
        boxes_xyxy: (n, 4) corners, 0–1 of width and height.
        actions: (n, C) what they do.
        annotated: (n, C) where ``actions`` means something; False is a label of which nothing is known.
        crowd: (n,) whether the row is an area to ignore and no person.
        posture: (n,) index into POSTURES; 0, unknown, where the set does not say it.
        track: (n,) the person's number in the video, -1 where unknown.
        sizes_wh: (videos, 2) width and height in px where the set is evaluated in pixels, else None.
        origin: who drew the boxes: people (``true``), a detector (``pseudo``), or some of each.
    """

    name: str
    part: Part
    labels: tuple[str, ...]
    videos: tuple[Video, ...]
    video: Ints
    frame: Ints
    pts_us: Ints
    starts: Ints
    boxes_xyxy: Floats
    actions: Mask
    annotated: Mask
    crowd: Mask
    posture: Ints
    track: Ints
    sizes_wh: Floats | None = None
    origin: Origin = "true"

    def __len__(self) -> int:
        """Keyframes."""
        return len(self.video)

    def people(self, keyframe: int) -> slice:
        """The rows of a keyframe's people and areas to ignore."""
        return slice(int(self.starts[keyframe]), int(self.starts[keyframe + 1]))

    @property
    def person_keyframes(self) -> Ints:
        """(n,) the keyframe of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def relabelled(self, labels: Sequence[str], exclusive: Sequence[Sequence[str]] = ()) -> tuple[Mask, Mask]:
        """(n, len(labels)) actions and what of them is annotated, for a run's list of labels.

        Who has exactly one label of a group of ``exclusive`` is known not to have the group's others.
        """
        actions = np.zeros((len(self.crowd), len(labels)), dtype=np.bool_)
        annotated = np.zeros_like(actions)
        for column, label in enumerate(self.labels):
            target = labels.index(label)
            actions[:, target] = self.actions[:, column]
            annotated[:, target] = self.annotated[:, column]
        for group in exclusive:
            columns = [labels.index(label) for label in group]
            annotated[np.ix_(actions[:, columns].sum(1) == 1, columns)] = True
        return actions, annotated


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A split as its files give it: a row per box and label. All columns have one length.

    ``video`` indexes the videos, ``label`` the labels (UNKNOWN for none), the others are as in Split.
    """

    video: Ints
    frame: Ints
    boxes_xyxy: Floats
    label: Ints
    track: Ints
    crowd: Mask
    posture: Ints

    @classmethod
    def of(
        cls,
        video: Sequence[int],
        frame: Sequence[int],
        boxes_xyxy: Sequence[Sequence[float]],
        label: Sequence[int],
        track: Sequence[int],
        crowd: Sequence[bool] = (),
        posture: Sequence[int] = (),
    ) -> Rows:
        """From lists; without ``crowd`` all are people, without ``posture`` nobody's is known."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        columns = (np.asarray(column, dtype=np.int64) for column in (video, frame, label, track))
        video_column, frame_column, label_column, track_column = columns
        n = len(boxes)
        areas = np.asarray(crowd or np.zeros(n), dtype=np.bool_)
        postures = np.asarray(posture or np.zeros(n), dtype=np.int64)
        return cls(video_column, frame_column, boxes, label_column, track_column, areas, postures)

    def take(self, rows: Mask | Ints) -> Rows:
        """Some of the rows."""
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))

    def and_more(self, more: Rows) -> Rows:
        """These rows, then those."""
        return Rows(*(np.concatenate((getattr(self, f.name), getattr(more, f.name))) for f in fields(self)))


def build_split(
    name: str,
    part: Part,
    labels: tuple[str, ...],
    videos: Sequence[Video],
    rows: Rows,
    *,
    unlabelled_is_negative: bool = False,
    empty_keyframes: Sequence[tuple[int, int]] = (),
    sizes_wh: Floats | None = None,
    origin: Origin = "true",
) -> Split:
    """Rows to keyframes and people, both ordered by video and frame; videos without keyframes are left out.

    Rows of one (video, frame, box, track) are one person, also where their boxes differ by rounding
    (`boxes_rounded_alike`), of whom all labels are annotated if any is given, or if ``unlabelled_is_negative``, and
    whose posture is that of any row that knows it. ``empty_keyframes`` adds (video, frame) pairs at which nobody may be
    annotated.
    """
    rows = boxes_rounded_alike(rows)
    extra = np.asarray(empty_keyframes, dtype=np.int64).reshape(-1, 2)
    pairs = np.concatenate((np.stack((rows.video, rows.frame), 1), extra))
    keys, where = np.unique(pairs, axis=0, return_inverse=True)
    keyframe = where.reshape(-1)[: len(rows.video)].astype(np.int64)

    person_key = np.column_stack((keyframe, rows.boxes_xyxy, rows.track, rows.crowd))
    people, person = np.unique(person_key, axis=0, return_inverse=True)
    person = person.reshape(-1)
    n = len(people)
    actions = np.zeros((n, len(labels)), dtype=np.bool_)
    crowd = people[:, 6].astype(np.bool_)
    posture = np.zeros(n, dtype=np.int64)
    np.maximum.at(posture, person, rows.posture)
    labelled = (rows.label != UNKNOWN) & ~rows.crowd
    actions[person[labelled], rows.label[labelled]] = True
    known = actions.any(1) | (unlabelled_is_negative & ~crowd)

    used, video = np.unique(keys[:, 0], return_inverse=True)
    starts = np.searchsorted(people[:, 0], np.arange(len(keys) + 1)) if n else np.zeros(len(keys) + 1)
    return Split(
        name=name,
        part=part,
        labels=labels,
        videos=tuple(videos[i] for i in used),
        video=video.reshape(-1).astype(np.int64),
        frame=keys[:, 1].astype(np.int64),
        pts_us=np.full(len(keys), -1, dtype=np.int64),
        starts=starts.astype(np.int64),
        boxes_xyxy=people[:, 1:5].astype(np.float64),
        actions=actions,
        annotated=np.repeat(known[:, None], len(labels), 1),
        crowd=crowd,
        posture=posture,
        track=people[:, 5].astype(np.int64),
        sizes_wh=None if sizes_wh is None else sizes_wh[used],
        origin=origin,
    )


def boxes_rounded_alike(rows: Rows) -> Rows:
    """The rows, boxes of one person that differ by rounding made those of the first.

    In one frame rows of a track are one person if every corner is as near as two boxes rounded to three decimals may be
    (SAME_TRACK), and rows without a track if they are nearer than any two people (SAME_PLACE).
    """
    boxes, place = rows.boxes_xyxy, np.stack((rows.video, rows.frame, rows.track), 1)
    if not len(boxes):
        return rows
    order = np.lexsort((*place.T[::-1],))
    bounds = np.flatnonzero((np.diff(place[order], axis=0) != 0).any(1)) + 1
    starts = np.concatenate(([0], bounds))
    low, high = np.minimum.reduceat(boxes[order], starts), np.maximum.reduceat(boxes[order], starts)
    spread = (high > low).any(1)
    alike = boxes.copy()
    ends = np.append(starts[1:], len(order))
    for group in np.flatnonzero(spread):
        members = np.sort(order[starts[group] : ends[group]])
        within = SAME_PLACE if rows.track[members[0]] < 0 else SAME_TRACK
        kept: list[int] = []
        for row in members:
            same = next((k for k in kept if np.abs(boxes[k] - boxes[row]).max() <= within), None)
            if same is None:
                kept.append(int(row))
            else:
                alike[row] = boxes[same]
    return replace(rows, boxes_xyxy=alike)


def timed(split: Split, videos: Sequence[Video], pts_us: Ints) -> Split:
    """The split with checked videos and the keyframes' moments."""
    return replace(split, videos=tuple(videos), pts_us=pts_us)


def on_grid(split: Split, grid: TimeGrid) -> Split:
    """The keyframes that lie within half a raw frame of a grid time: their boxes belong to the sample's own picture."""
    near = np.array([abs(grid.time_us(grid.nearest(int(t))) - t) <= HALF_RAW_US for t in split.pts_us], dtype=np.bool_)
    people = near[split.person_keyframes]
    starts = np.concatenate(([0], np.cumsum(np.diff(split.starts)[near])))
    return replace(
        split,
        video=split.video[near],
        frame=split.frame[near],
        pts_us=split.pts_us[near],
        starts=starts,
        boxes_xyxy=split.boxes_xyxy[people],
        actions=split.actions[people],
        annotated=split.annotated[people],
        crowd=split.crowd[people],
        posture=split.posture[people],
        track=split.track[people],
    )


def box_faults(boxes_xyxy: Floats) -> list[tuple[int, str]]:
    """(row, what is wrong) of every box that is not finite, lies outside 0–1 or has no area."""
    faults: list[tuple[int, str]] = []
    outside = ((boxes_xyxy < 0) | (boxes_xyxy > 1)).any(1)
    bad = outside | ~(boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(1) | ~np.isfinite(boxes_xyxy).all(1)
    for row in np.flatnonzero(bad):
        box = boxes_xyxy[row]
        shown = " ".join(f"{value:g}" for value in box)
        reason = "lies outside 0–1" if ((box < 0) | (box > 1)).any() else "has no area"
        reason = reason if np.isfinite(box).all() else "is not finite"
        faults.append((int(row), f"box {shown} {reason}"))
    return faults


def disagreements(rows: Rows) -> list[tuple[int, str]]:
    """(row, what is wrong) of every row that contradicts an earlier one of the same video, frame, box and track: a
    person in one and an area to ignore in the other, or in two postures."""
    rows = boxes_rounded_alike(rows)
    key = np.column_stack((rows.video, rows.frame, rows.boxes_xyxy, rows.track))
    _, first, person = np.unique(key, axis=0, return_index=True, return_inverse=True)
    person = person.reshape(-1)
    held = np.zeros(len(first), dtype=np.int64)
    known = np.flatnonzero(rows.posture)[::-1]
    held[person[known]] = rows.posture[known]  # backwards: the earliest is what stays
    faults: list[tuple[int, str]] = []
    for row in np.flatnonzero(rows.crowd != rows.crowd[first][person]):
        faults.append((int(row), "the same box is a person in one row and an area to ignore (crowd 1) in another"))
    for row in np.flatnonzero((rows.posture != 0) & (rows.posture != held[person])):
        postures = f"{POSTURES[held[person[row]]]} and {POSTURES[rows.posture[row]]}"
        faults.append((int(row), f"the same box has two postures, {postures}"))
    return faults
