"""Public pre-training of the video backbones, as its authors lay it out.

    slowonly, slowfast   PySlowFast: .pyth, or caffe2's .pkl (Kinetics)
    csn                  IG-65M, fine-tuned on Kinetics: conv1, layer1.0.conv1, ..., and a classifier
    vit                  VideoMAE: pre-training (encoder.*, decoder.*) or fine-tuned (fc_norm instead of norm)

Where a file has both a backbone and a head, the head is left; everything else must fit exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from stmixer.model.card import CheckpointError
from stmixer.model.config import CsnConfig, DetectorConfig, ResNetConfig, VitConfig
from stmixer.model.foreign.backbone_tensors import Pretrained, take_backbone
from stmixer.model.foreign.caffe2 import is_plain_pickle, read_caffe2
from stmixer.model.foreign.published import read_published_file
from stmixer.model.foreign.published_names import published_backbone_name

_SLOWFAST_HEAD = "head."
_CSN_HEADS = ("fc.", "out_fc.", "cls_head.")
_VIT_HEADS = ("head.", "decoder.", "encoder_to_decoder.", "mask_token", "pos_embed")
_CAFFE2_UNUSED = re.compile(r".*_momentum$|^pred_|^lr$|^model_iter$")
_CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def read_video_pretrained(path: Path, config: DetectorConfig) -> Pretrained:
    """The backbone's tensors out of a public file. Raises CheckpointError, name by name."""
    match config.backbone:
        case VitConfig():
            return _vit(path, config)
        case CsnConfig():
            file = read_published_file(path)
            unused = _starts_with(_CSN_HEADS)
            return take_backbone(path, config, file.tensors, published_backbone_name, unused, notes=file.notes)
        case ResNetConfig():
            return _resnet(path, config, config.backbone.depths)
        case _:
            raise CheckpointError(f"{config.name} has no reader of other people's video backbones (model/foreign)")


def _resnet(path: Path, config: DetectorConfig, depths: Sequence[int]) -> Pretrained:
    """PySlowFast, in either of its two forms."""
    if is_plain_pickle(path):
        return take_backbone(
            path,
            config,
            read_caffe2(path),
            lambda name: caffe2_name(published_backbone_name(name), depths),
            lambda name: _CAFFE2_UNUSED.match(name) is not None,
        )
    file = read_published_file(path)
    unused = _starts_with((_SLOWFAST_HEAD,))
    return take_backbone(path, config, file.tensors, published_backbone_name, unused, notes=file.notes)


def _starts_with(prefixes: Sequence[str]) -> Callable[[str], bool]:
    return lambda name: name.startswith(tuple(prefixes))


def _vit(path: Path, config: DetectorConfig) -> Pretrained:
    """VideoMAE. A fine-tuned file has no final norm: its head's norm over the mean token takes that place."""
    file = read_published_file(path)
    given = {re.sub(r"^(encoder|backbone)\.", "", name): tensor for name, tensor in file.tensors.items()}
    adapted = {}
    if "norm.weight" not in given and "fc_norm.weight" in given:
        for part in ("weight", "bias"):
            if f"fc_norm.{part}" in given:
                given[f"norm.{part}"] = given.pop(f"fc_norm.{part}")
                adapted[f"norm.{part}"] = f"fc_norm.{part}, the norm of the mean token"
    return take_backbone(path, config, given, published_backbone_name, _starts_with(_VIT_HEADS), adapted, file.notes)


def caffe2_name(name: str, depths: Sequence[int]) -> str:
    """PySlowFast's name in caffe2's words; ``depths`` are res2 .. res5's, as a fusion is called after a last block."""
    *place, kind = name.split(".")
    layer = ".".join(place)
    if match := re.fullmatch(r"s1\.pathway(\d)_stem\.(conv|bn)", layer):
        stem = {"conv": "conv1", "bn": "res_conv1_bn"}[match[2]]
        return _fast_prefix(match[1]) + stem + _caffe2_suffix(kind, norm=match[2] == "bn")
    if match := re.fullmatch(r"s(\d)_fuse\.(conv_f2s|bn)", layer):
        number = int(match[1])
        after = "pool1" if number == 1 else f"res{number}_{depths[number - 2] - 1}_branch2c_bn"
        norm = match[2] == "bn"
        return f"t_{after}_subsample{'_bn' if norm else ''}" + _caffe2_suffix(kind, norm)
    if match := re.fullmatch(r"s(\d)\.pathway(\d)_res(\d+)\.branch(1|2\.[abc])(_bn)?", layer):
        stage, pathway, block, branch, norm_ = match.groups()
        word = f"{_fast_prefix(pathway)}res{stage}_{block}_branch{branch.replace('.', '')}{norm_ or ''}"
        return word + _caffe2_suffix(kind, norm=bool(norm_))
    if match := re.fullmatch(r"s(\d)\.pathway0_nonlocal(\d+)\.(?:conv_)?(theta|phi|g|out|bn)", layer):
        stage, block, part = match.groups()
        return f"nonlocal_conv{stage}_{block}_{part}" + _caffe2_suffix(kind, norm=part == "bn")
    raise AssertionError(f"{name} has no name in caffe2")


def _fast_prefix(pathway: str) -> str:
    return "t_" if pathway == "1" else ""


def _caffe2_suffix(kind: str, norm: bool) -> str:
    if kind == "num_batches_tracked":
        return f".{kind}"  # caffe2 counts none
    return "_" + (_CAFFE2_NORM[kind] if norm else kind[0])
