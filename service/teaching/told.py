"""What the process that learns tells, a JSON object a line (docs/train.md), and how far it has come by that.

It has read media of other people's, so a line is checked, and words are cut: what is no line of its own is passed over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stmixer.service.teach_schemas import TeachFigures, TeachPhase

log = logging.getLogger("stmixer.teaching")

MOST_WORDS = 1000
MOST_NOTES = 100
MOST_PHASES = 20

Words = Annotated[str, Field(max_length=16 * MOST_WORDS)]
Whole = Annotated[int, Field(ge=0, lt=2**53)]


class ToldLine(BaseModel):
    """One line. Fields that are not for us may stand in it as well."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: Literal["start", "progress", "end", "note", "done", "failed", "stopped"]
    phase: Words = ""
    says: Words = ""
    done: Whole | None = None
    total: Whole | None = None
    left_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    figures: TeachFigures | None = None


@dataclass
class Told:
    """All that was told so far. ``end``: the last words, once they were said. ``place``: the lesson's folder, whose
    path is left out of words."""

    place: str
    phases: list[TeachPhase] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: ToldLine | None = None

    def take(self, line: bytes) -> None:
        """The next line."""
        try:
            told = ToldLine.model_validate_json(line)
        except ValidationError:
            log.debug("the lesson said what is no line of a lesson: %r", line[:200])
            return
        if self.end is None:
            self._take(told)

    def words(self, text: str) -> str:
        """Words of the process as people are told them."""
        return " ".join(text.replace(self.place, "").split())[:MOST_WORDS]

    def _take(self, told: ToldLine) -> None:
        says, running = self.words(told.says), next((phase for phase in self.phases if phase.running), None)
        match told.state:
            case "start":
                self.over()
                if len(self.phases) < MOST_PHASES:
                    self.phases.append(TeachPhase(phase=self.words(told.phase), says=says, running=True))
            case "progress" if running is not None:
                running.done, running.total, running.left_s = told.done, told.total, told.left_s
            case "end" if running is not None:
                running.running, running.left_s, running.came = False, None, says
            case "note" if len(self.notes) < MOST_NOTES:
                self.notes.append(says)
            case "done" | "failed" | "stopped":
                self.over()
                self.end = told

    def over(self) -> None:
        """No phase runs (any more)."""
        for phase in self.phases:
            phase.running, phase.left_s = False, None
