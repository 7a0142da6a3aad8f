"""Every rule of the losses, by cases small enough to do by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from training import decoder_output, stage_output

from stmixer.trainer.data.targets import Target, fully_annotated
from stmixer.trainer.training.criterion import Criterion, LossWeights
from stmixer.trainer.training.matcher import Matcher

SIZES = torch.tensor([[100.0, 200.0]])
BOXES = torch.tensor([[[10.0, 20, 30, 60], [50, 100, 90, 180]]])


def losses(targets: list[Target], boxes: Tensor = BOXES, sizes: Tensor = SIZES, **more: Tensor) -> dict[str, float]:
    output = decoder_output(stage_output(boxes, **more))
    return {name: float(value) for name, value in Criterion()(output, targets, sizes).terms.items()}


def one(box: tuple[float, ...], actions: tuple[float, ...] = (1.0, 0.0), annotated: tuple[bool, ...] = (True, True)):
    return Target(torch.tensor([box]), torch.tensor([actions]), torch.tensor([annotated]))


def test_human_is_a_weighted_mean_over_all_queries() -> None:
    logits = torch.tensor([[[2.0, 0.0], [1.0, 0.0]]])
    # query 0 is the person (weight 1), query 1 background (weight 0.1)
    person, background = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    expected = (person + 0.1 * background) / 1.1
    assert losses([one((10, 20, 30, 60))], human_logits=logits)["loss_ce"] == pytest.approx(expected, rel=1e-5)


def test_boxes_are_summed_over_matches_and_divided_by_their_number() -> None:
    people = fully_annotated(torch.tensor([[20.0, 20, 40, 60], [50, 100, 90, 180]]), torch.zeros(2, 2))
    found = losses([people])
    assert found["loss_bbox"] == pytest.approx(0.2 / 2, rel=1e-5)  # (0.1 + 0.1 over the width) and 0
    assert found["loss_giou"] == pytest.approx((1 - 1 / 3) / 2, rel=1e-5)


def test_one_to_many_divides_by_what_was_wanted() -> None:
    stage = stage_output(torch.tensor([[[10.0, 20, 30, 60], [20, 20, 40, 60]]]))
    criterion = Criterion(matcher=Matcher(one_to_many=2))
    found = criterion(decoder_output(stage, stage), [one((10, 20, 30, 60))], SIZES).terms
    assert float(found["loss_bbox"]) == 0
    assert float(found["loss_bbox_0"]) == pytest.approx(0.2 / 2, rel=1e-5)  # 0 of one query and 0.2 of the other


def test_unmatched_people_still_count_in_the_divisor() -> None:
    people = fully_annotated(torch.tensor([[20.0, 20, 40, 60], [5, 5, 6, 6]]), torch.zeros(2, 2))
    found = losses([people], boxes=BOXES[:, :1])
    assert found["loss_bbox"] == pytest.approx(0.2 / 2, rel=1e-5)


def test_action_is_a_mean_over_matched_entries() -> None:
    logits = torch.tensor([[[1.0, -1.0], [9.0, 9.0]]])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-1))) / 2
    assert losses([one((10, 20, 30, 60))], action_logits=logits)["loss_bce"] == pytest.approx(expected, rel=1e-5)


def test_labels_that_a_set_does_not_annotate_cost_nothing() -> None:
    logits = torch.tensor([[[1.0, 5.0], [0.0, 0.0]]])
    found = losses([one((10, 20, 30, 60), (1, 0), (True, False))], action_logits=logits)
    assert found["loss_bce"] == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-5)


def test_a_person_of_unknown_action_is_a_person() -> None:
    known, unknown = one((10, 20, 30, 60)), one((10, 20, 30, 60), (0, 0), (False, False))
    a, b = losses([known]), losses([unknown])
    assert b["loss_bce"] == 0
    assert {k: a[k] for k in ("loss_ce", "loss_bbox", "loss_giou")} == {
        k: b[k] for k in ("loss_ce", "loss_bbox", "loss_giou")
    }


def test_a_receiver_is_a_negative_for_all_labels() -> None:
    """``interaction``: annotated, and does nothing."""
    logits = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])
    found = losses([one((10, 20, 30, 60), (0, 0))], action_logits=logits)
    expected = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(2))) / 2
    assert found["loss_bce"] == pytest.approx(expected, rel=1e-5)


def test_clips_without_people() -> None:
    nobody = fully_annotated(torch.zeros(0, 4), torch.zeros(0, 2))
    boxes = BOXES.clone().requires_grad_()
    actions = torch.zeros(1, 2, 2, requires_grad=True)
    output = decoder_output(stage_output(boxes, action_logits=actions))
    result = Criterion()(output, [nobody], SIZES)
    values = {name: value.item() for name, value in result.terms.items()}
    assert (values["loss_bbox"], values["loss_giou"], values["loss_bce"]) == (0, 0, 0)
    assert values["loss_ce"] == pytest.approx(math.log(2), rel=1e-5)
    result.total.backward()
    assert boxes.grad is not None
    assert actions.grad is not None, "a head without gradient would stop DistributedDataParallel"


def test_an_empty_clip_beside_a_full_one() -> None:
    nobody = fully_annotated(torch.zeros(0, 4), torch.zeros(0, 2))
    alone = losses([one((20, 20, 40, 60))])
    both = losses([nobody, one((20, 20, 40, 60))], BOXES.repeat(2, 1, 1), SIZES.repeat(2, 1))
    assert both["loss_bbox"] == pytest.approx(alone["loss_bbox"])
    assert both["loss_bce"] == pytest.approx(alone["loss_bce"])


def test_terms_of_all_stages_and_their_sum() -> None:
    output = decoder_output(stage_output(BOXES), stage_output(BOXES + 5), stage_output(BOXES - 5))
    people = [one((10, 20, 30, 60))]
    terms = {f"loss_{t}{s}" for t in ("ce", "bbox", "giou", "bce") for s in ("", "_0", "_1")}
    plain = Criterion(divisor=1.0)(output, people, SIZES)
    assert plain.terms.keys() == terms
    weights = {"ce": 2, "bbox": 2, "giou": 2, "bce": 24}
    total = sum(weights[name.split("_")[1]] * float(value) for name, value in plain.terms.items())
    assert float(plain.total) == pytest.approx(total, rel=1e-5)
    assert float(Criterion()(output, people, SIZES).total) == pytest.approx(total / 12, rel=1e-5)
    assert float(Criterion(divisor=24.0)(output, people, SIZES).total) == pytest.approx(total / 24, rel=1e-5)
    double = Criterion(LossWeights(action=48.0), divisor=1.0)(output, people, SIZES)
    extra = 24 * sum(float(v) for k, v in plain.terms.items() if k.startswith("loss_bce"))
    assert float(double.total) == pytest.approx(total + extra, rel=1e-5)


def test_half_precision_outputs_are_summed_in_single() -> None:
    people = [one((10, 20, 30, 60))]
    exact = losses(people, action_logits=torch.full((1, 2, 2), 0.5))
    half = losses(people, action_logits=torch.full((1, 2, 2), 0.5, dtype=torch.bfloat16))
    assert half["loss_bce"] == pytest.approx(exact["loss_bce"], rel=1e-6)


def ignoring(target: Target, *areas: tuple[float, ...]) -> Target:
    return Target(target.boxes_xyxy_px, target.actions, target.annotated, torch.tensor(areas))


def test_queries_inside_an_area_to_ignore_are_not_taught_to_be_background() -> None:
    """By at least half of their own area, whatever they are of the area's; and only those that answer for nobody."""
    boxes = torch.tensor([[[10.0, 20, 30, 60], [50, 100, 90, 180], [60, 110, 80, 130], [0, 0, 100, 200]]])
    logits = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]]])
    person = one((10, 20, 30, 60))
    area = (0.0, 0.0, 70.0, 200.0)  # all of query 0, half of 1 and 2, and 0.7 of the whole frame

    def background(logit: float) -> float:
        return 0.1 * math.log(1 + math.exp(logit))

    found = math.log(1 + math.exp(-2))
    alone = losses([ignoring(person, area)], boxes, human_logits=logits)
    assert alone["loss_ce"] == pytest.approx(found, rel=1e-5), "all but the person's own query are left out"
    narrow = losses([ignoring(person, (0.0, 0.0, 69.0, 150.0))], boxes, human_logits=logits)
    expected = (found + background(1) + background(0.5)) / 1.2
    assert narrow["loss_ce"] == pytest.approx(expected, rel=1e-5), "the whole frame's query lies inside by 0.5175"
    none = losses([person], boxes, human_logits=logits)
    assert none["loss_ce"] == pytest.approx((found + background(1) + background(0.5) + background(0)) / 1.3, rel=1e-5)
    others = {name: value for name, value in none.items() if name != "loss_ce"}
    assert {name: alone[name] for name in others} == others


def test_areas_are_those_of_their_own_clip() -> None:
    nobody = fully_annotated(torch.zeros(0, 4), torch.zeros(0, 2))
    logits = torch.tensor([[[2.0, 0.0], [1.0, 0.0]], [[3.0, 0.0], [-1.0, 0.0]]])
    targets = [nobody, ignoring(nobody, (0.0, 0.0, 40.0, 80.0), (1.0, 1.0, 2.0, 2.0))]
    found = losses(targets, BOXES.repeat(2, 1, 1), SIZES.repeat(2, 1), human_logits=logits)
    # of the second clip, the first query is ignored
    expected = sum(math.log(1 + math.exp(logit)) for logit in (2, 1, -1)) / 3
    assert found["loss_ce"] == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_which_all_is_ignored() -> None:
    nobody = ignoring(fully_annotated(torch.zeros(0, 4), torch.zeros(0, 2)), (0.0, 0.0, 100.0, 200.0))
    output = decoder_output(stage_output(BOXES.clone().requires_grad_()))
    for normaliser in ("rank", "global"):
        result = Criterion(normaliser=normaliser)(output, [nobody], SIZES)
        assert result.total.item() == 0


def softplus(logit: float) -> float:
    return math.log(1 + math.exp(logit))


def test_a_person_score_that_is_taught_its_overlap() -> None:
    """The matched query is taught its box's IoU with the IoU's weight, the others 0 with 0.75 p², over the people."""
    boxes = torch.tensor([[[20.0, 20, 40, 60], [50, 100, 90, 180], [0, 0, 100, 200]]])
    logits = torch.tensor([[[2.0, 0.5], [1.0, 0.0], [-1.0, 2.0]]])
    output = decoder_output(stage_output(boxes, human_logits=logits))
    people = one((10, 20, 30, 60))
    overlap = 1 / 3
    matched = overlap * (overlap * softplus(-1.5) + (1 - overlap) * softplus(1.5))
    others = sum(0.75 / (1 + math.exp(-d)) ** 2 * softplus(d) for d in (1.0, -3.0))
    found = Criterion(person_score="overlap")(output, [people], SIZES).terms
    assert float(found["loss_ce"]) == pytest.approx(matched + others, rel=1e-5)
    ignored = Criterion(person_score="overlap")(output, [ignoring(people, (0.0, 0.0, 100.0, 200.0))], SIZES).terms
    assert float(ignored["loss_ce"]) == pytest.approx(matched, rel=1e-5), "who answers for somebody is taught"
    plain = Criterion()(output, [people], SIZES).terms
    assert {k: float(v) for k, v in found.items() if k != "loss_ce"} == {
        k: float(v) for k, v in plain.items() if k != "loss_ce"
    }


def test_overlap_of_two_people_and_of_nobody() -> None:
    boxes = torch.tensor([[[10.0, 20, 30, 60], [50, 100, 90, 180]]])
    people = fully_annotated(torch.tensor([[10.0, 20, 30, 60], [50, 100, 90, 180]]), torch.zeros(2, 2))
    logits = torch.tensor([[[3.0, 0.0], [-1.0, 0.0]]], requires_grad=True)
    output = decoder_output(stage_output(boxes, human_logits=logits))
    criterion = Criterion(person_score="overlap", divisor=1.0)
    assert float(criterion(output, [people], SIZES).terms["loss_ce"].detach()) == pytest.approx(
        (softplus(-3) + softplus(1)) / 2, rel=1e-5
    )
    nobody = fully_annotated(torch.zeros(0, 4), torch.zeros(0, 2))
    empty = criterion(output, [nobody], SIZES)
    expected = sum(0.75 / (1 + math.exp(-d)) ** 2 * softplus(d) for d in (3.0, -1.0))
    assert float(empty.terms["loss_ce"].detach()) == pytest.approx(expected, rel=1e-5), "divided by one where nobody is"
    (gradient,) = torch.autograd.grad(empty.total, logits)
    assert (gradient[0, :, 0] > 0).all(), "both scores are to fall"


def test_of_two_boxes_at_one_person_the_better_is_to_score_higher() -> None:
    boxes = torch.tensor([[[10.0, 20, 30, 60], [14.0, 20, 34, 60]]])
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    output = decoder_output(stage_output(boxes, human_logits=logits))
    total = Criterion(person_score="overlap")(output, [one((10, 20, 30, 60))], SIZES).total
    (gradient,) = torch.autograd.grad(total, logits)
    assert gradient[0, 0, 0] < 0 < gradient[0, 1, 0]
