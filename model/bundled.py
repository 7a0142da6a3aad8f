"""Weights that come with the package, by name: what ``weights/manifest.json`` lists. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "weights"

DEFAULT = "stmixer-rt"
"""What runs when no weights are named."""


@dataclass(frozen=True, slots=True)
class BundledWeights:
    """A name, its file, and the short side of the pictures that it wants to see, px (None: as the file says).

    Two names may share a file: one model at two sizes. ``map_lost``: what a precision loses at most of any validation
    set's mAP against fp32, as the weights with the digest ``lost_by`` were seen to.
    """

    name: str
    file: Path
    short_side: int | None = None
    lost_by: str | None = None
    map_lost: Mapping[str, float] = field(default_factory=dict)


def bundled() -> dict[str, BundledWeights]:
    """All of them whose files are installed, by name, in the manifest's order."""
    try:
        listed = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["bundled"]
    except FileNotFoundError:
        return {}
    found = (
        BundledWeights(e["name"], FOLDER / e["file"], e.get("short_side"), e.get("lost_by"), e.get("map_lost", {}))
        for e in listed
    )
    return {weights.name: weights for weights in found if weights.file.is_file()}


def bundled_as(weights: str | Path | None) -> BundledWeights | None:
    """The bundled weights of this name, unless a file of this name lies here."""
    return bundled().get(str(weights)) if weights is not None and not Path(weights).is_file() else None
