"""Every variant and ablation: forward and backward at two sizes and two batch sizes, no parameter without gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from narrow import ABLATIONS, BACKBONES, LONG_TERM, narrow
from torch import Tensor

from stmixer.model.config import DetectorConfig
from stmixer.model.detector import Detector, build, skeleton
from stmixer.model.foreign.published_names import published_name
from stmixer.model.zoo import VARIANTS

SIZES = [(1, 64, 96), (2, 96, 64)]
"""Batch, height and width, px."""


def inputs(config: DetectorConfig, batch: int, height: int, width: int, seed: int = 0) -> list[Tensor]:
    """What a detector takes; one clip is smaller than the padded size, and of a bank not all is there."""
    draw = torch.Generator().manual_seed(seed)
    clip = torch.randn(batch, 3, config.clip.frames, height, width, generator=draw)
    sizes = torch.tensor([[width - 8.0 * i, height - 5.0 * i] for i in range(batch)])
    if config.long_term is None:
        return [clip, sizes]
    bank = torch.randn(batch, config.long_term.entries, 2 * config.decoder.dim, generator=draw)
    mask = torch.rand(bank.shape[:2], generator=draw) < 0.7
    return [clip, sizes, bank, mask]


def check(detector: Detector, batch: int, height: int, width: int) -> None:
    decoder = detector.config.decoder
    detector.zero_grad()
    output = detector(*inputs(detector.config, batch, height, width))
    assert len(output.stages) == decoder.stages
    draw = torch.Generator().manual_seed(1)
    loss = torch.zeros(())
    for stage in output.stages:
        assert stage.human_logits.shape == (batch, decoder.queries, 2)
        assert stage.action_logits.shape == (batch, decoder.queries, decoder.classes)
        assert stage.boxes_cxcyzr.shape == stage.boxes_xyxy_px.shape == (batch, decoder.queries, 4)
        assert stage.points_xyz.shape == (batch, decoder.queries, decoder.groups, decoder.points, 3)
        for value in (stage.human_logits, stage.action_logits, stage.boxes_xyxy_px / 50):
            assert value.isfinite().all()
            loss = loss + (value * torch.randn(value.shape, generator=draw)).sum()
    assert output.spatial_queries.shape == output.temporal_queries.shape == (batch, decoder.queries, decoder.dim)
    if detector.person_head is not None:  # its boxes are where queries start, which takes no gradient
        frames = inputs(detector.config, batch, height, width)[0][:, :, 0]
        loss = loss + (detector.person_head(detector.backbone(frames)).boxes_xyxy_px / 50).sum()
    loss.backward()
    without = [k for k, p in detector.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == [], f"no gradient for {without}"
    assert all(p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("name", [*BACKBONES, *ABLATIONS, *LONG_TERM])
def test_narrow(filled, name: str) -> None:
    detector = filled(narrow(name))
    for batch, height, width in SIZES:
        check(detector, batch, height, width)


SLOW = ("slowonly_r50", "slowfast_r50", "rt_lite0", "rt_resnet18", "rt_nano")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else pytest.mark.drill) for n in VARIANTS if n != "tiny"],
)
def test_full(filled, name: str) -> None:
    detector = filled(VARIANTS[name])
    for batch, height, width in SIZES:
        check(detector, batch, height, width)


@pytest.mark.drill
@pytest.mark.parametrize("name", [n for n in ABLATIONS if n not in ("stages", "queries", "points", "coupled_moving")])
def test_full_ablations(filled, name: str) -> None:
    """The paper's own width and depth on SlowOnly-R50, with the ablation's own N, M and points."""
    base, changes = VARIANTS["slowonly_r50"], dict(ABLATIONS[name])
    space = changes.pop("feature_space", "lateral")
    detector = filled(replace(base, feature_space=space, decoder=replace(base.decoder, **changes)))
    for batch, height, width in SIZES:
        check(detector, batch, height, width)


@pytest.mark.parametrize("name", [*BACKBONES, *ABLATIONS, *LONG_TERM])
def test_initial_weights(name: str) -> None:
    """Finite, the same twice, and of the published start: no offset but the bias, boxes the whole frame."""
    config = narrow(name)
    detector, again = build(config, seed=5), build(config, seed=5)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in detector.state_dict().items())
    assert all(v.isfinite().all() for v in detector.state_dict().values())
    with torch.inference_mode():
        output = detector(*inputs(config, 1, 64, 96))
    for stage in output.stages:
        whole = torch.tensor([0.0, 0.0, 96.0, 64.0]).expand(1, config.decoder.queries, 4)
        torch.testing.assert_close(stage.boxes_xyxy_px, whole, atol=1e-3, rtol=0)
        assert stage.action_logits.sigmoid().mean() == pytest.approx(0.01, abs=0.02)


@pytest.mark.parametrize("name", [*ABLATIONS, *LONG_TERM])
def test_names_stay_apart(name: str) -> None:
    names = list(skeleton(narrow(name)).state_dict())
    assert len({published_name(k) for k in names}) == len(names)


def alone_as_in_batch(detector: Detector, given: list[Tensor]) -> None:
    with torch.inference_mode():
        together = detector(*given).stages[-1]
        for i in range(len(given[0])):
            alone = detector(*(x[i : i + 1] for x in given)).stages[-1]
            for name in ("human_logits", "action_logits", "boxes_xyxy_px"):
                actual, expected = getattr(alone, name)[0], getattr(together, name)[i]
                assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max(), name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", [*BACKBONES, *ABLATIONS, *LONG_TERM])
def test_a_clip_alone_is_the_clip_in_a_batch(filled: Callable[..., Detector], name: str, seed: int) -> None:
    alone_as_in_batch(filled(narrow(name), seed), inputs(narrow(name), 3, 64, 64, seed))
