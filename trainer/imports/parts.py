"""Which split something is of, by what it is called or lies in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from stmixer.trainer.data.records import Part

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
