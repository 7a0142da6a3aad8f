"""Bins and the expected calibration error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stmixer.trainer.evaluators.reliability import reliability


def test_by_hand() -> None:
    r = reliability(np.array([0.0, 0.05, 0.92, 0.98, 1.0]), np.array([False, True, True, True, False]))
    assert r.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert r.predicted[[0, 9]] == pytest.approx([0.025, 2.9 / 3])
    assert r.observed[[0, 9]] == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(r.observed[1:9]).all()
    assert r.ece == pytest.approx((2 * (0.5 - 0.025) + 3 * (2.9 / 3 - 2 / 3)) / 5)


def test_a_bin_holds_its_lower_edge() -> None:
    assert reliability(np.array([0.0, 0.1, 0.5, 0.99]), np.zeros(4, dtype=bool)).count.tolist() == [
        *(1, 1, 0, 0, 0, 1, 0, 0, 0, 1)
    ]


def test_honest_scores_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    honest, boastful = (reliability(score, rng.random(20_000) < p).ece for p in (score, score**3))
    assert honest is not None
    assert boastful is not None
    assert honest < 0.02
    assert boastful > 0.2


def test_nothing_and_no_probabilities() -> None:
    assert reliability(np.array([]), np.array([], dtype=bool)).ece is None
    for score in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="needs probabilities"):
            reliability(np.array([0.5, score]), np.array([True, True]))
