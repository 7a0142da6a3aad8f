"""Files that a configuration names one by one, known by what is in them: a run goes on after its folder was moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_OF_INIT = ("weights", "average_with", "backbone")


def contents(values: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of every file that is there of those that a configuration's plain values name, by its path: the sets'
    ``ignore``, and the files of ``init``."""
    paths = {path for path in _named(values) if Path(path).is_file()}
    return {path: _sha256(Path(path)) for path in sorted(paths)}


def by_contents(values: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """A configuration's plain values with these files' contents in place of their paths; other paths stay."""
    changed = dict(values)
    if "sets" in values:
        changed["sets"] = [_replaced(one, ("ignore",), known) for one in values["sets"]]
    if values.get("init"):
        changed["init"] = _replaced(values["init"], _OF_INIT, known)
    return changed


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    yield from (one["ignore"] for one in values.get("sets", ()) if one.get("ignore") is not None)
    init = values.get("init") or {}
    yield from (init[key] for key in _OF_INIT if init.get(key) is not None)


def _replaced(section: Mapping[str, Any], keys: tuple[str, ...], known: Mapping[str, str]) -> dict[str, Any]:
    return dict(section) | {key: f"sha256:{known[section[key]]}" for key in keys if section.get(key) in known}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
