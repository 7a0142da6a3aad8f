"""The decoder's parts against slow, plain references written from docs/detector.md, and the initial weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stmixer.model.box_tensors import box_sizes, cxcyzr_to_xyxy, pairwise_iof, refine_cxcyzr, whole_frame_cxcyzr
from stmixer.model.detector import Detector, build
from stmixer.model.mixing import AdaptiveMixing
from stmixer.model.sampling import BagSampler, GridSampler, PointGenerator, level_weights, make_sampler, sample
from stmixer.model.stage import SelfAttention, box_position_encoding
from stmixer.model.zoo import variant

STRIDES = (4, 8, 16, 32)
TINY = variant("tiny")


def read_bilinear(plane: np.ndarray, x: float, y: float, stride: int) -> np.ndarray:
    """(T, H, W) at pixel (x, y): cell centres lie at (i + 1/2) stride; zero outside the map."""
    column, row = x / stride - 0.5, y / stride - 0.5
    total = np.zeros(plane.shape[0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < plane.shape[1] and 0 <= j < plane.shape[2]:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * plane[:, i, j]
    return total


def sample_slowly(space: list[np.ndarray], points: np.ndarray) -> np.ndarray:
    """docs/detector.md, Sampling, one value at a time."""
    batch, n, groups, p, _ = points.shape
    dim, frames = space[0].shape[1:3]
    out = np.zeros((batch, groups, dim // groups, frames, n, p))
    for b, q, g, i in np.ndindex(batch, n, groups, p):
        x, y, z = points[b, q, g, i]
        weights = np.exp([-((z - 3 - k) ** 2) / 2 for k in range(4)])
        weights /= weights.sum()
        for c in range(dim // groups):
            for k, stride in enumerate(STRIDES):
                plane = space[k][b, g * (dim // groups) + c]
                out[b, g, c, :, q, i] += weights[k] * read_bilinear(plane, x, y, stride)
    return out


def test_sampling_is_the_slow_one() -> None:
    draw = np.random.RandomState(0)
    height, width = 64, 96
    space = [draw.standard_normal((2, 6, 3, height // s, width // s)) for s in STRIDES]
    points = draw.uniform(-0.3, 1.3, (2, 4, 2, 5, 3)) * [width, height, 1]
    points[..., 2] = draw.uniform(1, 8, points.shape[:-1])
    points[0, 0, 0, 0] = (0.0, 0.0, 4.0)  # a corner: a quarter of the corner cell
    points[0, 0, 0, 1] = (-1000.0, 20.0, 4.0)  # nowhere: zero
    actual = sample([torch.from_numpy(x) for x in space], torch.from_numpy(points), STRIDES)
    expected = sample_slowly(space, points)
    assert actual.shape == (2, 2, 3, 3, 4, 5)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-10)
    assert np.abs(expected[0, 0, ..., 0, 1]).max() == 0
    assert np.abs(expected[0, 0, ..., 0, 0]).max() > 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_both_samplers_are_the_means_of_sample(memory_format: torch.memory_format) -> None:
    """Values and gradients, maps and points outside the frame included."""
    torch.manual_seed(0)
    shape = {"dtype": torch.float64, "requires_grad": True}
    space = [torch.randn(2, 6, 3, 64 // s, 96 // s, **shape) for s in STRIDES]
    points = (torch.rand(2, 4, 2, 5, 3, dtype=torch.float64) * torch.tensor([150, 110, 7]) - 25).requires_grad_(True)
    sampled = sample(space, points, STRIDES)
    expected = sampled.mean(3).permute(0, 3, 1, 4, 2), sampled.mean(5).permute(0, 4, 1, 3, 2)
    wanted = torch.autograd.grad(expected[0].sin().sum() + expected[1].cos().sum(), [points, *space])
    maps = [x.to(memory_format=memory_format) for x in space]
    for sampler in (BagSampler(maps, STRIDES, 2), GridSampler(maps, STRIDES)):
        over_time, over_points = sampler(points)
        torch.testing.assert_close((over_time, over_points), expected, atol=1e-12, rtol=0)
        gradients = torch.autograd.grad(over_time.sin().sum() + over_points.cos().sum(), [points, *space])
        torch.testing.assert_close(gradients, wanted, atol=1e-12, rtol=0)


def test_the_sampler_of_the_device() -> None:
    maps = [torch.zeros(1, 6, 3, 64 // s, 96 // s) for s in STRIDES]
    config = replace(TINY.decoder, groups=2)
    assert isinstance(make_sampler(config, maps, STRIDES), BagSampler)
    assert isinstance(make_sampler(config, [x.to("meta") for x in maps], STRIDES), GridSampler)


def test_points_that_are_no_number_read_no_strange_memory() -> None:
    """A damaged file's points: the sum is no number either, which ``stmixer-weights verify`` reports."""
    maps = [torch.ones(1, 6, 3, 64 // s, 96 // s) for s in STRIDES]
    points = torch.tensor([math.nan, math.inf, -math.inf, 1e30]).view(1, 2, 2, 1, 1).expand(1, 2, 2, 1, 3)
    over_time, _ = BagSampler(maps, STRIDES, 2)(points)
    assert over_time[0, 0].isnan().all()


def test_level_weights() -> None:
    z = torch.tensor([3.0, 4.5, 100.0], dtype=torch.float64)
    weights = level_weights(z, 4)
    assert weights.shape == (4, 3)
    raw = torch.tensor([1.0, math.exp(-0.5), math.exp(-2), math.exp(-4.5)], dtype=torch.float64)
    torch.testing.assert_close(weights[:, 0], raw / raw.sum())
    assert weights[1, 1] == weights[2, 1] > weights[0, 1], "z = 4.5 lies between strides 8 and 16"
    assert weights[3, 2] == pytest.approx(1), "a huge box reads the coarsest map"


def test_points_follow_the_box() -> None:
    """Offsets are laid out G, P, 3; a point is the centre + offset x (w, h), its level z + dz."""
    generator = PointGenerator(8, groups=2, points=3)
    offsets = torch.arange(18.0) / 10
    with torch.no_grad():
        generator.offsets.weight.zero_()
        generator.offsets.bias.copy_(offsets)
    box = torch.tensor([[[50.0, 40.0, 5.0, 2.0]]])  # w = 2^4, h = 2^6
    points = generator(torch.zeros(1, 1, 8), box)
    assert points.shape == (1, 1, 2, 3, 3)
    expected = torch.tensor([50.0, 40.0, 5.0]) + offsets.view(2, 3, 3) * torch.tensor([16.0, 64.0, 1.0])
    torch.testing.assert_close(points[0, 0], expected)


@pytest.mark.parametrize(("groups", "rows", "rows_out"), [(2, 3, 5), (1, 4, 2)])
def test_mixing_is_a_plain_loop(groups: int, rows: int, rows_out: int) -> None:
    torch.manual_seed(0)
    dim, channels = 8, 8 // groups
    mixing = AdaptiveMixing(dim, groups, rows, rows_out).double()
    features = torch.randn(2, 3, groups, rows, channels, dtype=torch.float64)
    queries = torch.randn(2, 3, dim, dtype=torch.float64)

    def norm_relu(x: Tensor) -> Tensor:
        return ((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()).clamp(min=0)

    expected = torch.empty(2, 3, dim, dtype=torch.float64)
    per_group = channels * channels + rows_out * rows
    for b in range(2):
        for q in range(3):
            parameters = mixing.generator.weight @ queries[b, q] + mixing.generator.bias
            flat = []
            for g in range(groups):
                own = parameters[g * per_group : (g + 1) * per_group]
                m = own[: channels * channels].view(channels, channels)
                s = own[channels * channels :].view(rows_out, rows)
                x = norm_relu(features[b, q, g] @ m)
                flat.append(norm_relu(s @ x).flatten())
            expected[b, q] = mixing.out_proj.weight @ torch.cat(flat) + mixing.out_proj.bias
    torch.testing.assert_close(mixing(features, queries), expected)


def test_attention_is_torchs_own_with_a_bias() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out_proj.weight)
        theirs.out_proj.bias.copy_(ours.out_proj.bias)
    x, bias = torch.randn(2, 5, 16), torch.randn(2, 4, 5, 5)
    attended, _ = theirs(x, x, x, attn_mask=bias.flatten(0, 1), need_weights=False)
    torch.testing.assert_close(ours(x, bias), ours.norm(x + attended))


def test_iof() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 20, 10], [30, 30, 40, 50]]])
    expected = torch.tensor([[1, 0.5, 1, 0], [0.5, 1, 1, 0], [0.5, 0.5, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(pairwise_iof(boxes)[0], expected)


def test_position_encoding() -> None:
    box = torch.tensor([[[500.0, 250.0, 6.0, -1.0]]])
    encoded = box_position_encoding(box, 16)[0, 0]
    expected = [f(v / d) for v in (0.5, 0.25, 6.0, -1.0) for d in (1, 100) for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoded, torch.tensor(expected))
    assert box_position_encoding(box, 256).shape == (1, 1, 256)


def test_box_formats() -> None:
    sizes = torch.tensor([[320.0, 256.0], [128.0, 512.0]])
    whole = whole_frame_cxcyzr(sizes)
    torch.testing.assert_close(whole[1], torch.tensor([64.0, 256.0, 8.0, 2.0]))  # sqrt(2^7 2^9) = 2^8, h / w = 2^2
    torch.testing.assert_close(box_sizes(whole), sizes)
    torch.testing.assert_close(cxcyzr_to_xyxy(whole), torch.cat((torch.zeros(2, 2), sizes), 1), atol=1e-4, rtol=0)


def test_refinement() -> None:
    """The centre moves by deltas x 2^z with z before the update; then z and r add."""
    box = torch.tensor([[100.0, 50.0, 5.0, 0.5]])
    refined = refine_cxcyzr(box, torch.tensor([[0.25, -1.0, 2.0, -0.5]]))
    torch.testing.assert_close(refined, torch.tensor([[108.0, 18.0, 7.0, 0.0]]))


def run_tiny(detector: Detector) -> tuple[Tensor, object]:
    clip = torch.randn(2, 3, 4, 64, 96, generator=torch.Generator().manual_seed(0))
    output = detector(clip, torch.tensor([[96.0, 64.0], [80.0, 60.0]]))
    draw = torch.Generator().manual_seed(1)
    values = [v for s in output.stages for v in (s.human_logits, s.action_logits, s.boxes_xyxy_px / 50)]
    return sum((v * torch.randn(v.shape, generator=draw)).sum() for v in values), output


def test_every_parameter_has_a_gradient(filled) -> None:
    detector = filled(TINY)
    loss, _ = run_tiny(detector)
    loss.backward()
    without = [
        name
        for name, p in detector.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert without == [], f"no gradient for {without}"


def test_initial_weights_train_but_for_what_starts_at_zero() -> None:
    detector = build(TINY)
    loss, _ = run_tiny(detector)
    loss.backward()
    without = {name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()}
    # a box head whose last layer is zero passes nothing back to its first; all else moves
    assert without == {
        f"decoder.stages.{i}.box_head.{k}.{part}" for i in range(2) for k in (0, 1) for part in ("weight", "bias")
    }


def test_shapes_and_types() -> None:
    _, output = run_tiny(build(TINY))
    assert len(output.stages) == TINY.decoder.stages
    for stage in output.stages:
        assert stage.human_logits.shape == (2, 20, 2)
        assert stage.action_logits.shape == (2, 20, 80)
        assert stage.boxes_cxcyzr.shape == stage.boxes_xyxy_px.shape == (2, 20, 4)
        assert stage.points_xyz.shape == (2, 20, 2, 8, 3)
        torch.testing.assert_close(cxcyzr_to_xyxy(stage.boxes_cxcyzr), stage.boxes_xyxy_px)
    assert output.spatial_queries.shape == output.temporal_queries.shape == (2, 20, 32)


def test_boxes_are_not_detached_between_stages(filled) -> None:
    """The last box depends on the first stage's box head, directly: by one for one, whatever the queries do."""
    detector = filled(TINY)
    _, output = run_tiny(detector)
    first, last = output.stages[0].boxes_cxcyzr, output.stages[-1].boxes_cxcyzr
    (gradient,) = torch.autograd.grad(last[..., 3].sum(), first, retain_graph=True)
    assert gradient[..., 3].abs().min() > 0
    # z reaches the last centre through the scale of the step
    (gradient,) = torch.autograd.grad(last[..., 0].sum(), first)
    assert (gradient[..., 2] != 0).all()


def test_positions_take_no_gradient_but_tau_does(filled) -> None:
    """Boxes enter the encoding and log IoF detached: with offsets and deltas apart, no path is left."""
    stage = filled(TINY).decoder.stages[0]
    with torch.no_grad():
        stage.point_generator.offsets.weight.zero_()
    boxes = torch.tensor([[[30.0, 30, 5, 0], [40, 30, 4, 0.5]]], requires_grad=True)
    space = [torch.zeros(1, 32, 4, 64 // s, 64 // s) for s in STRIDES]  # nothing to sample
    query = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0))
    output, _, _ = stage(make_sampler(TINY.decoder, space, STRIDES), boxes, query, query)
    gradient, tau = torch.autograd.grad(output.action_logits.sum(), (boxes, stage.iof_tau), allow_unused=True)
    assert gradient is None or not gradient.any()
    assert tau is not None
    assert tau.any()


def test_whole_frame_is_the_first_box() -> None:
    """With the zero box head of the start, every stage gives the unpadded frame."""
    _, output = run_tiny(build(TINY))
    for stage in output.stages:
        expected = torch.tensor([[0.0, 0, 96, 64], [0, 0, 80, 60]]).unsqueeze(1).expand(2, 20, 4)
        torch.testing.assert_close(stage.boxes_xyxy_px, expected, atol=1e-3, rtol=0)


def test_initialise() -> None:
    """docs/detector.md, Training, Init."""
    detector = build(TINY, seed=3)
    for name, p in detector.named_parameters():
        if p.dim() > 1 and not any(part in name for part in ("queries", "generator", "box_head.3")):
            receptive = p[0, 0].numel() if p.dim() > 2 else 1
            bound = math.sqrt(6 / ((p.shape[0] + p.shape[1]) * receptive))
            assert p.abs().max() <= bound, name
            assert p.abs().max() > 0.8 * bound, name
    for queries in (detector.decoder.spatial_queries, detector.decoder.temporal_queries):
        assert abs(queries.mean()) < 0.15
        assert queries.std().item() == pytest.approx(1, abs=0.1)
    assert not torch.equal(detector.decoder.spatial_queries, detector.decoder.temporal_queries)
    for stage in detector.decoder.stages:
        assert not stage.spatial.mixing.generator.weight.any()
        assert not stage.temporal.mixing.generator.weight.any()
        assert stage.spatial.mixing.generator.bias.any()
        assert not stage.box_head.last.weight.any()
        assert not stage.box_head.last.bias.any()
        torch.testing.assert_close(stage.action_head.last.bias, torch.full((80,), -4.595), atol=1e-3, rtol=0)
        assert stage.iof_tau.min() >= 0
        assert stage.iof_tau.max() <= 4
    taus = torch.cat([stage.iof_tau for stage in detector.decoder.stages])
    assert taus.max() > 1, "uniform over 0..4, not 0..1"
    assert len(taus.unique()) == len(taus)


def test_offsets_start_uniform_over_the_box() -> None:
    generator = PointGenerator(8, groups=4, points=32)
    torch.manual_seed(0)
    generator.reset_parameters()
    offsets = generator.offsets.bias.view(4, 32, 3)
    assert not generator.offsets.weight.any()
    assert not offsets[..., 2].any()
    assert offsets[..., :2].abs().max() <= 0.5
    assert offsets[..., :2].std().item() == pytest.approx(1 / math.sqrt(12), abs=0.03)


@pytest.mark.parametrize("points", [1, 4, 16, 36])
def test_offsets_of_a_perfect_square_start_as_a_grid(points: int) -> None:
    side = math.isqrt(points)
    config = replace(TINY, decoder=replace(TINY.decoder, points=points))
    for stage in build(config).decoder.stages:
        offsets = stage.point_generator.offsets.bias.view(config.decoder.groups, points, 3)
        ticks = [-0.5 + (i + 0.5) / side for i in range(side)]
        expected = {(round(x, 5), round(y, 5)) for x in ticks for y in ticks}
        for group in offsets:
            assert {(round(x, 5), round(y, 5)) for x, y, _ in group.tolist()} == expected
        assert not offsets[..., 2].any()
