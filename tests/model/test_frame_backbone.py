"""The realtime family: frames by themselves, then the clip; classifiers' files as a start."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.layers.conv2d_same import Conv2dSame

from stmixer.model.backbones.frame import EvenSameConv2d
from stmixer.model.card import CheckpointError
from stmixer.model.config import FrameConfig
from stmixer.model.detector import Detector, build
from stmixer.model.foreign.pretrained import read_pretrained
from stmixer.model.runtimes.precision import WideProducts
from stmixer.model.runtimes.prepare import prepared
from stmixer.model.zoo import VARIANTS, variant

REALTIME = [name for name, config in VARIANTS.items() if config.backbone.per_frame]
SIZES_WH = torch.tensor([[90.0, 64.0], [96.0, 61.0]])


@pytest.fixture(scope="module", params=REALTIME)
def detector(request) -> Detector:
    return build(variant(request.param, classes=5), seed=3)


def a_clip(detector: Detector, seed: int = 0) -> torch.Tensor:
    frames = detector.config.clip.frames
    return torch.randn(2, 3, frames, 64, 96, generator=torch.Generator().manual_seed(seed))


def test_there_are_realtime_variants_that_share_their_samples() -> None:
    assert {"rt_lite0", "rt_resnet18", "rt_nano"} <= set(REALTIME)
    assert all(VARIANTS[name].clip.grid == VARIANTS[name].clip.stride for name in REALTIME)


@torch.inference_mode()
def test_two_stages_equal_one(detector: Detector) -> None:
    clip = a_clip(detector)
    whole = detector(clip, SIZES_WH)
    # frame by frame, as they arrive; then stacked
    maps = [detector.frame_stage(clip[:, :, t]) for t in range(clip.shape[2])]
    space = [torch.stack(level, 1) for level in zip(*maps, strict=True)]
    parts = detector.clip_stage(space, SIZES_WH)
    for one, two in zip(whole.stages, parts.stages, strict=True):
        for name in ("human_logits", "action_logits", "boxes_xyxy_px"):
            expected, found = getattr(one, name), getattr(two, name)
            assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("name", REALTIME)
def test_one_frame_stands_for_a_clip_in_which_nothing_moves(name: str, filled) -> None:
    detector = filled(variant(name))  # initial weights hardly mix in time
    clip = a_clip(detector)
    still = clip[:, :, :1].expand_as(clip)
    expected, found = detector(still, SIZES_WH).stages[-1], detector(clip[:, :, :1], SIZES_WH).stages[-1]
    for name in ("human_logits", "action_logits", "boxes_xyxy_px"):
        a, b = getattr(expected, name), getattr(found, name)
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    moving = detector(clip, SIZES_WH).stages[-1]
    assert (moving.action_logits - found.action_logits).abs().max() > 1e-2 * found.action_logits.abs().max()


@torch.inference_mode()
def test_maps_lie_at_their_strides(detector: Detector) -> None:
    frames = a_clip(detector)[:, :, 0]
    maps = detector.backbone(frames)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(detector.config.backbone.map_channels, (4, 8, 16, 32), strict=True)
    ]


@torch.inference_mode()
@pytest.mark.parametrize("ready", [False, True], ids=["as built", "prepared"])
def test_maps_stay_in_float32_under_autocast(detector: Detector, ready: bool) -> None:
    full, half = (prepared(detector, p) if ready else detector for p in ("fp32", "bf16"))
    frames = a_clip(detector)[:, :, 0]
    with torch.autocast("cpu", torch.bfloat16), WideProducts():
        found, projected = half.backbone(frames), half.frame_stage(frames)
    assert all(map(torch.equal, found, full.backbone(frames)))
    assert {x.dtype for x in projected[:4]} == {torch.bfloat16}
    assert all(map(torch.equal, projected[4:], full.frame_stage(frames)[4:])), "places and logits of cells"


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
def test_constant_padding_is_tensorflows_on_even_sizes(kernel: int, size: tuple[int, int]) -> None:
    theirs = Conv2dSame(6, 6, kernel, stride=2, groups=6)
    ours = EvenSameConv2d(6, 6, kernel, stride=2, groups=6)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, *size)
    assert torch.equal(ours(x), theirs(x))


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def lite_layout(name: str) -> str:
    """timm's name of a Lite0 tensor in the words of efficientnet_lite_pytorch."""
    depths = (1, 2, 2, 3, 3, 4, 1)
    if match := re.match(r"blocks\.(\d)\.(\d)\.(\w+)\.(.*)", name):
        stage, block, part, rest = int(match[1]), int(match[2]), match[3], match[4]
        parts = (
            {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            if stage == 0
            else {
                **{"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"},
                **{"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"},
            }
        )
        return f"_blocks.{sum(depths[:stage]) + block}.{parts[part]}.{rest}"
    first, dot, rest = name.partition(".")
    words = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    return words[first] + dot + rest


@pytest.mark.parametrize("layout", ["timm lite0", "lite package", "timm resnet18", "torchvision resnet18"])
def test_a_classifiers_features_are_the_backbones(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    name = "rt_resnet18" if "resnet18" in layout else "rt_lite0"
    if layout.startswith("torchvision"):
        classifier = torchvision.models.resnet18()
    else:
        classifier = timm.create_model(VARIANTS[name].backbone.network)
    for module in classifier.modules():  # norms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    tensors = classifier.state_dict()
    if layout == "lite package":
        tensors = {lite_layout(k): v for k, v in tensors.items()}
    start = read_pretrained(saved(tmp_path / "c.pth", tensors), variant(name))
    assert len(start.tensors) + len(start.left) == len(tensors)
    assert all(left.startswith(("fc.", "classifier.", "conv_head.", "bn2.")) for left in start.left)

    detector = build(variant(name))
    detector.load_state_dict(detector.state_dict() | start.tensors)
    x = torch.randn(1, 3, 64, 96)
    last = detector.backbone(x)[-1]
    with torch.inference_mode():
        if layout.startswith("torchvision"):
            body = torch.nn.Sequential(*list(classifier.children())[:-2]).eval()
            expected = body(x)
        else:
            expected = classifier.eval().forward_intermediates(x, indices=[4], intermediates_only=True)[0]
    assert (last - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    tensors = timm.create_model("tf_efficientnet_lite0").state_dict()
    lacking = {k: v for k, v in tensors.items() if k != "blocks.3.1.conv_dw.weight"} | {"blocks.9.x": torch.ones(1)}
    path = saved(tmp_path / "lacking.pth", lacking)
    with pytest.raises(CheckpointError, match=r"missing: blocks\.3\.1\.conv_dw\.weight.*\n.*not used: blocks\.9\.x"):
        read_pretrained(path, variant("rt_lite0"))
    with pytest.raises(CheckpointError, match="does not fit the backbone of rt_resnet18"):
        read_pretrained(saved(tmp_path / "lite.pth", tensors), variant("rt_resnet18"))
    with pytest.raises(CheckpointError, match="does not fit the backbone of slowonly_r50"):
        read_pretrained(path, variant("slowonly_r50"))


def test_an_unknown_network_is_refused() -> None:
    data = variant("rt_lite0").to_dict()
    data["backbone"]["network"] = "resnet19"
    with pytest.raises(ValueError, match=r"backbone\.network must be '.*_lite0' or 'resnet18' or 'yolox_nano', got"):
        type(variant("rt_lite0")).from_dict(data)
    data["backbone"] = {"kind": "sphere"}
    with pytest.raises(
        ValueError, match=r"backbone\.kind must be 'slowonly' or 'slowfast' or 'csn' or 'vit' or 'frame', got 'sphere'"
    ):
        type(variant("rt_lite0")).from_dict(data)
    assert replace(variant("rt_lite0"), backbone=FrameConfig("resnet18")).backbone.map_channels[0] == 64
