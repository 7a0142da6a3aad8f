"""What can go wrong: a person's faults in one type, a run that diverges in another."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20
"""Lines of one error that are shown; the rest are counted."""


class TrainError(ValueError):
    """Something to put right before training can start: one clear line for each fault found.

    Attributes:
        lines: the faults, each with the file and place it concerns.
    """

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        shown = self.lines[:SHOWN]
        if len(self.lines) > len(shown):
            shown = (*shown, f"... and {len(self.lines) - len(shown)} more")
        super().__init__("\n".join(" ".join(line.split()) for line in shown))


class DivergedError(ArithmeticError):
    """The network's output is no longer made of numbers."""
