"""What is remembered of a lesson over a restart of the service: a small file, there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stmixer.service.teach_schemas import FIRST_NAME, LessonState, TeachFigures, TeachOrder

CUT_OFF = "the service ended while it learned; what is done is kept, and goes on when it is begun again"


class Record(BaseModel):
    """How it stands. ``name``: of the model that is, or was, being learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: LessonState = "open"
    name: str = FIRST_NAME
    says: str = ""
    notes: tuple[str, ...] = ()
    figures: TeachFigures | None = None

    @classmethod
    def read(cls, path: Path) -> Record:
        """That of a file; of a new lesson where there is none, or none that can be read."""
        try:
            record = cls.model_validate_json(path.read_bytes())
            TeachOrder(name=record.name)
        except (OSError, ValidationError):
            return cls()
        return record.model_copy(update={"state": "stopped", "says": CUT_OFF}) if record.state == "learning" else record

    def write(self, path: Path) -> None:
        """Raises OSError."""
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(), encoding="utf-8")
        os.replace(partial, path)
