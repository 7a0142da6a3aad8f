"""Models that were kept: weights with what lies beside them, in a folder that the operator serves from. Synchronous."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from stmixer.service.errors import InputError
from stmixer.service.teach_schemas import KeptModel

MOST_KEPT = 50
WEIGHTS = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


class KeptModels:
    """Those in a folder of ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Begin. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def all(self) -> list[KeptModel]:
        """By name."""
        names = sorted(path.name.removesuffix(WEIGHTS) for path in self._folder.glob(f"*{WEIGHTS}") if path.is_file())
        return [self._one(name) for name in names if _NAME.fullmatch(name)]

    def check(self, name: str) -> None:
        """Raises InputError where none of this name can be kept."""
        kept = [one.name for one in self.all()]
        if name in kept:
            raise InputError("exists", f"a model called {name} was kept already; choose another name", 409)
        if len(kept) >= MOST_KEPT:
            raise InputError("too_many", f"{MOST_KEPT} models were kept; take some out of {self._folder} first", 409)

    def keep(self, weights: Path) -> KeptModel:
        """Move weights and all that is called like them here, the weights last: where they are, all is. Raises
        InputError as ``check``, OSError."""
        name = weights.name.removesuffix(WEIGHTS)
        self.check(name)
        for path in [*beside(weights), weights]:
            os.replace(path, self._folder / path.name)
        return self._one(name)

    def _one(self, name: str) -> KeptModel:
        weights = str(self._folder / f"{name}{WEIGHTS}")
        return KeptModel(name=name, weights=weights, serve=f"stmixer serve --weights {shlex.quote(weights)}")


def beside(weights: Path) -> list[Path]:
    """The files of a lesson's outcome besides its weights: ``NAME.*``, graphs and the card in words."""
    name = weights.name.removesuffix(WEIGHTS)
    found = [path for path in weights.parent.glob(f"{name}.*") if path.suffix in (".onnx", ".md") and path.is_file()]
    return sorted(found)
