"""What can go wrong: a person's faults in one type, a run that diverges in another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises TrainError where the disk does not give what is read inside."""
    try:
        yield
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror or error}") from None


@contextmanager
def writing(path: Path, what: str = "") -> Iterator[None]:
    """Raises TrainError where the disk does not take what is written inside. ``what`` stands before the path."""
    try:
        yield
    except OSError as error:
        raise TrainError(f"{what}{path} cannot be written: {error.strerror or error}") from None
