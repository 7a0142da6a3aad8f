"""What came of a lesson, kept in its run's folder: the same lesson again finds that nothing is to be done."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from stmixer.trainer.teach.figures import Figures


@dataclass(frozen=True, slots=True)
class Done:
    """The SHA-256 of the weights that were written, and how good they are."""

    sha256: str
    figures: Figures

    @classmethod
    def read(cls, run: Path) -> Done | None:
        """That of a run's folder; None where there is none, or none that can be read."""
        try:
            values = json.loads(_file(run).read_text(encoding="utf-8"))
            return cls(values["sha256"], Figures(**values["figures"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, run: Path) -> None:
        """Whole or not at all. Raises OSError."""
        partial = _file(run).with_suffix(".partial")
        values = {"sha256": self.sha256, "figures": self.figures.as_dict()}
        partial.write_text(json.dumps(values), encoding="utf-8")
        os.replace(partial, _file(run))


def _file(run: Path) -> Path:
    return run / "done.json"
