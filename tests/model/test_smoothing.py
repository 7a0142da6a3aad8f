"""What somebody does over a stretch of time: right at any rate, of whom it is, for as long as they are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from stmixer.model.smoothing import (
    BAND,
    CLOSES_S,
    EDGE,
    MEAN_S,
    PLAINLY,
    SUREST,
    WARMING,
    WITHIN_S,
    ActionScores,
    SmoothedActions,
)
from stmixer.model.tracks import MAX_TRACKS, TrackChanges, Tracks

LABELS = (3, 7)


def changes(ids: Sequence[int], ended: Sequence[int] = ()) -> TrackChanges:
    return TrackChanges(np.array(ids, np.int64), (), tuple(ended))


def log_odds(score: float) -> float:
    return float(np.log(score / (1 - score)))


def told(
    filters: SmoothedActions, at_s: float, people: dict[int, tuple[float, float]], ended: Sequence[int] = (), *,
    period_s: float = 0.25, warming: bool = False, labels: tuple[int, ...] = LABELS,
) -> dict[int, list[float]]:  # fmt: skip
    """A keyframe's people and their two scores -> what is smoothed of each."""
    values = np.array(list(people.values()), np.float32).reshape(len(people), len(labels))
    found = filters.update(
        at_s, changes(list(people), ended), ActionScores(labels, values), period_s=period_s, warming=warming
    )
    return dict(zip(people, found.tolist(), strict=True))


def mean(before: float, since: float, seconds_before: float, seconds_since: float, constant_s: float = MEAN_S) -> float:
    """Log odds of a score that was ``before`` for a time and has been ``since`` for another, by the module's words."""
    new = 1 - np.exp(-seconds_since / constant_s)
    old = np.exp(-seconds_since / constant_s) * (1 - np.exp(-seconds_before / constant_s))
    return float((new * log_odds(since) + old * log_odds(before)) / (new + old))


def expected(before: float, since: float, seconds_before: float, seconds_since: float) -> float:
    """Of a change so small that the mean alone counts."""
    return float(1 / (1 + np.exp(-mean(before, since, seconds_before, seconds_since))))


def followed(hz: int, scores: Callable[[float], float], seconds: int) -> list[float]:
    """What is told of somebody at each keyframe, the first at one period."""
    filters = SmoothedActions()
    return [
        told(filters, (k + 1) / hz, {1: (scores((k + 1) / hz), 0.5)}, period_s=1 / hz)[1][0]
        for k in range(seconds * hz)
    ]  # fmt: skip


@pytest.mark.parametrize("hz", [1, 2, 4, 8])
def test_a_small_change_comes_through_in_the_same_time_at_any_rate(hz: int) -> None:
    found = followed(hz, lambda at: 0.51 if at <= 4 else 0.5, 10)
    for at in range(1, 11):
        wanted = expected(0.51, 0.5, 4, at - 4) if at > 4 else 0.51
        assert found[at * hz - 1] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("hz", [1, 2, 4, 8])
def test_a_plain_change_is_told_at_once_at_any_rate(hz: int) -> None:
    """By the mean alone it would be told as 0.5 at most, and as at the edge."""
    found = followed(hz, lambda at: 0.02 if at <= 4 else 0.9, 8)
    assert found[4 * hz - 1] == pytest.approx(0.02, abs=1e-6)
    assert found[4 * hz :] == pytest.approx([0.9] * (4 * hz), abs=0.01)
    assert mean(0.02, 0.9, 4, 1 / hz) < 0


def apart(one: float, other: float) -> float:
    """Two probabilities: Fisher's distance, of which ``PLAINLY`` is one."""
    return float(2 * abs(np.arcsin(np.sqrt(one)) - np.arcsin(np.sqrt(other))))


@pytest.mark.parametrize("hz", [2, 4, 8])
def test_what_is_farther_is_drawn_by_more_and_of_keyframes_close_together_each_by_its_share(hz: int) -> None:
    found = followed(hz, lambda at: 0.3 if at <= 2 else 0.45, 4)[2 * hz]
    by_mean = mean(0.3, 0.45, 2, 1 / hz)
    away = apart(1 / (1 + np.exp(-by_mean)), 0.45)
    assert 0.05 < away < PLAINLY / 2
    left = (1 - (away / PLAINLY) ** 2) ** (2 * min(1, 1 / hz / WITHIN_S))
    wanted = log_odds(0.45) + left * (by_mean - log_odds(0.45))
    assert log_odds(found) == pytest.approx(wanted, abs=1e-6)


def test_who_plainly_does_something_else_has_stopped_what_they_did() -> None:
    """The other label by itself is drawn by a little, and with it all of the way."""
    filters, alone = SmoothedActions(), SmoothedActions()
    for k in range(8):
        told(filters, k / 8, {1: (0.02, 0.45)})
        told(alone, k / 8, {1: (0.02, 0.45)})
    assert told(filters, 1.0, {1: (0.98, 0.3)})[1] == pytest.approx([0.98, 0.3], abs=1e-6)
    assert told(alone, 1.0, {1: (0.02, 0.3)})[1][1] > 0.4
    assert told(filters, 1.125, {1: (0.98, 0.3)})[1][1] == pytest.approx(0.3, abs=1e-6), "and goes on from there"


def test_what_wavers_is_not_told_of() -> None:
    """0.3 and 0.6 in turns, eight times a second: 32 changes in 4 s, and none is told."""
    found = followed(8, lambda at: (0.3, 0.6)[round(8 * at) % 2], 4)
    assert found[0] == pytest.approx(0.6, abs=1e-6)
    sides = [score >= 0.5 for score in found]
    assert sum(one != other for one, other in pairwise(sides)) == 1, "from the first keyframe's, once"
    assert max(found[24:]) - min(found[24:]) < 0.06


def test_of_two_that_wait_at_the_edge_the_surer_one_is_told_as_more() -> None:
    filters = SmoothedActions()
    for k in range(17):
        found = told(filters, k / 8, {1: (0.4, 0.4) if k < 9 else (0.6, 0.65)})[1]
    assert 0.5 - EDGE / 4 < found[0] < found[1] < 0.5


@pytest.mark.parametrize("hz", [2, 4, 8])
def test_what_is_just_over_the_edge_is_told_once_it_stays(hz: int) -> None:
    """At the edge until then, on the side where it was; back at once where it was not meant."""
    at_first, at_last = followed(hz, lambda at: 0.3 if at <= 4 else 0.55, 12), 0.55
    waits = [k / hz for k, score in enumerate(at_first, 1) if 0.5 - EDGE / 4 <= score < 0.5]
    crossed = next(k for k in range(1, 12 * hz) if mean(0.3, 0.55, 4, k / hz - 4) >= 0 and k / hz > 4) / hz
    assert 4 < waits[0] <= crossed
    assert waits[-1] - waits[0] < CLOSES_S
    assert waits[-1] - waits[0] > CLOSES_S * (1 - log_odds(0.55) / BAND) - 1 / hz - 1e-6
    assert at_first[-1] == pytest.approx(at_last, abs=0.01)
    shortly = followed(hz, lambda at: 0.55 if 4 < at <= 4.6 else 0.3, 12)
    assert all(score < 0.5 for score in shortly)


def test_keyframes_at_any_moments_weigh_by_the_time_that_they_stand_for() -> None:
    """Some were skipped, some came close together: nothing but how long each score was true counts."""
    moments = np.concatenate((np.sort(np.random.default_rng(1).uniform(0.1, 1, 20)), [1.0]))
    filters = SmoothedActions()
    told(filters, 0.0, {1: (0.51, 0.5)}, period_s=1.0)
    found = [told(filters, at, {1: (0.5, 0.5)})[1] for at in moments.tolist()][-1]
    assert found == pytest.approx([expected(0.51, 0.5, 1.0, 1.0), 0.5], abs=1e-5)


def test_the_first_keyframe_says_what_it_says() -> None:
    for warming in (True, False):
        found = told(SmoothedActions(), 5.0, {4: (0.8, 0.01)}, warming=warming)
        assert found[4] == pytest.approx([0.8, 0.01], abs=1e-6)


def test_a_keyframe_whose_clip_is_not_whole_counts_for_less() -> None:
    filters = SmoothedActions()
    told(filters, 0.0, {1: (0.51, 0.5)}, warming=True)
    found = told(filters, 0.25, {1: (0.5, 0.5)})[1]
    fades = np.exp(-0.25 / MEAN_S)
    both = (WARMING * fades * log_odds(0.51) + log_odds(0.5)) / (WARMING * fades + 1)
    assert found == pytest.approx([1 / (1 + np.exp(-both)), 0.5], abs=1e-6)


@pytest.mark.parametrize("hz", [1, 2, 4, 8])
def test_what_half_a_clip_shows_plainly_is_not_taken_over(hz: int) -> None:
    """By a whole one it is (above)."""
    filters = SmoothedActions()
    for number in range(4 * hz):
        told(filters, number / hz, {1: (0.1, 0.5)}, period_s=1 / hz)
    assert told(filters, 4.0, {1: (0.9, 0.5)}, period_s=1 / hz, warming=True)[1][0] < 0.5


def test_what_was_before_a_gap_counts_by_how_long_it_is_ago() -> None:
    filters = SmoothedActions()
    for k in range(9):
        told(filters, 0.25 * k, {1: (0.51, 0.5)})
    found = told(filters, 4.0, {1: (0.5, 0.5)})[1]
    assert found == pytest.approx([expected(0.51, 0.5, 2.25, 2.0), 0.5], abs=1e-6)


def test_people_are_kept_apart_in_whatever_order_they_come() -> None:
    both, alone = SmoothedActions(), SmoothedActions()
    rng = np.random.default_rng(2)
    for k in range(6):
        scores = {n: (float(a), float(b)) for n, (a, b) in enumerate(rng.uniform(0.1, 0.9, (3, 2)), start=1)}
        order = rng.permutation([1, 2, 3]).tolist()
        found = told(both, k / 4, {n: scores[n] for n in order})
        assert told(alone, k / 4, {2: scores[2]})[2] == found[2]


def test_who_has_gone_is_forgotten_and_no_more_than_live_are_remembered() -> None:
    filters, tracks = SmoothedActions(), Tracks()
    told(filters, 0.0, {1: (0.9, 0.9), 2: (0.1, 0.1)})
    told(filters, 0.25, {2: (0.1, 0.1)}, ended=[1])
    assert len(filters) == 1
    everybody = np.array([(100 * n, 0, 100 * n + 40, 100) for n in range(MAX_TRACKS + 50)], np.float64)
    filters = SmoothedActions()
    for at in (0.0, 1.0):
        found = tracks.update(at, everybody[:: -1 if at else 1], 360.0, 2.0)
        scores = ActionScores(LABELS, np.full((len(everybody), 2), 0.7, np.float32))
        smoothed = filters.update(at, found, scores, period_s=1.0, warming=False)
        assert smoothed == pytest.approx(np.full((len(everybody), 2), 0.7), abs=1e-6)
    assert len(filters) == MAX_TRACKS


def test_another_model_begins_anew() -> None:
    filters = SmoothedActions()
    told(filters, 0.0, {1: (0.9, 0.9)})
    assert told(filters, 0.25, {1: (0.2, 0.4)}, labels=(7, 3))[1] == pytest.approx([0.2, 0.4], abs=1e-6)


def test_who_is_away_when_all_begins_anew_is_taken_up_again() -> None:
    """Their number is below those of whom it has begun with."""
    filters, alone = SmoothedActions(), SmoothedActions()
    told(filters, 0.0, {3: (0.9, 0.9), 5: (0.2, 0.2)})
    others = (7, 3)
    told(filters, 0.25, {5: (0.2, 0.4)}, labels=others)
    back = told(filters, 0.5, {5: (0.3, 0.4), 3: (0.9, 0.8)}, labels=others)
    assert back[3] == pytest.approx([0.9, 0.8], abs=1e-6)
    told(alone, 0.25, {5: (0.2, 0.4)}, labels=others)
    assert back[5] == told(alone, 0.5, {5: (0.3, 0.4)}, labels=others)[5]
    after = told(filters, 0.75, {3: (0.6, 0.5), 5: (0.4, 0.4)}, labels=others)
    assert after[5] == told(alone, 0.75, {5: (0.4, 0.4)}, labels=others)[5]
    assert len(filters) == 2


def test_scores_at_the_ends_are_finite_and_nobody_costs_nothing() -> None:
    filters = SmoothedActions()
    with np.errstate(all="raise", under="ignore"):
        assert told(filters, 0.0, {}) == {}
        told(filters, 1.0, {1: (0.0, 1.0)})
        assert told(filters, 2.0, {1: (1.0, 1.0)})[1][1] == pytest.approx(1 - SUREST)
        assert told(filters, 3.0, {1: (1.0, 0.0)})[1][0] < 1 - SUREST
        assert told(filters, 1e6, {1: (0.5, 0.5)})[1] == pytest.approx([0.5, 0.5], abs=EDGE)
