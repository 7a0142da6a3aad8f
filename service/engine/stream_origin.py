"""When t = 0 of a stream was on our clock: where another connection of its source goes on."""

from __future__ import annotations

STRETCH_S = 10.0
"""Frames of the last one or two stretches of so long count."""


class StreamOrigin:
    """By the frame that was fastest on its way, of those that came lately: a source whose clock runs slow against ours
    is behind by its drift, which is no pause and must not be taken for one.
    """

    def __init__(self) -> None:
        self._least: float | None = None
        self._before: float | None = None
        self._since = 0.0

    def note(self, pts_us: int, at: float) -> None:
        """A frame ``pts_us`` µs after the first one arrived at monotonic seconds ``at``."""
        origin = at - pts_us / 1e6
        if self._least is None or at - self._since > STRETCH_S:
            self._before, self._least, self._since = self._least, origin, at
        self._least = min(self._least, origin)

    @property
    def at(self) -> float | None:
        """Monotonic seconds of t = 0; None before the first frame."""
        if self._least is None or self._before is None:
            return self._least
        return min(self._before, self._least)
