"""Do scores mean what they say: of what is predicted with 0.8, does 80 % come true?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stmixer.trainer.evaluators.tables import Floats, Ints, Mask

BINS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Predicted against observed, in ten bins of equal width; a bin holds its lower edge, the last one both.

    Attributes:
        predicted: (10,) mean score of each bin; NaN where it is empty.
        observed: (10,) share that came true; NaN where it is empty.
        count: (10,) int64.
    """

    predicted: Floats
    observed: Floats
    count: Ints

    @property
    def ece(self) -> float | None:
        """Expected calibration error (Guo et al., ICML 2017): mean |observed − predicted| weighted by count."""
        full = self.count > 0
        if not full.any():
            return None
        return float(np.average(np.abs(self.observed - self.predicted)[full], weights=self.count[full]))


def reliability(score: Floats, there: Mask) -> Reliability:
    """Bin scores and outcomes.

    Args:
        score: (n,) probabilities.
        there: (n,) bool, whether it came true.

    Raises:
        ValueError: a score outside 0–1.
    """
    bad = ~((score >= 0) & (score <= 1))
    if bad.any():
        raise ValueError(f"a reliability diagram needs probabilities; score {score[bad.argmax()]} is none")
    at = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(at, minlength=BINS).astype(np.int64)
    size = np.where(count > 0, count, np.nan)
    predicted = np.bincount(at, weights=score, minlength=BINS) / size
    observed = np.bincount(at, weights=there, minlength=BINS) / size
    return Reliability(predicted, observed, count)
