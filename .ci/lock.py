"""``lock.txt`` as a list of packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "lock.txt"


@dataclass(frozen=True)
class Package:
    """One version of one package; ``marker``: where it is installed, empty for everywhere; ``sha256`` of its files."""

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]


def packages(path: Path = LOCK) -> Iterator[Package]:
    """All of them in order. Raises ValueError for a line that pins nothing, or has no hash."""
    text = re.sub(r"\\\n", " ", path.read_text())
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pin, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        requirement, _, marker = pin.partition(";")
        name, same, version = requirement.strip().partition("==")
        if not same or not hashes or not all(re.fullmatch(r"[0-9a-f]{64}", each.strip()) for each in hashes):
            raise ValueError(f"{path.name}: {line[:80]!r} pins no version by hashes")
        yield Package(name, version, marker.strip(), tuple(each.strip() for each in hashes))
