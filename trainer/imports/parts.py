"""Which split something is of, by what it is called or lies in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from stmixer.trainer.data.records import Part
from stmixer.trainer.imports.export import LeftOut

UNUSED: Literal["test"] = "test"
"""A test split: neither training nor validation (docs/data.md, Splits)."""

_WORDS: Mapping[str, Part | Literal["test"]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def part_of_name(name: str) -> Part | Literal["test"] | None:
    """``instances_val2017``: val. None where no word of the name says it, or several do."""
    said = {_WORDS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _WORDS}
    return said.pop() if len(said) == 1 else None


def of_a_part(paths: Iterable[Path], left_out: LeftOut) -> Iterator[tuple[Path, Part | None]]:
    """The files whose names speak of no test split, each with the part that they do speak of."""
    for path in paths:
        part = part_of_name(path.stem)
        if part == UNUSED:
            left_out.note("files are of a test split, which training and validation have no place for", path.name)
        else:
            yield path, part
