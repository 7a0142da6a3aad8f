"""Values of JSON that somebody else wrote, as what they have to be, or a line that says which one is not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stmixer.trainer.errors import TrainError, reading

MOST = 10**8
"""Of frames, and of what is counted."""


class WrongValue(ValueError):
    """A value of another kind than its place wants; the message says which."""


def read_json(path: Path) -> Any:
    """A file's content. Raises TrainError."""
    try:
        with reading(path):
            return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise TrainError(f"{path} is no JSON: it is no text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise TrainError(f"{path} is no JSON: {error}") from None


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """Raises WrongValue."""
    if not isinstance(value, dict):
        raise WrongValue(f"{what} is no object")
    return value


def rows(owner: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects; an empty one where there is none. Raises WrongValue."""
    value = owner.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise WrongValue(f"{key} is no list of objects")
    return value


def key_of(owner: Mapping[str, Any], name: str) -> int | str | None:
    """A value that names something; of one that cannot, its text, which nothing is called."""
    value = owner.get(name)
    return value if value is None or isinstance(value, int | str) else repr(value)


def number(value: object, what: str) -> float:
    """A finite one, also where it is written as text. Raises WrongValue."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
        if not math.isfinite(found):
            raise ValueError
    except (ValueError, OverflowError):
        raise WrongValue(f"{what} {_shown(value)} is no number") from None
    return found


def whole(value: object, what: str) -> int:
    """A whole number, not below 0. Raises WrongValue."""
    found = number(value, what)
    if not found.is_integer() or not 0 <= found <= MOST:
        raise WrongValue(f"{what} {_shown(value)} is no number of a frame or a thing")
    return int(found)


def numbers(value: object, count: int, what: str) -> list[float]:
    """So many of them. Raises WrongValue."""
    if not isinstance(value, list) or len(value) != count:
        raise WrongValue(f"{what} {_shown(value)} is not {count} numbers")
    return [number(each, what) for each in value]


def text(value: object, what: str) -> str:
    """A text, or a number as one. Raises WrongValue."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise WrongValue(f"{what} {_shown(value)} is no text")
    return str(value)


def _shown(value: object) -> str:
    return repr(value)[:40]
