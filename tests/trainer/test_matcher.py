"""Every rule of the matching, by cases small enough to do by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from training import stage_output

from stmixer.trainer.data.targets import Target, fully_annotated
from stmixer.trainer.errors import DivergedError
from stmixer.trainer.training.matcher import Match, Matcher
from stmixer.trainer.training.overlap import generalised_iou

SIZES = torch.tensor([[100.0, 200.0]])


def target(*boxes: tuple[float, float, float, float], classes: int = 2) -> Target:
    return fully_annotated(torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes), classes))


def pairs(match: Match) -> list[tuple[int, int, int]]:
    return sorted(zip(match.clips.tolist(), match.queries.tolist(), match.people.tolist(), strict=True))


def person_logits(*probabilities: float) -> Tensor:
    p = torch.tensor(probabilities)
    return torch.stack((p.log(), (1 - p).log()), -1).unsqueeze(0)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),  # overlap 2, union 6, hull 6
        ((0, 0, 1, 1), (2, 0, 3, 1), -1 / 3),  # union 2, hull 3
        ((0, 0, 1, 1), (1, 1, 2, 2), -1 / 2),  # touching corners: union 2, hull 4
    ],
)
def test_generalised_iou(a, b, value: float) -> None:
    a, b = torch.tensor(a).float(), torch.tensor(b).float()
    assert float(generalised_iou(a, b)) == pytest.approx(value)
    stretch = torch.tensor((3.0, 0.5, 3.0, 0.5))
    assert float(generalised_iou(a * stretch, b * stretch)) == pytest.approx(value), "the unit must not matter"


def test_cost_by_hand() -> None:
    stage = stage_output(torch.tensor([[[10.0, 20, 30, 60]]]), human_logits=person_logits(0.75))
    boxes = torch.tensor([[[20.0, 20, 40, 60]]])
    # L1: 0.1 + 0 + 0.1 + 0; IoU = 400 / 1200, hull = union
    expected = 2 * 0.2 - 2 * 0.75 - 2 / 3
    assert float(Matcher().cost(stage, boxes, SIZES)) == pytest.approx(expected, abs=1e-6)


def test_near_boxes_win() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 95, 95]]])
    match = Matcher()([stage_output(boxes)], [target((81, 81, 94, 94), (1, 1, 11, 11))], SIZES)[0]
    assert pairs(match) == [(0, 0, 1), (0, 2, 0)]


def test_equal_boxes_go_to_the_likelier_person() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 3])
    stage = stage_output(boxes, human_logits=person_logits(0.2, 0.9, 0.5))
    assert pairs(Matcher()([stage], [target((0, 0, 10, 10))], SIZES)[0]) == [(0, 1, 0)]


def test_the_whole_is_cheapest_not_each_pair() -> None:
    """Greedy would give the second person its nearest query, and leave the first one far away."""
    torch.manual_seed(0)
    corner = torch.rand(1, 4, 2) * 50
    boxes = torch.cat((corner, corner + 5 + torch.rand(1, 4, 2) * 40), -1)
    corner = torch.rand(3, 2) * 50
    people = torch.cat((corner, corner + 5 + torch.rand(3, 2) * 40), -1)
    stage = stage_output(boxes, human_logits=person_logits(0.1, 0.6, 0.3, 0.9))
    cost = Matcher().cost(stage, people[None], SIZES)[0]
    best = min(sum(float(cost[q, k]) for k, q in enumerate(order)) for order in itertools.permutations(range(4), 3))
    match = Matcher()([stage], [fully_annotated(people, torch.zeros(3, 2))], SIZES)[0]
    assert float(cost[match.queries, match.people].sum()) == pytest.approx(best)


def test_clips_do_not_mix_and_may_be_empty() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]]).repeat(3, 1, 1)
    targets = [target((50, 50, 60, 60)), target(), target((0, 0, 10, 10), (50, 50, 60, 60))]
    match = Matcher()([stage_output(boxes)], targets, SIZES.repeat(3, 1))[0]
    assert pairs(match) == [(0, 1, 0), (2, 0, 0), (2, 1, 1)]


def test_nobody_anywhere() -> None:
    match = Matcher()([stage_output(torch.tensor([[[0.0, 0, 10, 10]]]))], [target()], SIZES)[0]
    assert pairs(match) == []


def test_more_people_than_queries() -> None:
    boxes = torch.tensor([[[50.0, 50, 60, 60]]])
    match = Matcher()([stage_output(boxes)], [target((0, 0, 10, 10), (50, 50, 60, 60))], SIZES)[0]
    assert pairs(match) == [(0, 0, 1)]


def test_stages_are_matched_by_themselves() -> None:
    one = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
    matches = Matcher()([stage_output(one), stage_output(one.flip(1))], [target((0, 0, 10, 10))], SIZES)
    assert [pairs(match) for match in matches] == [[(0, 0, 0)], [(0, 1, 0)]]


def test_one_to_many_in_every_stage_but_the_last() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 11, 11], [0, 0, 12, 12], [50, 50, 60, 60], [50, 50, 70, 70]]])
    people = [target((0, 0, 10, 10), (50, 50, 60, 60))]
    first, last = Matcher(one_to_many=2)([stage_output(boxes)] * 2, people, SIZES)
    assert pairs(first) == [(0, 0, 0), (0, 1, 0), (0, 3, 1), (0, 4, 1)]
    assert pairs(last) == [(0, 0, 0), (0, 3, 1)]
    assert (first.wanted, last.wanted) == (4, 2)


def test_one_to_many_takes_no_more_than_there_are_queries() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 11, 11], [50, 50, 60, 60]]])
    people = [target((0, 0, 10, 10), (50, 50, 60, 60))]
    first, _ = Matcher(one_to_many=4)([stage_output(boxes)] * 2, people, SIZES)
    assert first.wanted == 2
    nobody, _ = Matcher(one_to_many=4)([stage_output(boxes)] * 2, [target()], SIZES)
    assert nobody.wanted == 0


def test_numbers_that_are_none_end_training_in_words() -> None:
    with pytest.raises(DivergedError, match="no longer finite"):
        Matcher()([stage_output(torch.full((1, 2, 4), torch.nan))], [target((0, 0, 10, 10))], SIZES)
