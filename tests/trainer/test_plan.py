"""Order: every keyframe, in proportion, the same from anywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from stmixer.trainer.data.plan import Plan, in_order
from stmixer.trainer.errors import TrainError


def drawn(plan: Plan, epoch: int = 0) -> list[tuple[int, int]]:
    return [(d.source, d.keyframe) for batch in plan.batches(epoch) for d in batch]


def test_every_keyframe_once_and_the_last_batch_filled_up() -> None:
    plan = Plan((10, 3), None, 13, 4)
    order = drawn(plan)
    assert len(plan) == 4
    assert len(order) == 16
    assert set(order) == {(0, i) for i in range(10)} | {(1, i) for i in range(3)}
    assert max(Counter(order[:13]).values()) == 1


def test_weights_share_the_clips() -> None:
    counts = Counter(source for source, _ in drawn(Plan((1000, 10, 50), (1.0, 2.0, 1.0), 400, 8)))
    assert counts == {0: 100, 1: 200, 2: 100}


def test_a_small_set_comes_round_evenly() -> None:
    counts = Counter(drawn(Plan((1000, 10), (1.0, 1.0), 200, 8)))
    assert {counts[1, i] for i in range(10)} == {10}


def test_processes_deal_out_the_single_process_batches() -> None:
    whole = Plan((20,), None, 20, 8).batches(3)
    halves = [Plan((20,), None, 20, 8, rank, 2).batches(3) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plan = Plan((50,), None, 50, 5, seed=1)
    assert plan.batches(2) == Plan((50,), None, 50, 5, seed=1).batches(2)
    assert drawn(plan, 0) != drawn(plan, 1)
    assert drawn(plan, 0) != drawn(Plan((50,), None, 50, 5, seed=2), 0)
    seeds = [d.seed for epoch in (0, 1) for batch in plan.batches(epoch) for d in batch]
    assert len(set(seeds)) == 100, "no two clips are augmented alike"


def test_a_batch_that_cannot_be_dealt() -> None:
    with pytest.raises(TrainError, match="batch_size 5 cannot be dealt to 2 processes"):
        Plan((10,), None, 10, 5, 0, 2)


def test_evaluation_takes_each_keyframe_once_in_batches_of_one_video() -> None:
    videos = [np.array([0, 0, 0, 1, 1]), np.array([0, 0])]
    batches = in_order(videos, 2)
    assert [[(d.source, d.keyframe) for d in batch] for batch in batches] == [
        [(0, 0), (0, 1)], [(0, 2)], [(0, 3), (0, 4)], [(1, 0), (1, 1)]
    ]  # fmt: skip
    ranks = [in_order(videos, 2, rank, 3) for rank in range(3)]
    assert sorted(d.keyframe for rank in ranks for batch in rank for d in batch) == [0, 0, 1, 1, 2, 3, 4]


@pytest.mark.parametrize("world", [2, 5])
def test_no_process_is_without_an_evaluation_batch(world: int) -> None:
    """More processes than batches: those beyond do one that another does too."""
    ranks = [in_order([np.array([0, 0])], 8, rank, world) for rank in range(world)]
    assert [[d.keyframe for d in batch] for rank in ranks for batch in rank] == [[0, 1]] * world
