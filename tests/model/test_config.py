"""Configurations are checked when they are made, and read back strictly."""

from __future__ import annotations

import copy
import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from stmixer.model.clip import window
from stmixer.model.config import (
    ClipConfig,
    ConfigError,
    CsnConfig,
    DecoderConfig,
    DetectorConfig,
    LongTermConfig,
    PreprocessConfig,
    ResNetConfig,
    VitConfig,
)
from stmixer.model.zoo import VARIANTS, variant

SLOWONLY = VARIANTS["slowonly_r50"]


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip(name: str) -> None:
    config = VARIANTS[name]
    assert config.name == name
    assert DetectorConfig.from_dict(config.to_dict()) == config
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SLOWONLY.decoder.queries = 3


def test_variant() -> None:
    assert variant("tiny") is VARIANTS["tiny"]
    assert variant("tiny", classes=24) == replace(
        VARIANTS["tiny"], decoder=replace(VARIANTS["tiny"].decoder, classes=24)
    )
    with pytest.raises(ConfigError, match="unknown model variant 'huge'; known: slowonly_r50"):
        variant("huge")
    with pytest.raises(ConfigError, match=r"decoder\.classes must be at least 1"):
        variant("tiny", classes=0)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (ClipConfig(4, 16), {"frames": 0}, "clip.frames must be at least 1"),
        (DecoderConfig(4, 16), {"stages": 10**9}, "decoder.stages may be at most 64"),
        (ClipConfig(4, 16), {"stride": 0}, "clip.stride must be at least 1"),
        (ClipConfig(4, 16), {"grid": 3}, "clip.grid must divide clip.stride 16, got 3"),
        (ClipConfig(4, 16), {"grid": 0}, "clip.grid must divide"),
        (ClipConfig(4, 16), {"grid": 32}, "clip.grid must divide"),
        (PreprocessConfig(), {"short_side": 31}, "preprocess.short_side must be at least 32"),
        (PreprocessConfig(), {"size_divisor": 16}, "preprocess.size_divisor must be 32"),
        (PreprocessConfig(), {"std": (0.2, 0.0, 0.2)}, "preprocess.std must be positive"),
        (PreprocessConfig(), {"std": (0.2, float("nan"), 0.2)}, "preprocess.std must be positive"),
        (ResNetConfig("slowonly"), {"depths": (3, 4, 0, 3)}, "backbone.depths must be positive"),
        (ResNetConfig("slowonly"), {"width": 0}, "backbone.width must be positive"),
        (ResNetConfig("slowonly"), {"temporal_kernels": (1, 1, 2, 3, 3)}, "must be odd"),
        (ResNetConfig("slowfast"), {"fast_temporal_kernels": (4, 3, 3, 3, 3)}, "must be odd"),
        (ResNetConfig("slowfast"), {"fusion_kernel": 6}, "must be odd"),
        (ResNetConfig("slowfast"), {"width": 60}, "backbone.fast_ratio must divide backbone.width"),
        *(
            (DecoderConfig(4, 16), {name: 0}, f"decoder.{name} must be at least 1, got 0")
            for name in DecoderConfig.__slots__
            if name not in ("sampling", "mixing", "cells")
        ),
        (ResNetConfig("slowonly"), {"nonlocal_after": (6,)}, "backbone.nonlocal_after names blocks of the 6"),
        (CsnConfig(), {"depths": (3, 8, 0, 3)}, "backbone.depths must be positive"),
        (VitConfig(), {"heads": 5}, "backbone.heads 5 must divide backbone.width 768"),
        (VitConfig(), {"patch": 14}, "backbone.patch must be 16"),
        (VARIANTS["csn_152"], {"clip": ClipConfig(12, 2)}, "clip.frames must be a multiple of 8"),
        (VARIANTS["vit_b"], {"clip": ClipConfig(15, 4)}, "backbone.tubelet 2 must divide clip.frames 15"),
        (VARIANTS["vit_b"], {"feature_space": "fpn"}, "feature_space fpn is an ablation of the slowonly and slowfast"),
        (DecoderConfig(4, 16), {"sampling": "grid"}, "decoder.points must be a square for a fixed grid, got 32"),
        (SLOWONLY, {"long_term": LongTermConfig("online", best=101)}, "long_term.best may be at most decoder.queries"),
        (DecoderConfig(4, 16), {"cells": -1}, "decoder.cells must be 0 to decoder.queries 100, got -1"),
        (DecoderConfig(4, 16), {"cells": 101}, "decoder.cells must be 0 to decoder.queries 100, got 101"),
        (DecoderConfig(4, 16), {"groups": 3}, "decoder.groups 3 must divide decoder.dim 256"),
        (DecoderConfig(4, 16), {"heads": 3}, "decoder.heads 3 must divide decoder.dim 256"),
        (DecoderConfig(4, 16), {"dim": 60, "heads": 4}, "decoder.dim must be a multiple of 8"),
        (SLOWONLY, {"clip": ClipConfig(8, 8)}, "decoder.frames is 4 but a clip of 8 frames has T = 8"),
        (SLOWONLY, {"decoder": DecoderConfig(8, 32)}, "decoder.frames is 8 but a clip of 4 frames has T = 4"),
        (SLOWONLY, {"backbone": ResNetConfig("slowfast")}, "decoder.frames is 4 but a clip of 4 frames has T = 1"),
        (VARIANTS["slowfast_r50"], {"clip": ClipConfig(30, 2)}, "backbone.alpha 4 must divide clip.frames 30"),
    ],
)
def test_constraints(part: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(part, **changes)
    assert message in str(caught.value)


def changed(path: str, value: object) -> dict[str, Any]:
    """slowonly_r50 as a dict with one entry set, or dropped for Ellipsis."""
    data = copy.deepcopy(SLOWONLY.to_dict())
    *parents, key = path.split(".")
    place = data
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "config has unknown keys: colour"),
        ("decoder.depth", 3, "config.decoder has unknown keys: depth"),
        ("clip.fps", 30, "config.clip has unknown keys: fps"),
        ("backbone.pretrained", True, "config.backbone has unknown keys: pretrained"),
        ("preprocess.bgr", True, "config.preprocess has unknown keys: bgr"),
        ("decoder", [1, 2], "config.decoder must be a mapping"),
        ("decoder.frames", ..., "config.decoder: "),
        ("name", ..., "config: "),
        ("name", 3, "config.name must be str, got 3"),
        ("decoder.frames", "4", "config.decoder.frames must be int, got '4'"),
        ("decoder.frames", 4.0, "config.decoder.frames must be int, got 4.0"),
        ("decoder.classes", True, "config.decoder.classes must be int, got True"),
        ("backbone.kind", "c2d", "config.backbone.kind must be 'slowonly' or 'slowfast' or 'csn' or 'vit'"),
        ("backbone.kind", ["slowonly"], "config.backbone.kind must be 'slowonly' or 'slowfast'"),
        ("backbone.nonlocal_after", ["6"], "config.backbone.nonlocal_after must be tuple"),
        ("decoder.mixing", "none", "config.decoder.mixing must be 'dual' or 'fixed'"),
        ("long_term", 5, "config.long_term must be"),
        ("long_term", {"kind": "future"}, "config.long_term.kind must be 'offline' or 'online', got 'future'"),
        ("long_term", {"kind": "online", "layers": 0}, "long_term.layers must be 1 to 1024"),
        ("backbone.depths", [3, 4, 6], "config.backbone.depths must be tuple"),
        ("backbone.depths", 3, "config.backbone.depths must be tuple"),
        ("backbone.norm_eps", "1e-5", "config.backbone.norm_eps must be float"),
        ("preprocess.mean", [0.4, 0.4, None], "config.preprocess.mean must be tuple"),
        ("preprocess.antialias", 0, "config.preprocess.antialias must be bool"),
        ("decoder.groups", 3, "decoder.groups 3 must divide"),
    ],
)
def test_strict_reading(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DetectorConfig.from_dict(changed(path, value))
    assert message in str(caught.value)


def test_not_a_mapping() -> None:
    with pytest.raises(ConfigError, match="config must be a mapping"):
        DetectorConfig.from_dict([])


def test_whole_numbers_pass_for_floats() -> None:
    assert DetectorConfig.from_dict(changed("preprocess.std", [1, 1, 1])).preprocess.std == (1, 1, 1)


def test_map_channels() -> None:
    assert ResNetConfig("slowonly").map_channels == (256, 512, 1024, 2048)
    assert ResNetConfig("slowfast").map_channels == (288, 576, 1152, 2304)
    assert CsnConfig().map_channels == (256, 512, 1024, 2048)
    assert VitConfig().map_channels == (768, 768, 768, 768)


@pytest.mark.parametrize(
    ("name", "frames", "stride", "channels", "t", "lookahead_s"),
    [
        ("slowonly_r50", 4, 16, 2048, 4, 16 / 30),
        ("slowfast_r50", 32, 2, 2304, 8, 1.0),
        ("slowfast_r101", 32, 2, 2304, 8, 1.0),
        ("slowfast_r101_nl", 32, 2, 2304, 8, 1.0),
        ("csn_152", 32, 2, 2048, 4, 1.0),
        ("vit_b", 16, 4, 768, 8, 28 / 30),
        ("vit_l", 16, 4, 1024, 8, 28 / 30),
    ],
)
def test_the_papers_variants(name: str, frames: int, stride: int, channels: int, t: int, lookahead_s: float) -> None:
    """docs/detector.md, Clip and Backbones."""
    config = VARIANTS[name]
    assert (config.clip.frames, config.clip.stride) == (frames, stride)
    assert config.backbone.map_channels[-1] == channels
    assert config.decoder.frames == config.backbone.temporal_points(frames) == t
    assert config.decoder.frames_out == 4 * t
    assert float(window(config.clip).lookahead_s) == pytest.approx(lookahead_s)


def test_optional_sections() -> None:
    for long_term in (None, LongTermConfig("offline"), LongTermConfig("online", clips=20)):
        config = replace(SLOWONLY, long_term=long_term)
        assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert DetectorConfig.from_dict(SLOWONLY.to_dict() | {"long_term": None}) == SLOWONLY
    before = SLOWONLY.to_dict()
    del before["long_term"], before["feature_space"], before["decoder"]["mixing"]
    assert DetectorConfig.from_dict(before) == SLOWONLY, "a file written before there were ablations"
