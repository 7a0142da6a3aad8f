"""What a detector finds on evaluation keyframes, and the tables that the evaluators read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stmixer.model.decoder import DecoderOutput, last_arrays
from stmixer.model.labels import Label
from stmixer.model.postprocess import PostProcess
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.records import POSTURES, Ints
from stmixer.trainer.evaluators.person_cut import height_px
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_ACTION,
    Detections,
    Floats,
    GroundTruth,
    IgnoreAreas,
    Keyframes,
    PersonDetections,
    Unit,
)

MIN_SCORE = 0.002
"""Action scores below are left out of the tables, as officially."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyframePredictions:
    """One keyframe: the people above the threshold with all their action scores, and every query as a person; width and
    height of its picture in px at the network's input, where they are known."""

    draw: Draw
    boxes_xyxy: NDArray[np.float32]
    action_scores: NDArray[np.float32]
    person_boxes_xyxy: NDArray[np.float32]
    person_scores: NDArray[np.float32]
    size_wh: tuple[int, int] | None = None


@dataclass(slots=True)
class Predictions:
    """Those of an evaluation, in any order. A keyframe counts once, however often it is found."""

    rows: dict[tuple[int, int], KeyframePredictions] = field(default_factory=dict)

    def add(self, output: DecoderOutput, sizes_wh: Tensor, draws: Sequence[Draw], postprocess: PostProcess) -> None:
        """Take in a batch."""
        arrays = last_arrays(output, sizes_wh)
        everyone = PostProcess(score_threshold=0.0)(*arrays)
        sizes = [(int(width), int(height)) for width, height in sizes_wh.tolist()]
        for draw, size, people, queries in zip(draws, sizes, postprocess(*arrays), everyone, strict=True):
            columns = (people.boxes_xyxy, people.action_scores, queries.boxes_xyxy, queries.person_scores)
            self.rows[draw.source, draw.keyframe] = KeyframePredictions(draw, *columns, size)

    def merge(self, others: Sequence[Predictions]) -> None:
        """Take in what other processes found."""
        for other in others:
            self.rows |= other.rows

    def of(self, source: int) -> list[KeyframePredictions]:
        """One set's, by keyframe."""
        return [self.rows[key] for key in sorted(self.rows) if key[0] == source]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """One set's ground truth and detections, as the evaluators want them.

    Attributes:
        keyframes: all of them; ``empty``: those with neither people nor areas to ignore.
        ignored: the areas to ignore.
        absent: where the set knows labels one by one, the people and labels known to be absent of them; else None.
    """

    labels: dict[int, str]
    truth: GroundTruth
    keyframes: Keyframes
    empty: Keyframes
    ignored: IgnoreAreas
    absent: GroundTruth | None
    actions: Detections
    people: PersonDetections


def tables(source: ClipSource, found: Sequence[KeyframePredictions], labels: Sequence[Label]) -> Tables:
    """Predictions of one set to tables. Only labels that the set annotates are in them.

    Args:
        source: the set's split.
        found: its predictions; keyframes without one have no detections.
        labels: the run's, in the logits' order.
    """
    split = source.split
    ids = {label.name: label.id for label in labels}
    columns = [i for i, label in enumerate(labels) if label.name in split.labels]
    names = np.array([video.name for video in split.videos], dtype=np.str_)
    keyframes = Keyframes(names[split.video], split.frame)
    where = np.array([f.draw.keyframe for f in found], dtype=np.int64)
    unit: Unit = "normalised" if split.sizes_wh is None else "pixels"

    keyframe = np.repeat(where, [len(f.boxes_xyxy) for f in found])
    boxes = _stacked([f.boxes_xyxy for f in found], 4)
    scores = _stacked([f.action_scores for f in found], len(labels))[:, columns]
    row, column = np.nonzero(scores >= MIN_SCORE)
    label_ids = np.array([labels[i].id for i in columns], dtype=np.int64)
    at = keyframe[row]
    actions = Detections(
        *(names[split.video[at]], split.frame[at], _in_unit(source, at, boxes[row]), label_ids[column]),
        score=scores[row, column].astype(np.float64),
        unit=unit,
    )
    at = np.repeat(where, [len(f.person_scores) for f in found])
    person_boxes = _in_unit(source, at, _stacked([f.person_boxes_xyxy for f in found], 4))
    person_scores = _stacked([f.person_scores[:, None] for f in found], 1)[:, 0].astype(np.float64)
    people = PersonDetections(names[split.video[at]], split.frame[at], person_boxes, person_scores, unit)
    listed = {ids[name]: name for name in split.labels if name in ids}
    areas = np.flatnonzero(split.crowd)
    at = split.person_keyframes[areas]
    area_boxes = _in_unit(source, at, split.boxes_xyxy[areas])
    return Tables(
        labels=listed,
        truth=_truth(source, names, ids, _heights(source, found)),
        keyframes=keyframes,
        empty=keyframes.take(np.diff(split.starts) == 0),
        ignored=IgnoreAreas(names[split.video[at]], split.frame[at], area_boxes, unit),
        absent=_absent(source, names, ids),
        actions=actions,
        people=people,
    )


def _truth(source: ClipSource, names: NDArray[np.str_], ids: dict[str, int], heights: Floats) -> GroundTruth:
    """A row per person and label; people without one have UNKNOWN_ACTION (the protocol says what that means)."""
    split = source.split
    person, column = np.nonzero(split.actions & ~split.crowd[:, None])
    label_ids = np.array([ids[name] for name in split.labels], dtype=np.int64)
    bare = np.flatnonzero(~split.actions.any(1) & ~split.crowd)
    rows = np.concatenate((person, bare))
    label = np.concatenate((label_ids[column], np.full(len(bare), UNKNOWN_ACTION)))
    given = _person_rows(source, names, rows, label)
    if not split.posture.any():
        return replace(given, height_px=heights[rows])
    postures = np.array(["", *POSTURES[1:]], dtype=np.str_)[split.posture]
    return replace(given, height_px=heights[rows], posture=postures[rows])


def _absent(source: ClipSource, names: NDArray[np.str_], ids: dict[str, int]) -> GroundTruth | None:
    """A row per person and label that is known to be absent; None where the protocol's rule says the same.

    That is so where everything is known of whoever has a label, and of others nothing, or of everybody (``unlabelled:
    negative``).
    """
    split, people = source.split, ~source.split.crowd
    wholly = split.annotated.all(1) == split.annotated.any(1)
    by_labels = wholly & (split.annotated.any(1) == split.actions.any(1))
    negative = isinstance(source.config, CustomSet) and source.config.unlabelled == "negative"
    if not split.labels or (wholly if negative else by_labels)[people].all():
        return None
    person, column = np.nonzero(split.annotated & ~split.actions & ~split.crowd[:, None])
    label_ids = np.array([ids[name] for name in split.labels], dtype=np.int64)
    return _person_rows(source, names, person, label_ids[column])


def _person_rows(source: ClipSource, names: NDArray[np.str_], rows: Ints, label: Ints) -> GroundTruth:
    split = source.split
    at = split.person_keyframes[rows]
    boxes = _in_unit(source, at, split.boxes_xyxy[rows])
    unit: Unit = "normalised" if split.sizes_wh is None else "pixels"
    return GroundTruth(names[split.video[at]], split.frame[at], boxes, label, split.track[rows], unit)


def _heights(source: ClipSource, found: Sequence[KeyframePredictions]) -> Floats:
    """(n,) px at the short side in which heights are told, of who lies, and of all in turned pictures, the longer side;
    NaN on keyframes whose size nobody has told."""
    split = source.split
    sizes = np.full((len(split), 2), np.nan)
    for each in found:
        if each.size_wh is not None:
            sizes[each.draw.keyframe] = each.size_wh
    lies = (split.posture == POSTURES.index("lie")) | source.turned
    return height_px(split.boxes_xyxy, sizes[split.person_keyframes], longer_side=lies)


def _in_unit(source: ClipSource, keyframes: Ints, boxes: NDArray[np.floating]) -> Floats:
    sizes = source.split.sizes_wh
    if sizes is None:
        return boxes.astype(np.float64)
    return np.asarray(boxes * np.tile(sizes[source.split.video[keyframes]], 2), dtype=np.float64)


def _stacked(parts: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)
