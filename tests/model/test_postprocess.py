"""Queries to actors: threshold, order, clipping, the official top 3."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stmixer.model.decoder import DecoderOutput, StageOutput, last_arrays
from stmixer.model.postprocess import PostProcess, looks_of, person_scores, sigmoid

SIZES = torch.tensor([[100.0, 50.0]])


def output(person: list[float], boxes: Tensor | None = None, classes: int = 3) -> DecoderOutput:
    """One clip whose queries have these person scores; action logits are 0.1 x the query's index + the class's."""
    scores = torch.tensor([person])
    n = len(person)
    last = StageOutput(
        human_logits=torch.stack((scores.logit(), torch.zeros_like(scores)), -1),
        action_logits=(torch.arange(n).view(1, n, 1) / 10 + torch.arange(classes)),
        boxes_cxcyzr=torch.zeros(1, n, 4),
        boxes_xyxy_px=torch.tensor([[10.0, 10, 20, 30]]).expand(1, n, 4) if boxes is None else boxes.view(1, n, 4),
        points_xyz=torch.zeros(1, n, 1, 1, 3),
    )
    wrong = StageOutput(-last.human_logits, -last.action_logits, *[torch.zeros(1, n, 4)] * 2, last.points_xyz)
    return DecoderOutput((wrong, last), torch.zeros(1, n, 4), torch.zeros(1, n, 4))


def test_threshold_keeps_query_order() -> None:
    (found,) = PostProcess(0.6)(*last_arrays(output([0.61, 0.2, 0.99, 0.59, 0.7]), SIZES))
    assert found.queries.tolist() == [0, 2, 4]
    torch.testing.assert_close(torch.from_numpy(found.person_scores), torch.tensor([0.61, 0.99, 0.7]))


def test_threshold_is_inclusive() -> None:
    (found,) = PostProcess(0.5)(*last_arrays(output([0.5, 0.4999]), SIZES))
    assert found.queries.tolist() == [0]


def test_action_scores_are_not_multiplied() -> None:
    (found,) = PostProcess(0.6)(*last_arrays(output([0.1, 0.7]), SIZES))
    torch.testing.assert_close(torch.from_numpy(found.action_scores), (torch.tensor([[0.1, 1.1, 2.1]])).sigmoid())


def test_nothing_passes() -> None:
    (found,) = PostProcess(0.6)(*last_arrays(output([0.1, 0.2]), SIZES))
    assert found.queries.shape == (0,)
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.action_scores.shape == (0, 3)


def test_top_3_best_first_where_none_passes() -> None:
    post = PostProcess(0.6, keep_top3=True)
    (found,) = post(*last_arrays(output([0.1, 0.5, 0.3, 0.2, 0.55]), SIZES))
    assert found.queries.tolist() == [4, 1, 2]
    (found,) = post(*last_arrays(output([0.1, 0.2]), SIZES))
    assert found.queries.tolist() == [1, 0], "fewer than three queries"
    (found,) = post(*last_arrays(output([0.1, 0.5, 0.9, 0.2]), SIZES))
    assert found.queries.tolist() == [2], "one passes: no filling up"


def test_boxes_are_clipped_to_the_last_pixel_and_divided_by_the_size() -> None:
    boxes = torch.tensor([[-5.0, -1, 120, 60], [10, 20, 99.5, 49.2], [200, 10, 300, 20]])
    (found,) = PostProcess(0.0)(*last_arrays(output([0.9, 0.9, 0.9], boxes), SIZES))
    expected = torch.tensor([[0, 0, 0.99, 0.98], [0.1, 0.4, 0.99, 0.98], [0.99, 0.2, 0.99, 0.4]])
    torch.testing.assert_close(torch.from_numpy(found.boxes_xyxy), expected)


def test_each_clip_by_its_own_size() -> None:
    one = output([0.9, 0.1], torch.tensor([[0.0, 0, 300, 300], [0, 0, 1, 1]]))
    stage = one.stages[-1]
    both = [torch.cat((t, t)) for t in (stage.human_logits, stage.action_logits, stage.boxes_cxcyzr)]
    two = DecoderOutput(
        (StageOutput(*both, torch.cat((stage.boxes_xyxy_px,) * 2), stage.points_xyz),), torch.empty(0), torch.empty(0)
    )
    first, second = PostProcess(0.6)(*last_arrays(two, torch.tensor([[100.0, 50.0], [200.0, 400.0]])))
    torch.testing.assert_close(torch.from_numpy(first.boxes_xyxy), torch.tensor([[0, 0, 0.99, 0.98]]))
    torch.testing.assert_close(torch.from_numpy(second.boxes_xyxy), torch.tensor([[0, 0, 199 / 200, 300 / 400]]))


def test_scores_are_torchs() -> None:
    """To 1e-6, out to logits whose powers overflow in float32."""
    logits = torch.cat((torch.linspace(-200, 200, 4001), torch.randn(1000)))
    human = torch.stack((logits, logits.flip(0)), -1)
    with np.errstate(all="raise", under="ignore"):
        actions, people = sigmoid(logits.numpy()), person_scores(human.numpy())
    assert actions.dtype == people.dtype == np.float32
    np.testing.assert_allclose(actions, logits.sigmoid().numpy(), atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(people, human.softmax(-1)[..., 0].numpy(), atol=1e-6, rtol=1e-5)


def test_numbers_that_are_none_are_nobody() -> None:
    logits = np.full((1, 2, 2), np.nan, np.float32)
    (found,) = PostProcess(0.0)(logits, np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 4), np.float32), SIZES.numpy())
    assert not len(found.queries)


def test_what_people_are_told_apart_by_are_unit_vectors_of_their_own_queries() -> None:
    spatial, temporal = np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32)
    spatial[1], temporal[1] = (3.0, 0.0), (0.0, 4.0)
    spatial[3], temporal[3] = (0.0, 2e5), (0.0, 0.0)
    temporal[2] = (np.nan, 1.0)
    looks = looks_of(spatial, temporal, np.array([3, 1, 2, 0]))
    assert looks.dtype == np.float16
    wanted = [(0, 1, 0, 0), (0.6, 0, 0, 0.8), (0, 0, 0, 0), (0, 0, 0, 0)]
    assert np.abs(looks - np.array(wanted)).max() < 1e-3
    assert looks_of(spatial, temporal, np.array([], np.int64)).shape == (0, 4)
