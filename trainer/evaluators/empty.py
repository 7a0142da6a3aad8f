"""People found where nobody is: pictures known to be empty, such as a fixed camera's background.

Kept apart from the sets with people, whose figures so stay what they are with and without empty pictures beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from stmixer.trainer.evaluators.ignore_areas import in_ignore_area
from stmixer.trainer.evaluators.people import PERSON_THRESHOLD
from stmixer.trainer.evaluators.tables import IgnoreAreas, Keyframes, PersonDetections, keys

SHOWN = 10


@dataclass(frozen=True, slots=True)
class FalsePerson:
    """Somebody who is not there."""

    video: str
    frame: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class EmptyReport:
    """What was found on a set of empty pictures.

    Attributes:
        name, split: of the set.
        notes: as in a set's report.
        threshold: the person score from which somebody is reported.
        keyframes: how many there were.
        false_people: all who were reported.
        keyframes_with_people: keyframes with at least one of them.
        surest: the best scores, whether reported or not, at most one of a keyframe.
    """

    name: str
    split: str
    notes: tuple[str, ...]
    threshold: float
    keyframes: int
    false_people: int
    keyframes_with_people: int
    surest: tuple[FalsePerson, ...]

    @property
    def false_per_keyframe(self) -> float:
        """False people per empty keyframe."""
        return self.false_people / self.keyframes

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "set": self.name,
            "split": self.split,
            "notes": list(self.notes),
            "threshold": self.threshold,
            "empty_keyframes": self.keyframes,
            "false_people": self.false_people,
            "false_per_empty_keyframe": self.false_per_keyframe,
            "keyframes_with_somebody": self.keyframes_with_people,
            "surest": [{"video": p.video, "frame": p.frame, "score": p.score} for p in self.surest],
        }

    def write_json(self, path: Path) -> None:
        """Write `as_dict`."""
        path.write_text(json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """``rich.print(report)``."""
        yield Text(
            f"{self.name} {self.split}: {self.false_per_keyframe:.3f} false people per empty keyframe at score ≥ "
            f"{self.threshold:g} ({self.false_people} on {self.keyframes_with_people} of {self.keyframes} keyframes)"
        )


def report_empty(
    name: str,
    split: str,
    keyframes: Keyframes,
    found: PersonDetections,
    *,
    notes: tuple[str, ...] = (),
    ignored: IgnoreAreas | None = None,
    threshold: float = PERSON_THRESHOLD,
) -> EmptyReport:
    """Count people on empty pictures.

    Args:
        keyframes: the pictures.
        found: people of any score on them; on other pictures they do not count.
        ignored: areas to ignore; whoever is found in them does not count.
        threshold: person score from which somebody is reported, inclusive.

    Raises:
        ValueError: no keyframes.
    """
    if not len(keyframes):
        raise ValueError(f"{name}, {split}: no empty keyframe to look at")
    empty_key, found_key = keys(keyframes, found)
    found = found.take(np.isin(found_key, empty_key) & ~in_ignore_area(found, ignored))
    (found_key,) = keys(found)
    reported = found.score >= threshold
    order = np.argsort(-found.score, kind="stable")
    firsts = order[np.sort(np.unique(found_key[order], return_index=True)[1])][:SHOWN]
    return EmptyReport(
        name=name,
        split=split,
        notes=notes,
        threshold=threshold,
        keyframes=len(np.unique(empty_key)),
        false_people=int(reported.sum()),
        keyframes_with_people=len(np.unique(found_key[reported])),
        surest=tuple(FalsePerson(str(found.video[i]), int(found.frame[i]), float(found.score[i])) for i in firsts),
    )
