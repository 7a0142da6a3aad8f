"""The association step: gain, assignment, gap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stmixer.model.linking import Association, pairs_by_turns, pairs_of_most_gain

RULE = Association(min_iou=0.2, max_gap=2)


def test_a_track_may_be_missed_so_many_times() -> None:
    assert [RULE.is_alive(4, now) for now in (5, 6, 7, 8)] == [True, True, True, False]
    assert not Association(min_iou=0.2, max_gap=0).is_alive(4, 6)


def test_gains() -> None:
    overlap = np.array([[0.0, 0.19, 0.2, 1.0]])
    assert RULE.gains(overlap).tolist() == [[0, 0, 0.2, 1]]
    assert RULE.gains(overlap, np.array([0.9, 0.9, 0.5, 0.25])).tolist() == [[0, 0, 0.7, 1.25]]
    nothing = Association(min_iou=0.0, max_gap=0).gains(np.array([[0.0, 1e-9]]), np.ones(2))
    assert nothing.tolist() == [[0, 1 + 1e-9]], "boxes that do not touch are never one"


def test_by_turns_the_first_takes_the_best() -> None:
    gains = np.array([[0.5, 0.6], [0.4, 0.9]])
    assert pairs_by_turns(gains, (0, 1)) == [(0, 1), (1, 0)]
    assert pairs_by_turns(gains, (1, 0)) == [(1, 1), (0, 0)]
    assert pairs_by_turns(np.array([[0.5, 0.5], [0.5, 0.0]]), (0, 1)) == [(0, 0)], "equal gains: the first one"
    assert gains.tolist() == [[0.5, 0.6], [0.4, 0.9]], "the caller's stay as they are"


def test_all_at_once_the_sum_decides() -> None:
    """By turns 0.9 + 0 would be won; the best sum gives up the best pair."""
    assert pairs_of_most_gain(np.array([[0.9, 0.8], [0.7, 0.0]])) == [(0, 1), (1, 0)]
    assert pairs_of_most_gain(np.array([[0.9, 0.3], [0.3, 0.0]])) == [(0, 0)], "what cannot be one is no pair"


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nobody(shape: tuple[int, int]) -> None:
    assert pairs_of_most_gain(np.zeros(shape)) == pairs_by_turns(np.zeros(shape), range(shape[0])) == []


@pytest.mark.parametrize("ties", [False, True])
def test_the_sum_is_the_largest_there_is(ties: bool) -> None:
    draw = np.random.default_rng(0)
    for case in range(300):
        n, m = draw.integers(1, 6, 2).tolist()
        gains = draw.integers(0, 4, (n, m)) / 4 if ties else draw.random((n, m)) * (draw.random((n, m)) < 0.6)
        pairs = pairs_of_most_gain(gains)
        for side in zip(*pairs, strict=True):
            assert len(set(side)) == len(side), case
        assert all(gains[pair] > 0 for pair in pairs)
        small = gains if n <= m else gains.T
        columns = itertools.permutations(range(max(n, m)), min(n, m))
        best = max(sum(small[i, j] for i, j in enumerate(chosen)) for chosen in columns)
        assert sum(gains[pair] for pair in pairs) == pytest.approx(best, abs=1e-12), case
