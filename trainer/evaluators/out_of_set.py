"""Does the detector name what people do who certainly do not do it?

Somebody is out of set for a label where the set says that the label is certainly absent of them. Of those who are found
(the rule of `trainer.evaluators.people`, at the person score from which the service reports somebody), this counts whom
any of these labels is said of all the same, from the action score at which the service shows a label. What else is said
of them is not judged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.frames import FrameProtocol, protocol_rows
from stmixer.trainer.evaluators.overlap import pairs
from stmixer.trainer.evaluators.people import PERSON_THRESHOLD, one_row_each, people_taken
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, Ints, Mask, PersonDetections, check_pair, keys

NAMED_FROM = 0.5
"""Action score from which a label is shown."""


@dataclass(frozen=True, slots=True)
class NamedOf:
    """Of ``people`` who are found and certainly do not do any of ``of``, ``named`` are said to do one of them."""

    of: str
    named: int
    people: int

    @property
    def share(self) -> float | None:
        """``named`` of ``people``; None of nobody."""
        return self.named / self.people if self.people else None


@dataclass(frozen=True, slots=True)
class OutOfSet:
    """How often people are said to do what they certainly do not.

    Attributes:
        score: the action score from which a label is said, inclusive.
        person_score: that from which somebody counts as found, inclusive.
        people: how many there are of whom at least one label is known to be absent, found or not.
        any_label: over all labels; somebody of whom several are said counts once.
        among: over the labels that were asked for; None where the set has none of them.
        by_label: each label by itself, in the labels' order, where it is known to be absent of somebody.
    """

    score: float
    person_score: float
    people: int
    any_label: NamedOf
    among: NamedOf | None
    by_label: tuple[NamedOf, ...]


def evaluate_out_of_set(
    truth: GroundTruth,
    absent: GroundTruth,
    people: PersonDetections,
    actions: Detections,
    labels: Mapping[int, str],
    protocol: FrameProtocol,
    *,
    among: Collection[str] = (),
    person_threshold: float = PERSON_THRESHOLD,
    score: float = NAMED_FROM,
    overlap_from: float = 0.5,
) -> OutOfSet:
    """Judge the actions of people who are out of set.

    Args:
        truth: everybody, as for `evaluate_frames`; whoever is found as one person is not found as another.
        absent: a row per person of ``truth`` and label that the person is known not to do.
        people: who is found, with person scores.
        actions: what they are said to do, on the same boxes.
        labels: those that are judged.
        among: names of labels to be counted by themselves too; names that are not in ``labels`` count for nothing.
        person_threshold: person score from which somebody counts as found, inclusive; not below that from which people
            have rows in ``actions``: of others nothing is said.

    Raises:
        ValueError: an empty split, or different units.
    """
    check_pair(truth, people)
    rows, counts = protocol_rows(truth, people, protocol)
    rows_key, absent_key = keys(rows, absent)
    absent = absent.take(np.isin(absent_key, rows_key))
    everybody, person = one_row_each(_both(rows, absent))
    lacking = person[len(rows) :]
    people = people.take(counts & (people.score >= person_threshold))
    taken = people_taken(everybody, people, np.ones(len(people), dtype=np.bool_), overlap_from)
    i, j = pairs(*keys(people, actions))
    says = (people.boxes[i] == actions.boxes[j]).all(1) & (actions.score[j] >= score) & (taken[i] >= 0)
    lacks = _table(lacking, absent.label, labels, len(everybody))
    false = lacks & _table(taken[i[says]], actions.label[j[says]], labels, len(everybody))
    found = np.zeros(len(everybody), dtype=np.bool_)
    found[taken[taken >= 0]] = True

    def named(of: str, columns: list[int]) -> NamedOf:
        return NamedOf(of, int((false[:, columns].any(1) & found).sum()), int((lacks[:, columns].any(1) & found).sum()))

    names = list(labels.values())
    chosen = [column for column, name in enumerate(names) if name in among]
    return OutOfSet(
        score=score,
        person_score=person_threshold,
        people=int(lacks.any(1).sum()),
        any_label=named("any label", list(range(len(names)))),
        among=named(", ".join(names[column] for column in chosen), chosen) if chosen else None,
        by_label=tuple(named(name, [column]) for column, name in enumerate(names) if lacks[:, column].any()),
    )


def _both(rows: GroundTruth, more: GroundTruth) -> GroundTruth:
    """These rows, then those, without what is not of people and labels."""
    return GroundTruth(
        video=np.concatenate([rows.video, more.video]),
        frame=np.concatenate([rows.frame, more.frame]),
        boxes=np.concatenate([rows.boxes, more.boxes]),
        label=np.concatenate([rows.label, more.label]),
        track=np.concatenate([rows.track, more.track]),
        unit=rows.unit,
    )


def _table(person: Ints, label: Ints, labels: Mapping[int, str], people: int) -> Mask:
    """(people, C) from pairs of person and label; labels that are not in the list are left out."""
    table = np.zeros((people, len(labels)), dtype=np.bool_)
    for column, each in enumerate(labels):
        table[person[label == each], column] = True
    return table
