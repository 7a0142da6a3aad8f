"""The dense person head's loss, on cells made up by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stmixer.trainer.data.targets import Target
from stmixer.trainer.training.dense_loss import BOX, LEAST_TARGET, DenseLoss
from stmixer.trainer.training.overlap import iou


@dataclass(frozen=True)
class Cells:
    """A head's cells."""

    logits: Tensor
    boxes_xyxy_px: Tensor
    centres_xy_px: Tensor


def grid(width: int, height: int, stride: int) -> Tensor:
    """The centres of a map's cells, row by row."""
    ys, xs = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
    return (torch.stack((xs, ys), -1).reshape(-1, 2) + 0.5) * stride


def around(centres: Tensor, side: float) -> Tensor:
    """A square of this side around each centre."""
    return torch.cat((centres - side / 2, centres + side / 2), -1)


def target(people: list[tuple[float, ...]], ignored: list[tuple[float, ...]] | None = None) -> Target:
    n = len(people)
    none = torch.zeros(n, 2)
    return Target(
        torch.tensor(people).reshape(-1, 4), none, none.bool(), torch.tensor(ignored or []).reshape(-1, 4).float()
    )


CENTRES = grid(64, 32, 8)
"""4 rows of 8 cells."""


def assigned(boxes: Tensor, people: list[tuple[float, ...]], scores: Tensor | None = None, **more: float) -> Tensor:
    chance = torch.full((len(CENTRES),), 0.5) if scores is None else scores
    return DenseLoss(**more).assign(chance, boxes, CENTRES, torch.tensor(people)).person  # type: ignore[arg-type]


def test_only_cells_inside_a_person_answer_for_them() -> None:
    people = [(8.0, 8.0, 24.0, 24.0), (40.0, 0.0, 64.0, 16.0)]
    person = assigned(around(CENTRES, 16), people).reshape(4, 8)
    wanted = torch.full((4, 8), -1)
    wanted[1:3, 1:3] = 0
    wanted[0:2, 5:8] = 1
    assert torch.equal(person, wanted)


def test_those_that_fit_best_are_chosen_by_score_and_box_together() -> None:
    boxes = around(CENTRES, 16)
    person = [(8.0, 8.0, 24.0, 24.0)]
    inside = [9, 10, 17, 18]
    boxes[10] = torch.tensor((8.0, 8.0, 24.0, 24.0))
    assert (assigned(boxes, person, best=1) == 0).nonzero().flatten().tolist() == [10]
    sure = torch.full((len(CENTRES),), 0.001)
    sure[[9, 17]] = 0.9
    chosen = assigned(boxes, person, sure, best=2, beta=0.5)
    assert (chosen == 0).nonzero().flatten().tolist() == [9, 17], "a score outweighs a box where beta lets it"
    assert (assigned(boxes, person) == 0).nonzero().flatten().tolist() == inside


def test_a_cell_goes_to_the_person_whom_it_fits_best() -> None:
    near, far = (0.0, 0.0, 24.0, 32.0), (8.0, 0.0, 56.0, 32.0)
    boxes = torch.tensor(far).repeat(len(CENTRES), 1)
    boxes[9] = torch.tensor(near)
    person = assigned(boxes, [near, far], best=32)
    assert person[9] == 0
    assert person[10] == 1, "inside both, with the other's box"


def test_of_two_people_with_one_box_the_first_has_the_cells() -> None:
    same = (8.0, 8.0, 24.0, 24.0)
    person = assigned(around(CENTRES, 16), [same, same])
    assert set(person.tolist()) == {-1, 0}


def test_a_person_between_the_centres_has_the_nearest_cell() -> None:
    person = assigned(around(CENTRES, 4), [(21.0, 13.0, 25.0, 18.0)])
    assert (person >= 0).nonzero().flatten().tolist() == [10]


def test_what_cells_are_taught_is_how_well_they_fit() -> None:
    people = torch.tensor([(8.0, 8.0, 24.0, 24.0), (40.0, 8.0, 44.0, 12.0)])
    boxes = around(CENTRES, 16)
    boxes[9] = torch.tensor((8.0, 8.0, 24.0, 20.0))
    boxes[13] = torch.tensor((0.0, 24.0, 8.0, 32.0))
    found = DenseLoss().assign(torch.full((len(CENTRES),), 0.5), boxes, CENTRES, people)
    assert found.target[9] == pytest.approx(0.75), "the best cell: its IoU"
    other = float(iou(boxes[10], people[0]))
    assert found.target[10] == pytest.approx(0.75 * (other / 0.75) ** 6, rel=1e-4)
    assert found.target[13] == pytest.approx(LEAST_TARGET), "its box is far from the person, who is there all the same"
    assert (found.target[found.person < 0] == 0).all()


def test_the_terms_by_hand() -> None:
    logits = torch.full((1, len(CENTRES)), -30.0)
    logits[0, 9] = 1.0
    boxes = around(CENTRES, 16)[None].clone()
    boxes[0, 9] = torch.tensor((8.0, 8.0, 24.0, 20.0))
    losses = DenseLoss(best=1)(Cells(logits, boxes, CENTRES), [target([(8.0, 8.0, 24.0, 24.0)])])
    score = 1 / (1 + math.exp(-1))
    entropy = -(0.75 * math.log(score) + 0.25 * math.log(1 - score))
    assert float(losses.terms["loss_dense_score"]) == pytest.approx((0.75 - score) ** 2 * entropy, rel=1e-4)
    assert float(losses.terms["loss_dense_box"]) == pytest.approx(0.75 * 0.25, rel=1e-4), "over at least 1"
    assert float(losses.total) == pytest.approx((0.75 - score) ** 2 * entropy + BOX * 0.75 * 0.25, rel=1e-4)


def test_nobody_is_taught_to_be_absent_in_an_area_to_ignore() -> None:
    logits = torch.zeros(1, len(CENTRES), requires_grad=True)
    area, person = (0.0, 0.0, 32.0, 32.0), (8.0, 8.0, 24.0, 24.0)
    cells = Cells(logits, around(CENTRES, 16)[None], CENTRES)
    DenseLoss()(cells, [target([person], [area])]).total.backward()
    assert logits.grad is not None
    moved = (logits.grad.reshape(4, 8) != 0).int()
    wanted = torch.ones(4, 8, dtype=torch.int32)
    wanted[:, :4] = 0
    wanted[1:3, 1:3] = 1
    assert torch.equal(moved, wanted), "the person's own cells are taught there too"


def test_pictures_without_people_teach_background() -> None:
    logits = torch.zeros(2, len(CENTRES), requires_grad=True)
    boxes = around(CENTRES, 16).repeat(2, 1, 1).requires_grad_()
    losses = DenseLoss()(Cells(logits, boxes, CENTRES), [target([]), target([])])
    assert losses.terms["loss_dense_box"] == 0
    losses.total.backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()
    assert boxes.grad is not None, "a head without gradient would stop DistributedDataParallel"
    assert (boxes.grad == 0).all()


def test_half_precision_cells_are_summed_in_single() -> None:
    people = [target([(8.0, 8.0, 24.0, 24.0)])]
    exact = DenseLoss()(Cells(torch.full((1, 32), 0.5), around(CENTRES, 16)[None], CENTRES), people).total
    half = DenseLoss()(
        Cells(torch.full((1, 32), 0.5).bfloat16(), around(CENTRES, 16)[None].bfloat16(), CENTRES), people
    ).total
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact), rel=1e-6)


def test_a_free_table_of_cells_finds_everybody_by_this_loss_alone() -> None:
    """Two frames, strides 8 and 16: a crowd of four, one of them 6 px wide, and a frame with one person and an area to
    ignore. The best cells are the people, each once, and nobody else is found."""
    strides = torch.cat([torch.full((len(grid(96, 64, s)),), float(s)) for s in (8, 16)])
    centres = torch.cat([grid(96, 64, s) for s in (8, 16)])
    frames = [
        target([(5, 5, 21, 60), (15, 8, 30, 62), (60, 20, 66, 34), (70, 10, 95, 30)]),
        target([(40, 20, 90, 50)], [(0, 0, 32, 64)]),
    ]
    logits = torch.full((2, len(centres)), -4.0, requires_grad=True)
    sides = torch.zeros(2, len(centres), 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits, sides], lr=0.1)

    def cells() -> Cells:
        out = sides.exp() * strides[:, None]
        return Cells(logits, torch.cat((centres - out[..., :2], centres + out[..., 2:]), -1), centres)

    for _ in range(250):
        optimiser.zero_grad()
        DenseLoss()(cells(), frames).total.backward()
        optimiser.step()
    last = cells()
    for frame, wanted in enumerate(frames):
        sure = last.logits[frame].sigmoid() > 0.5
        if frame == 1:
            sure &= centres[:, 0] >= 32  # what is ignored may say anything
        overlap = iou(wanted.boxes_xyxy_px[:, None], last.boxes_xyxy_px[frame][sure][None])
        assert (overlap.amax(1) > 0.8).all(), "everybody is found"
        assert (overlap.amax(0) > 0.5).all(), "and whoever is found is somebody"
    ignored = (centres[:, 0] < 32) & (last.logits[1] > -5)
    assert torch.equal(last.logits[1][ignored], torch.full_like(last.logits[1][ignored], -4.0)), "not taught at all"
    assert ignored.any()
