"""What a detector finds on evaluation keyframes, and the tables that the evaluators read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stmixer.model.decoder import DecoderOutput, last_arrays
from stmixer.model.labels import Label
from stmixer.model.postprocess import PostProcess
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.records import Ints
from stmixer.trainer.evaluators.tables import (
    UNKNOWN_ACTION,
    Detections,
    Floats,
    GroundTruth,
    Keyframes,
    PersonDetections,
    Unit,
)

MIN_SCORE = 0.002
"""Action scores below are left out of the tables, as officially."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyframePredictions:
    """One keyframe: the people above the threshold with all their action scores, and every query as a person."""

    draw: Draw
    boxes_xyxy: NDArray[np.float32]
    action_scores: NDArray[np.float32]
    person_boxes_xyxy: NDArray[np.float32]
    person_scores: NDArray[np.float32]


@dataclass(slots=True)
class Predictions:
    """Those of an evaluation, in any order. A keyframe counts once, however often it is found."""

    rows: dict[tuple[int, int], KeyframePredictions] = field(default_factory=dict)

    def add(self, output: DecoderOutput, sizes_wh: Tensor, draws: Sequence[Draw], postprocess: PostProcess) -> None:
        """Take in a batch."""
        arrays = last_arrays(output, sizes_wh)
        everyone = PostProcess(score_threshold=0.0)(*arrays)
        for draw, people, queries in zip(draws, postprocess(*arrays), everyone, strict=True):
            columns = (people.boxes_xyxy, people.action_scores, queries.boxes_xyxy, queries.person_scores)
            self.rows[draw.source, draw.keyframe] = KeyframePredictions(draw, *columns)

    def merge(self, others: Sequence[Predictions]) -> None:
        """Take in what other processes found."""
        for other in others:
            self.rows |= other.rows

    def of(self, source: int) -> list[KeyframePredictions]:
        """One set's, by keyframe."""
        return [self.rows[key] for key in sorted(self.rows) if key[0] == source]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """One set's ground truth and detections, as the evaluators want them."""

    labels: dict[int, str]
    truth: GroundTruth
    keyframes: Keyframes
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
    return Tables(listed, _truth(source, names, ids, unit), keyframes, actions, people)


def _truth(source: ClipSource, names: NDArray[np.str_], ids: dict[str, int], unit: Unit) -> GroundTruth:
    """A row per person and label; people without one have UNKNOWN_ACTION (the protocol says what that means)."""
    split = source.split
    person, column = np.nonzero(split.actions)
    label_ids = np.array([ids[name] for name in split.labels], dtype=np.int64)
    bare = np.flatnonzero(~split.actions.any(1))
    rows = np.concatenate((person, bare))
    label = np.concatenate((label_ids[column], np.full(len(bare), UNKNOWN_ACTION)))
    at = split.person_keyframes[rows]
    boxes = _in_unit(source, at, split.boxes_xyxy[rows])
    return GroundTruth(names[split.video[at]], split.frame[at], boxes, label, split.track[rows], unit)


def _in_unit(source: ClipSource, keyframes: Ints, boxes: NDArray[np.floating]) -> Floats:
    sizes = source.split.sizes_wh
    if sizes is None:
        return boxes.astype(np.float64)
    return np.asarray(boxes * np.tile(sizes[source.split.video[keyframes]], 2), dtype=np.float64)


def _stacked(parts: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)
