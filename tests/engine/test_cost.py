"""What a keyframe costs, learned from batches."""

from __future__ import annotations

import pytest

from stmixer.service.engine.admission import capacity_of
from stmixer.service.engine.cost import LEARNED_AFTER, KeyframeCost
from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.seat import Seat
from stmixer.service.places import Place


def told(cost: KeyframeCost, frame_s: float, clip_s: float, batches: int = 300) -> None:
    for number in range(batches):
        keyframes, each = 1 + number % 4, (2, 4, 8)[number % 3]
        new = keyframes * each
        cost.observe(keyframes, new, frame_s * new + clip_s * keyframes, 0.0)


def test_at_first_it_is_the_warm_up() -> None:
    cost = KeyframeCost({1: 0.2, 2: 0.3}, 0.75, 8)
    assert cost.seconds(8) == pytest.approx(0.15)
    assert cost.seconds(0) == pytest.approx(0.15 / 4)
    assert cost.slower is None


def test_it_learns_frames_and_clip_apart() -> None:
    cost = KeyframeCost({1: 0.1, 2: 0.2, 4: 0.4}, 0.5, 8)
    told(cost, frame_s=0.02, clip_s=0.03)
    assert cost.seconds(0) == pytest.approx(0.03, rel=0.06)
    assert cost.seconds(2) == pytest.approx(0.07, rel=0.02)
    assert cost.seconds(8) == pytest.approx(0.19, rel=0.02)
    assert cost.slower == pytest.approx(1.9, rel=0.02)
    assert cost.saved == pytest.approx(0.16 / 0.19, rel=0.02)


def test_batches_that_are_all_alike_leave_the_warm_ups_proportion() -> None:
    cost = KeyframeCost({1: 0.1}, 0.5, 8)
    for _ in range(100):
        cost.observe(1, 2, 3 * (0.05 + 0.05 / 4), 0.0)
    assert cost.seconds(2) == pytest.approx(0.1875, rel=0.01)
    assert cost.saved == pytest.approx(0.5, abs=0.01)


def test_a_hiccup_is_no_price() -> None:
    cost = KeyframeCost({1: 0.1}, 0.5, 8)
    told(cost, frame_s=0.00625, clip_s=0.05)
    cost.observe(1, 2, 60.0, 60.0)
    assert cost.seconds(2) < 0.08
    assert cost.seconds(8) < 0.2


def test_it_follows_a_machine_that_becomes_slower() -> None:
    cost = KeyframeCost({1: 0.1, 2: 0.2, 4: 0.4}, 0.5, 8)
    told(cost, frame_s=0.00625, clip_s=0.05)
    told(cost, frame_s=0.0125, clip_s=0.1)
    assert cost.seconds(2) == pytest.approx(0.125, rel=0.02)


def test_a_small_batch_says_what_a_full_one_costs() -> None:
    cost = KeyframeCost({1: 0.01, 8: 0.02}, 0.5, 8)
    for _ in range(LEARNED_AFTER):
        cost.observe(1, 8, 0.01, 0.0)
    assert cost.seconds(8) == pytest.approx(0.0025)
    assert cost.slower == pytest.approx(1.0)


def test_what_keeps_no_features_costs_the_same_whatever_is_new() -> None:
    cost = KeyframeCost({1: 0.1}, 0.0, 8)
    told(cost, frame_s=0.0, clip_s=0.2)
    assert cost.seconds(0) == cost.seconds(8) == pytest.approx(0.2, rel=0.02)
    assert cost.saved == 0.0


def test_what_lies_between_batches_counts() -> None:
    cost = KeyframeCost({1: 0.1}, 0.5, 8)
    for _ in range(300):
        cost.observe(2, 16, 0.2, 0.02)
    assert cost.seconds(8) == pytest.approx(0.11, rel=0.02)


def test_capacity_comes_back_when_a_slow_while_is_over() -> None:
    """Of a busy worker it follows; of an idle one, whose batches say little of full ones, it rises alone."""
    seat, warmup_s = Seat("0", Place("cpu"), Scheduler(1, 0.0)), {1: 0.1, 2: 0.15, 4: 0.25}
    seat.cost = cost = KeyframeCost(warmup_s, 0.6, 8)
    seat._warmup_s, seat.capacity = warmup_s, capacity_of(warmup_s)
    first = seat.capacity

    def run(seconds: float, *, busy: bool) -> int:
        for _ in range(300):
            cost.observe(1, 8, seconds, 0.0)
            seat.learn(busy=busy)
        return seat.capacity

    assert run(0.3, busy=True) < first / 2
    slow = seat.capacity
    assert run(0.3, busy=False) == slow
    assert run(0.1, busy=False) == first
    assert run(0.4, busy=False) == first, "idle, it does not fall"
    assert run(0.01, busy=False) == first, "nor rise over what was measured with full batches"
