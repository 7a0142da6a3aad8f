"""Queries that start at cells: what the dense head's cells are, which are taken, and where the decoder begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stmixer.model.box_tensors import cxcyzr_to_xyxy, pairwise_iou, whole_frame_cxcyzr
from stmixer.model.config import ConfigError
from stmixer.model.cost import multiply_adds
from stmixer.model.detector import Detector, build
from stmixer.model.labels import PERSON
from stmixer.model.person_head import PERSON_PRIOR, Cells, PersonHead, product_logit
from stmixer.model.starts import ABSENT_LOGIT, MAX_LOGIT, best_cells, keyframe_starts
from stmixer.model.zoo import variant

# eight whole-frame queries beside the forty that start at cells
NANO = replace(variant("rt_nano"), decoder=replace(variant("rt_nano").decoder, queries=48))


def cxcyzr(*boxes_xyxy: tuple[float, float, float, float]) -> Tensor:
    x1, y1, x2, y2 = torch.tensor(boxes_xyxy).unbind(-1)
    w, h = x2 - x1, y2 - y1
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, torch.log2(w * h) / 2, torch.log2(h / w)), -1)


def cells_of(logits: list[float], boxes_cxcyzr: Tensor) -> Cells:
    """One frame's."""
    n = len(logits)
    return Cells(
        torch.tensor([logits]),
        boxes_cxcyzr[None],
        cxcyzr_to_xyxy(boxes_cxcyzr)[None],
        torch.zeros(n, 2),
    )


# -- the head


def test_the_logit_of_a_product() -> None:
    a = torch.tensor([-30.0, -3.0, 0.0, 2.0, 40.0, 40.0], dtype=torch.float64)
    b = torch.tensor([-40.0, 5.0, 0.0, -1.0, 1.0, 50.0], dtype=torch.float64)
    torch.testing.assert_close(product_logit(a, b).sigmoid(), a.sigmoid() * b.sigmoid(), rtol=1e-9, atol=0)
    assert product_logit(torch.tensor(500.0), torch.tensor(-500.0)) == pytest.approx(-40.0)
    assert product_logit(torch.tensor(-500.0), torch.tensor(-500.0)) == pytest.approx(-80.0)
    assert product_logit(torch.tensor(500.0), torch.tensor(500.0)) == pytest.approx(40.0, abs=1.0)


def test_cells_lie_level_by_level_and_row_by_row() -> None:
    head = PersonHead((4, 8, 8, 8))
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    maps = [torch.zeros(2, c, 64 // s, 96 // s) for c, s in zip((4, 8, 8, 8), (4, 8, 16, 32), strict=True)]
    cells = head(maps)
    assert cells.logits.shape == (2, 8 * 12 + 4 * 6 + 2 * 3)
    assert cells.boxes_cxcyzr.shape == cells.boxes_xyxy_px.shape == (2, 126, 4)
    assert cells.centres_xy_px[[0, 1, 12, 96, 97, 125]].tolist() == [
        [4, 4],
        [12, 4],
        [4, 12],
        [8, 8],
        [24, 8],
        [80, 48],
    ]
    # a head that says nothing: a cell large, from its upper left corner
    torch.testing.assert_close(cells.boxes_cxcyzr[1, 13], torch.tensor([8.0, 8.0, 3.0, 0.0]))
    torch.testing.assert_close(cells.boxes_xyxy_px[0, 125], torch.tensor([48.0, 16.0, 80.0, 48.0]))
    torch.testing.assert_close(cells.logits.sigmoid(), torch.full((2, 126), 0.25))


def test_a_new_head_expects_nobody() -> None:
    detector = build(NANO, seed=1)
    assert detector.person_head is not None
    maps = [
        torch.zeros(1, c, 64 // s, 64 // s) for c, s in zip(NANO.backbone.map_channels, (4, 8, 16, 32), strict=True)
    ]
    scores = detector.person_head(maps).logits.sigmoid()
    assert 0.1 * PERSON_PRIOR**2 < scores.mean() < 10 * PERSON_PRIOR**2


# -- which cells


def test_duplicates_go_and_the_best_come_first() -> None:
    boxes = cxcyzr((0, 0, 20, 40), (1, 0, 21, 40), (50, 0, 70, 40), (0, 0, 10, 40), (100, 0, 140, 40))
    starts = best_cells(cells_of([1.0, 2.0, 3.0, 0.5, -1.0], boxes), 3)
    assert starts.shape == (1, 5, 3, 1)
    taken = starts[0, :, :, 0].T
    assert taken[:, 4].tolist() == [3.0, 2.0, 0.5]
    torch.testing.assert_close(taken[:, :4], boxes[[2, 1, 3]])


def test_what_is_taken_never_overlaps(fill) -> None:
    draw = torch.Generator().manual_seed(0)
    centres = 200 * torch.rand(4000, 2, generator=draw)
    boxes = torch.cat((centres, 4 + torch.rand(4000, 1, generator=draw), torch.rand(4000, 1, generator=draw)), 1)
    logits = torch.randn(4000, generator=draw).tolist()
    starts = best_cells(cells_of(logits, boxes), 24)[0, :, :, 0].T
    assert starts[:, 4].tolist() == sorted(starts[:, 4].tolist(), reverse=True)
    overlap = pairwise_iou(cxcyzr_to_xyxy(starts[None, :, :4]))[0].fill_diagonal_(0)
    assert overlap.max() <= 0.7
    assert starts[0, 4] == max(logits)


def test_fewer_cells_than_places() -> None:
    # the third is a duplicate, whose box must not stay behind either
    boxes = cxcyzr((0, 0, 20, 40), (50, 0, 70, 40), (51, 0, 71, 40))
    starts = best_cells(cells_of([1.0, 30.0, 2.0], boxes), 4)
    assert starts[0, 4, :, 0].tolist() == [MAX_LOGIT, 1.0, ABSENT_LOGIT, ABSENT_LOGIT]
    assert not starts[0, :4, 2:].any()
    whole = whole_frame_cxcyzr(torch.tensor([[96.0, 64.0]]))
    boxes, logits = keyframe_starts(starts.unsqueeze(1), whole)
    assert torch.equal(boxes[0, 2:], whole.expand(2, 4))
    assert not torch.equal(boxes[0, 0], whole[0])
    assert logits[0, :, 0].tolist() == [MAX_LOGIT, 1.0, -MAX_LOGIT, -MAX_LOGIT]


def test_the_keyframes_starts_are_read() -> None:
    starts = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(2, 8, 5, 3, 1)
    whole = torch.zeros(2, 4)
    assert (keyframe_starts(starts, whole)[0] == 4).all()
    assert (keyframe_starts(starts[:, 3:4], whole)[0] == 3).all()


# -- in the detector


@pytest.fixture(scope="module")
def detector(filled) -> Detector:
    made: Detector = filled(NANO)
    return made


def a_clip(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[96.0 - 7 * i, 64.0 - 3 * i] for i in range(batch)])
    return torch.rand(batch, 3, 8, 64, 96, generator=draw), sizes


@torch.inference_mode()
def test_the_first_stage_begins_at_the_keyframes_cells() -> None:
    detector = build(NANO, seed=2)  # initial weights move no box
    clip, sizes = a_clip()
    boxes = detector(clip, sizes).stages[0].boxes_cxcyzr
    starts = detector.frame_stage(clip[:, :, 4])[4]
    cells, k = starts[..., 0].transpose(1, 2), NANO.decoder.cells
    torch.testing.assert_close(boxes[:, :k], cells[..., :4], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(boxes[:, k:], whole_frame_cxcyzr(sizes).unsqueeze(1).expand(-1, boxes.shape[1] - k, -1))


@torch.inference_mode()
def test_a_cells_logit_and_features_are_in_its_query(detector: Detector) -> None:
    clip, sizes = a_clip(1)
    maps = [x.unsqueeze(0) for x in detector.frame_stage(clip[0].transpose(0, 1))]

    def queries(changed: list[Tensor]) -> Tensor:
        return detector.clip_stage(changed, sizes).spatial_queries

    plain = queries(maps)
    louder = maps[4].clone()
    louder[:, 4, 4, 0] += 1.0
    assert (queries([*maps[:4], louder]) - plain).abs().max() > 1e-4
    elsewhere = maps[4].clone()
    elsewhere[:, :4] += 1.0
    assert torch.equal(queries([*maps[:4], elsewhere]), plain), "of other frames nothing is read"


def test_boxes_take_no_gradient_and_content_does() -> None:
    detector = build(NANO, seed=3)
    clip, sizes = a_clip()
    output = detector(clip, sizes)
    sum(stage.human_logits.square().sum() for stage in output.stages).backward()
    assert detector.person_head is not None
    for level in detector.person_head.levels:
        assert level.box.weight.grad is None or not level.box.weight.grad.any()
    assert any(level.person.weight.grad.any() for level in detector.person_head.levels)
    assert detector.decoder.cell_content.weight.grad.any()


@torch.inference_mode()
def test_a_person_logit_corrects_the_starts(detector: Detector) -> None:
    """A stage without a word of its own says what the dense head said; whole-frame queries have only their own."""
    clip, sizes = a_clip(1)
    maps = [x.unsqueeze(0) for x in detector.frame_stage(clip[0].transpose(0, 1))]
    _, logits = keyframe_starts(maps[4], whole_frame_cxcyzr(sizes))
    k, weights = NANO.decoder.cells, detector.decoder.start_weight.clone()
    output = detector.clip_stage(maps, sizes)
    full = output.stages
    assert torch.equal(output.start_logits, logits)
    detector.decoder.start_weight.zero_()
    alone = detector.clip_stage(maps, sizes).stages
    detector.decoder.start_weight.copy_(weights)
    for stage, own, weight in zip(full, alone, weights, strict=True):
        more = stage.human_logits - own.human_logits
        torch.testing.assert_close(more[0, :k, PERSON], weight * logits[0, :, 0])
        assert not more[..., 1 - PERSON].any()
        assert not more[:, k:].any()
    assert torch.equal(build(NANO, seed=4).decoder.start_weight, torch.ones(NANO.decoder.stages))


@torch.inference_mode()
def test_cells_that_are_known_are_not_computed_again(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, sizes = a_clip()
    maps = detector.backbone(clip.transpose(1, 2).flatten(0, 1))
    keyframes = detector.person_head([x.unflatten(0, (2, 8))[:, 4] for x in maps])
    expected = detector(clip, sizes).stages[-1]
    monkeypatch.setattr(detector.person_head, "forward", None)
    *space, starts = detector.project(maps, keyframes)
    found = detector.clip_stage([x.unflatten(0, (2, -1)) for x in (*space, starts)], sizes).stages[-1]
    for name in ("human_logits", "action_logits", "boxes_xyxy_px"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)


def test_no_cells_no_head() -> None:
    plain = replace(NANO, decoder=replace(NANO.decoder, cells=0))
    names = build(plain).state_dict()
    assert not any("person_head" in name or "cell_content" in name or "start_weight" in name for name in names)
    assert len(build(plain).frame_stage(torch.zeros(1, 3, 64, 64))) == 4


def test_what_goes_together() -> None:
    with pytest.raises(ConfigError, match=r"decoder\.cells must be 0 to decoder\.queries"):
        replace(NANO.decoder, cells=NANO.decoder.queries + 1)
    with pytest.raises(ConfigError, match=r"decoder\.cells must be 0"):
        replace(NANO.decoder, cells=-1)
    with pytest.raises(ConfigError, match=r"decoder\.cells wants a backbone that sees frames one by one"):
        replace(variant("tiny"), decoder=replace(variant("tiny").decoder, cells=3))
    with pytest.raises(ConfigError, match=r"decoder\.cells wants"):
        replace(NANO, decoder=replace(NANO.decoder, mixing="sequential"))
    before = NANO.to_dict()
    del before["decoder"]["cells"]
    assert type(NANO).from_dict(before).decoder.cells == 0, "headers written before there were cells"


def test_the_head_has_its_own_row_of_the_cost() -> None:
    assert list(multiply_adds(NANO))[:3] == ["backbone", "feature_space", "person_head"]
