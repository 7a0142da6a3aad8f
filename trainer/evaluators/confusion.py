"""Who is taken for what: of each true label, what the service would say of its people.

A person is found where somebody is reported (person score) whose box overlaps theirs by the threshold, each by one, the
surest first, as in `trainer.evaluators.people`. What is said of them is their surest action, if that is likely enough
to be shown. Somebody with several labels counts once for each, and as right where the label is among those said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.frames import FrameProtocol, protocol_rows
from stmixer.trainer.evaluators.ignore_areas import in_ignore_area
from stmixer.trainer.evaluators.out_of_set import NAMED_FROM
from stmixer.trainer.evaluators.people import PERSON_THRESHOLD, one_row_each, people_taken
from stmixer.trainer.evaluators.tables import (
    Detections,
    Floats,
    GroundTruth,
    IgnoreAreas,
    Ints,
    PersonDetections,
    check_pair,
    keys,
)

NOTHING_SAID, NOT_FOUND = "nothing said", "not found"
"""The last two columns."""

NOBODY_THERE = "nobody there"
"""The last row: somebody is reported where nobody is, or a second time."""

_Corners = tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Counts of people on keyframes.

    Attributes:
        rows: true labels that somebody has, and NOBODY_THERE.
        columns: labels, NOTHING_SAID and NOT_FOUND.
        counts: (rows, columns).
        person_score, said_from: scores from which somebody is reported, and an action said.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: Ints
    person_score: float
    said_from: float


def confusion(
    truth: GroundTruth,
    found: Detections,
    people: PersonDetections,
    labels: Mapping[int, str],
    protocol: FrameProtocol,
    *,
    ignored: IgnoreAreas | None = None,
    person_score: float = PERSON_THRESHOLD,
    overlap_from: float = 0.5,
    said_from: float = NAMED_FROM,
) -> Confusion:
    """The table of one set.

    Args:
        truth, found, people, ignored: as for `evaluate_people` and `evaluate_frames`; whose boxes agree is one person.

    Raises:
        ValueError: an empty split, or different units.
    """
    check_pair(truth, found)
    rows, counted = protocol_rows(truth, people, protocol, ignored)
    reported = people.take(counted & (people.score >= person_score))
    persons, person = one_row_each(rows)
    taken = people_taken(persons, reported, np.ones(len(reported), dtype=np.bool_), overlap_from)
    said = _said(reported, found, said_from)
    names = list(labels)
    counts = np.zeros((len(names) + 1, len(names) + 2), dtype=np.int64)
    finder = {who: at for at, who in enumerate(taken.tolist()) if who >= 0}
    for who, label in set(zip(person.tolist(), rows.label.tolist(), strict=True)):
        if label in labels:
            counts[names.index(label), _column(names, said, finder.get(who), label)] += 1
    for at in np.flatnonzero((taken < 0) & ~in_ignore_area(reported, ignored)).tolist():
        counts[-1, _column(names, said, at, None)] += 1
    shown = [at for at in range(len(names)) if counts[at].any()]
    return Confusion(
        (*(labels[names[at]] for at in shown), NOBODY_THERE),
        (*labels.values(), NOTHING_SAID, NOT_FOUND),
        counts[[*shown, len(names)]],
        person_score,
        said_from,
    )


def _said(people: PersonDetections, found: Detections, said_from: float) -> list[list[int]]:
    """The labels that are said of each, the surest first."""
    sure = found.take(found.score >= said_from)
    sure = sure.take(np.argsort(-sure.score, kind="stable"))
    people_key, sure_key = keys(people, sure)
    of: dict[tuple[int, _Corners], list[int]] = {}
    for key, box, label in zip(sure_key.tolist(), _corners(sure.boxes), sure.label.tolist(), strict=True):
        of.setdefault((key, box), []).append(label)
    return [of.get((key, box), []) for key, box in zip(people_key.tolist(), _corners(people.boxes), strict=True)]


def _corners(boxes: Floats) -> list[_Corners]:
    return [tuple(box) for box in boxes.tolist()]


def _column(names: list[int], said: list[list[int]], at: int | None, wanted: int | None) -> int:
    if at is None:
        return len(names) + 1
    known = [label for label in said[at] if label in names]
    if not known:
        return len(names)
    return names.index(wanted if wanted in known else known[0])
