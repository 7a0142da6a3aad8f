"""Pictures whose names differ in their last number, as frames of one video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from stmixer.trainer.imports.export import Footage

_NUMBERED = re.compile(r"(.*?)(\d+)")


def numbered(name: str) -> tuple[str, int] | None:
    """Folder and beginning, and the number at the end of a file's name; None where it has none."""
    path = PurePosixPath(name)
    match = _NUMBERED.fullmatch(path.stem)
    if match is None:
        return None
    return (path.parent / match[1]).as_posix().rstrip("_-. "), int(match[2])


def as_sequences(footage: Sequence[Footage]) -> list[Footage]:
    """The same with numbered pictures as sequences, called after what their names have in common; all else as it is."""
    made: dict[tuple[str, str | None], Footage] = {}
    others: list[Footage] = []
    for one in footage:
        place = numbered(one.name) if one.kind == "picture" else None
        if place is None:
            others.append(one)
            continue
        name, number = place
        whole = made.setdefault((name, one.part), Footage(name.strip("./") or "frames", "frames", part=one.part))
        whole.pictures[number] = one.name
        whole.boxes += [replace(box, frame=number) for box in one.boxes]
    return [*others, *made.values()]
