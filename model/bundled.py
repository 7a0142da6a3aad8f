"""Weights that come with the package, by name, and those that others publish: what ``weights/manifest.json`` lists.
Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "weights"

DEFAULT = "stmixer-rt"
"""What runs when no weights are named."""


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """A name, its file, and the short side of the pictures that it wants to see, px (None: as the file says).

    Two names may share a file: one model at two sizes. ``map_lost``: what a precision loses at most of any validation
    set's mAP against fp32, as the weights with the digest ``lost_by`` were seen to.
    """

    name: str
    file: Path
    short_side: int | None = None
    lost_by: str | None = None
    map_lost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A checkpoint that its authors publish. None where nobody here knows it.

    Attributes:
        name: as `stmixer-weights pull` takes it.
        title, variant, data: what it is, which variant's network, and what it was trained on.
        map_percent: frame mAP at IoU 0.5 on the data's validation split, as published.
        url: an https address from which a program may fetch it.
        sha256, size: of the file that the authors publish, in bytes.
        where: where people find it, in words.
    """

    name: str
    title: str
    variant: str
    data: str
    where: str
    map_percent: float | None = None
    url: str | None = None
    sha256: str | None = None
    size: int | None = None


def published() -> dict[str, PublishedWeights]:
    """All of them by name, in the manifest's order."""
    return {entry["name"]: PublishedWeights(**entry) for entry in _manifest().get("published", [])}


def bundled() -> dict[str, NamedWeights]:
    """All of them whose files are installed, by name, in the manifest's order."""
    found = (
        NamedWeights(e["name"], FOLDER / e["file"], e.get("short_side"), e.get("lost_by"), e.get("map_lost", {}))
        for e in _manifest().get("bundled", [])
    )
    return {weights.name: weights for weights in found if weights.file.is_file()}


def _manifest() -> dict[str, Any]:
    try:
        listed: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return listed
