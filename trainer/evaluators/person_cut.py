"""How many people are found by a person score: in all, by their height, their posture, and by what they do.

Two cuts of one list of detections: the score from which the service reports somebody, and the lowest score at which
`PRECISION_FROM` of what is reported is right, so that detectors whose scores mean different things can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.precision import RIGHT, WRONG, Verdict
from stmixer.trainer.evaluators.tables import HEIGHT_AT, Floats, Ints, Mask, Text

PRECISION_FROM = 0.72
HEIGHTS: Mapping[str, tuple[float, float]] = {
    "under 16 px": (0, 16),
    "16 to 32 px": (16, 32),
    "32 to 64 px": (32, 64),
    "over 64 px": (64, np.inf),
    "32 px and over": (32, np.inf),
}
"""Ranges of a person's height in px at a short side of HEIGHT_AT, the lower bound inside."""


@dataclass(frozen=True, slots=True)
class FoundOf:
    """``found`` of ``people`` of one kind."""

    kind: str
    found: int
    people: int

    def __str__(self) -> str:
        return f"{self.kind} {self.found} of {self.people}"


@dataclass(frozen=True, slots=True)
class PersonCut:
    """What a person score lets through.

    Attributes:
        score: from which somebody is reported, inclusive; None where no score is precise enough, and nobody is found.
        precision: share of the reported that are right; None where nobody is reported.
        found, people: true people who are found, and all of them.
        false_people: reported, and nobody there.
        by_height: those of ``HEIGHTS``; people of unknown height are in none. Empty where no height is known.
        by_posture: of those whose posture is known.
        by_label: of those who have a label, in the labels' order.
    """

    score: float | None
    precision: float | None
    found: int
    people: int
    false_people: int
    by_height: tuple[FoundOf, ...] = ()
    by_posture: tuple[FoundOf, ...] = ()
    by_label: tuple[FoundOf, ...] = ()

    @property
    def recall(self) -> float:
        """Share of the people who are found."""
        return self.found / self.people


@dataclass(frozen=True, slots=True, eq=False)
class CountedPeople:
    """Detections and people of an evaluation.

    Attributes:
        score, verdict: (n,) of the detections.
        taken: (n,) the person whom each detection takes, or -1.
        height_px: (m,) of the people, at a short side of ``HEIGHT_AT``; NaN where unknown.
        posture: (m,) of the people; empty where unknown.
        does: (m, C) which of the labels each of them has.
        labels: the C labels' names.
    """

    score: Floats
    verdict: Verdict
    taken: Ints
    height_px: Floats
    posture: Text
    does: Mask
    labels: tuple[str, ...]

    def at(self, score: float | None) -> PersonCut:
        """The cut at a score; None: nobody is reported."""
        reported = np.zeros(len(self.score), dtype=np.bool_) if score is None else self.score >= score
        right, wrong = reported & (self.verdict == RIGHT), int((reported & (self.verdict == WRONG)).sum())
        found = np.zeros(len(self.height_px), dtype=np.bool_)
        found[self.taken[right]] = True
        hits = int(right.sum())
        by_height: tuple[FoundOf, ...] = ()
        if not np.isnan(self.height_px).all():
            by_height = tuple(
                _of(name, found, (self.height_px >= low) & (self.height_px < high))
                for name, (low, high) in HEIGHTS.items()
            )
        return PersonCut(
            score=score,
            precision=hits / (hits + wrong) if hits + wrong else None,
            found=hits,
            people=len(found),
            false_people=wrong,
            by_height=by_height,
            by_posture=tuple(_of(str(name), found, self.posture == name) for name in np.unique(self.posture) if name),
            by_label=tuple(
                _of(name, found, self.does[:, c]) for c, name in enumerate(self.labels) if self.does[:, c].any()
            ),
        )

    def as_precise_as(self, precision: float = PRECISION_FROM) -> PersonCut:
        """The cut that finds most at no less than this precision."""
        judged = (self.verdict == RIGHT) | (self.verdict == WRONG)
        order = np.argsort(-self.score[judged], kind="stable")
        score = self.score[judged][order]
        hits = np.cumsum(self.verdict[judged][order] == RIGHT)
        # a cut takes in everybody of one score
        last = np.flatnonzero(np.diff(score, append=-np.inf) != 0)
        good = last[hits[last] / (last + 1) >= precision]
        return self.at(float(score[good[-1]]) if len(good) else None)


def height_px(boxes_xyxy: Floats, sizes_wh: Floats, *, longer_side: Mask | bool) -> Floats:
    """Heights of people in px of pictures whose short side has ``HEIGHT_AT``.

    Args:
        boxes_xyxy: (n, 4) as shares of width and height.
        sizes_wh: (n, 2) of the people's pictures, of any unit; NaN where unknown.
        longer_side: of whom (n,), or whether of all, it is the longer of both sides: how long somebody is who lies.
    """
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * sizes_wh * (HEIGHT_AT / sizes_wh.min(1, keepdims=True))
    return np.asarray(np.where(longer_side, sides.max(1), sides[:, 1]), dtype=np.float64)


def _of(kind: str, found: Mask, chosen: Mask) -> FoundOf:
    return FoundOf(kind, int((found & chosen).sum()), int(chosen.sum()))
