"""When keyframes fall and which grid samples each of them wants. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from stmixer.media.grid import TimeGrid
from stmixer.model.clip import Window


@dataclass(frozen=True, slots=True)
class Keyframe:
    """Keyframe ``seq`` at ``pts_us``: the grid indices of its clip, and the moment whose frame completes it.

    ``indices`` rise, negative before t = 0: the first and the last bound what it wants.
    """

    seq: int
    pts_us: int
    indices: tuple[int, ...]
    due_pts_us: int


class KeyframeSchedule:
    """Keyframes at k / hz from t = 0, each with its window on the grid.

    With ``snap`` the period is a whole number of grid steps, at least one, and ``hz`` the effective rate: for models
    that keep frame features, whose windows then share their samples.
    Look-ahead beyond ``lookahead_ms`` is cut: the wanted indices stop there and repeat (docs/protocol.md, Time).
    """

    def __init__(self, window: Window, hz: float, lookahead_ms: float | None, *, snap: bool = False) -> None:
        self.hz = float(1 / (max(1, round(1 / (hz * window.grid_s))) * window.grid_s)) if snap else hz
        self._window = window
        own_ms = float(window.lookahead_s * 1000)
        self.lookahead_ms = own_ms if lookahead_ms is None else min(float(lookahead_ms), own_ms)
        self.lookahead_us = round(self.lookahead_ms * 1000)
        self.period_us = 1_000_000 / self.hz
        """Time between keyframes."""
        self._steps_after = int(self.lookahead_ms / 1000 / window.grid_s + 1e-9)
        self.grid = TimeGrid(window.grid_s)

    def last_at(self, pts_us: int) -> int:
        """The last keyframe whose moment is not after ``pts_us``; -1 where that is before the first. Constant cost."""
        seq = int(pts_us // self.period_us)
        while round((seq + 1) * self.period_us) <= pts_us:  # moments are rounded to µs: off by one at most
            seq += 1
        while seq >= 0 and round(seq * self.period_us) > pts_us:
            seq -= 1
        return max(seq, -1)

    def keyframe(self, seq: int) -> Keyframe:
        """Keyframe ``seq`` with its window centred on the nearest grid index."""
        pts_us = round(seq * self.period_us)
        centre = self.grid.nearest(pts_us)
        indices = tuple(centre + min(offset, self._steps_after) for offset in self._window.offsets)
        return Keyframe(seq, pts_us, indices, pts_us + self.lookahead_us)
