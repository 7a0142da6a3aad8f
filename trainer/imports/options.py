"""How an import is to be done, apart from what and where to."""

from __future__ import annotations

from dataclasses import dataclass, field

from stmixer.trainer.imports.naming import Naming


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """``fps``: of sequences, over what the export says; ``sequences``: numbered pictures are frames of videos; ``val``:
    what is validation, by name; ``nobody``: pictures without a box show nobody; ``pseudo``: a detector drew the boxes;
    ``copy``: copies into the set instead of links; ``force``: over an earlier set."""

    naming: Naming = field(default_factory=Naming)
    fps: float | None = None
    sequences: bool = False
    val: tuple[str, ...] = ()
    nobody: bool = False
    pseudo: bool = False
    copy: bool = False
    force: bool = False

    @property
    def origin(self) -> str:
        """Who drew the boxes, for the tables."""
        return "pseudo" if self.pseudo else "true"
