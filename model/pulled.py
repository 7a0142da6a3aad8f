"""Weights that `stmixer-weights pull` has fetched, by name: what lies in the cache folder. Imports no torch, fetches
nothing."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a name may look like; one that ends as a file does is none."""

BY_HAND = "put there by hand"
"""Where a file in the cache folder is from that was not fetched: converted into it, or copied."""

ENDINGS = (".safetensors", ".onnx", ".pth", ".pt", ".pyth", ".pkl")


@dataclass(frozen=True, slots=True)
class PulledWeights:
    """What was fetched: its file, where from, its SHA-256 (nothing where it was put there by hand) and size in bytes as
    they were then."""

    name: str
    file: Path
    source: str
    sha256: str
    bytes: int


def cache_folder() -> Path | None:
    """Where fetched weights lie: ``stmixer/weights`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; None where nobody's home
    is."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "stmixer" / "weights"
    except RuntimeError:
        return None


def is_name(text: str) -> bool:
    """Whether this may name fetched weights."""
    return NAME.fullmatch(text) is not None and not text.lower().endswith(ENDINGS)


def pulled_file(name: str) -> Path | None:
    """The weights of this name, ready to be used; None where there are none."""
    folder = cache_folder()
    if folder is None or not is_name(name):
        return None
    file = folder / f"{name}.safetensors"
    return file if file.is_file() else None


def pulled(folder: Path | None = None) -> dict[str, PulledWeights]:
    """All that lie in the cache folder, by name, whether they can be used as they are or have to be converted first."""
    folder = folder or cache_folder()
    found: dict[str, PulledWeights] = {}
    for record in sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else []:
        try:
            stated = json.loads(record.read_text(encoding="utf-8"))
            file = record.parent / Path(str(stated["file"])).name
            one = PulledWeights(record.stem, file, str(stated["source"]), str(stated["sha256"]), int(stated["bytes"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_name(record.stem) and file.is_file():
            found[one.name] = one
    for file in sorted(folder.glob("*.safetensors")) if folder is not None and folder.is_dir() else []:
        if file.stem not in found and is_name(file.stem):
            found[file.stem] = PulledWeights(file.stem, file, BY_HAND, "", file.stat().st_size)
    return found


def record_pulled(one: PulledWeights) -> None:
    """Write down what was fetched, complete or not at all. Raises OSError."""
    target = one.file.parent / f"{one.name}.json"
    unfinished = target.with_name(f".{target.name}.partial")
    unfinished.write_text(json.dumps(asdict(one) | {"file": one.file.name}, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(target)
