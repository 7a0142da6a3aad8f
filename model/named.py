"""Weights by name: those that come with the package, and those that were fetched. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from stmixer.model.bundled import NamedWeights, bundled
from stmixer.model.pulled import pulled_file


def weights_named(weights: str | Path | None) -> NamedWeights | None:
    """The weights of this name, bundled ones first, unless a file of this name lies here."""
    if weights is None or os.path.isfile(weights):  # of a name that no file can have Path.is_file raises
        return None
    name = str(weights)
    if (found := bundled().get(name)) is not None:
        return found
    file = pulled_file(name)
    return None if file is None else NamedWeights(name, file)
