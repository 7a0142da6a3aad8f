"""What people do, by what an export calls their boxes and says of them."""

from __future__ import annotations

from dataclasses import dataclass

from stmixer.trainer.data.custom import NO_LABEL
from stmixer.trainer.imports.export import SeenBox

PEOPLE = frozenset({"person", "people", "pedestrian", "human", "man", "woman", "child", "somebody", "actor"})
"""Labels that say no more than that somebody is there."""

ATTRIBUTES = ("action", "actions", "activity")
"""Attributes that say what somebody does, where none is named."""

_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_UNSAID = ("", "__undefined__", *NO_LABEL)


@dataclass(frozen=True, slots=True)
class Naming:
    """How to read labels.

    Attributes:
        attributes: whose values are what somebody does; of one that is ticked or not, its name. None: ATTRIBUTES, where
            a box has them.
        people: labels besides PEOPLE that say no more than that somebody is there.
        no_people: labels of what is no person.
    """

    attributes: tuple[str, ...] | None = None
    people: frozenset[str] = frozenset()
    no_people: frozenset[str] = frozenset()

    def labels(self, box: SeenBox) -> tuple[str, ...] | None:
        """What is said of somebody, nothing where it is not said; None of what is no person."""
        if box.label.strip().casefold() in {name.casefold() for name in self.no_people}:
            return None
        wanted = {name.casefold() for name in (ATTRIBUTES if self.attributes is None else self.attributes)}
        said = [
            name.strip() if value.casefold() in _YES else value.strip()
            for name, value in box.attributes
            if name.strip().casefold() in wanted and value.strip().casefold() not in (*_UNSAID, *_NO)
        ]
        own = box.label.strip()
        if not said and own.casefold() not in {*PEOPLE, *(name.casefold() for name in self.people), *_UNSAID}:
            said = [own]
        return tuple(dict.fromkeys(" ".join(label.split()) for label in said))
