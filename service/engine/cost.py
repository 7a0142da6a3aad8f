"""What a keyframe costs its worker: the frames that are new to it, and the clip. Learned from batches. Pure."""

from __future__ import annotations

from collections.abc import Mapping

FORGETTING = 0.98
"""What a batch counts after the next one."""
PRIOR_WEIGHT = 0.1
"""How many batches the warm-up's proportion of frames to clip counts for."""
MOST_TIMES_EXPECTED = 4.0
"""A batch that took longer than so many times what was expected counts as that: something else was to blame."""
LEARNED_AFTER = 30
"""Batches after which admission goes by what they took, and no more by the warm-up."""


class KeyframeCost:
    """Seconds of a keyframe by its number of new frames: ``clip + frames * new / frames of a window``, learned.

    Batches are compared with the warm-up's of their size, so that how full they are makes no difference: the two parts
    are fractions of a keyframe of the warm-up, which is 1, and at first ``1 - saved`` and ``saved``.

    Args:
        warmup_s: seconds of a batch by its size, in which all frames are new.
        saved: the part of a keyframe's time that is not needed where all its frames are known; 0 of a model that keeps
            nothing of its frames.
        window: frames of a keyframe's window.
    """

    def __init__(self, warmup_s: Mapping[int, float], saved: float, window: int) -> None:
        self.window, self.keeps_features = window, saved > 0
        self._warmup_s = dict(warmup_s)
        self._best_s = min(seconds / size for size, seconds in warmup_s.items())
        self._prior = self._parts = 1 - saved, saved
        self._batches, self._overhead_s = 0, 0.0
        self._xx, self._xu, self._uu, self._xy, self._uy = 0.0, 0.0, 0.0, 0.0, 0.0

    def seconds(self, new_frames: float) -> float:
        """A keyframe's, in batches of the best size, with what lies between two batches."""
        clip, frames = self._parts
        return self._best_s * (clip + frames * new_frames / self.window) + self._overhead_s

    @property
    def saved(self) -> float:
        """The part of a keyframe's time that known frames save, 0 to 1."""
        clip, frames = self._parts
        return frames / (clip + frames)

    @property
    def slower(self) -> float | None:
        """How many times the warm-up's a whole keyframe's time is; None until enough batches have come back."""
        return sum(self._parts) if self._batches >= LEARNED_AFTER else None

    def observe(self, keyframes: int, new_frames: int, worked_s: float, overhead_s: float) -> None:
        """A batch is back: what its worker worked, and what went by besides until it could have taken the next one."""
        measured = max([n for n in self._warmup_s if n <= keyframes], default=min(self._warmup_s))
        unit_s = self._warmup_s[measured] * keyframes / measured
        new = new_frames / (self.window * keyframes) if self.keeps_features else 0.0
        clip, frames = self._parts
        taken = min(worked_s / unit_s, MOST_TIMES_EXPECTED * (clip + frames * new))
        self._xx = FORGETTING * self._xx + 1
        self._xu = FORGETTING * self._xu + new
        self._uu = FORGETTING * self._uu + new * new
        self._xy = FORGETTING * self._xy + taken
        self._uy = FORGETTING * self._uy + taken * new
        self._batches += 1
        each_s = min(max(0.0, overhead_s), unit_s) / keyframes
        self._overhead_s += (1 - FORGETTING) * (each_s - self._overhead_s)
        self._fit()

    def _fit(self) -> None:
        """Least squares, drawn towards the warm-up's proportion: where all batches are alike they do not tell it."""
        clip, frames = self._prior
        scale = self._xy / (clip * self._xx + frames * self._xu)
        clip, frames, weight = clip * scale, frames * scale, PRIOR_WEIGHT
        a, b, d = self._xx + weight, self._xu, self._uu + weight
        p, q = self._xy + weight * clip, self._uy + weight * frames
        determinant = a * d - b * b
        clip, frames = (p * d - q * b) / determinant, (a * q - b * p) / determinant
        least = 0.02 * scale
        self._parts = max(least, clip), max(least, frames) if self.keeps_features else 0.0
