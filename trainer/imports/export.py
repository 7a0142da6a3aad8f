"""What every reader of another tool's export gives: footage, and the boxes that it has; and what is left out, in words.

Nothing here has looked at a video yet: names are the export's, times are frames or seconds as it tells them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stmixer.trainer.data.records import Part

Kind = Literal["video", "frames", "picture"]
"""A file that is decoded; numbered pictures that make a video; a picture by itself."""

Corners = tuple[float, float, float, float]

SHARES = (1.0, 1.0)
"""The ``size_wh`` of corners that are shares of width and height."""


@dataclass(frozen=True, slots=True)
class SeenBox:
    """A box as an export has it.

    Attributes:
        xyxy: corners, in a picture of ``size_wh``.
        label: what the tool calls it; may be nothing.
        attributes: (name, value) pairs that somebody gave it.
        size_wh: width and height that the corners are counted in; None: pixels of the footage itself.
        frame: 0-based; None where the time is told, or it is of a picture.
        second: the moment from the footage's beginning.
        track: who it is, as the tool numbers people.
        crowd: an area to ignore.
    """

    xyxy: Corners
    label: str
    attributes: tuple[tuple[str, str], ...] = ()
    size_wh: tuple[float, float] | None = None
    frame: int | None = None
    second: float | None = None
    track: str | None = None
    crowd: bool = False


@dataclass(slots=True)
class Footage:
    """A video, a sequence of pictures or a picture, with its boxes.

    Attributes:
        name: of the file; of a sequence, what it is to be called.
        pictures: of a sequence, the name of each frame's file.
        fps: where the export says it.
        part: of which split it is, where the export says it.
    """

    name: str
    kind: Kind
    pictures: dict[int, str] = field(default_factory=dict)
    fps: float | None = None
    part: Part | None = None
    boxes: list[SeenBox] = field(default_factory=list)


class LeftOut:
    """What is not taken over: each reason with how often, and where it was first."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def note(self, reason: str, where: str) -> None:
        """Once more for this reason, which reads on from a number: "boxes have no area"."""
        count, first = self._found.get(reason, (0, where))
        self._found[reason] = (count + 1, first)

    def lines(self) -> list[str]:
        """In words, what was left out most often first."""
        ordered = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))
        return [f"left out, {count} times: {reason} (first: {where})" for reason, (count, where) in ordered]


@dataclass(frozen=True, slots=True)
class Export:
    """What was read: whose form it is in, for people, and what notes a reader of the result should have."""

    form: str
    footage: list[Footage]
    left_out: LeftOut
    notes: list[str] = field(default_factory=list)
