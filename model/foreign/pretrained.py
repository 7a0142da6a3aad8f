"""Public pre-training as a start for a backbone: which reader a variant has, and its report."""

from __future__ import annotations

from pathlib import Path

from stmixer.model.config import DetectorConfig, FrameConfig
from stmixer.model.foreign.backbone_tensors import Pretrained
from stmixer.model.foreign.image_pretrained import read_image_pretrained
from stmixer.model.foreign.video_pretrained import read_video_pretrained
from stmixer.model.foreign.yolox import read_yolox

__all__ = ["Pretrained", "read_pretrained"]


def read_pretrained(path: Path, config: DetectorConfig) -> Pretrained:
    """The backbone's tensors out of a classifier's, a masked autoencoder's or a detector's file.

    A detector's file gives the person head's too, where the variant has one. Nothing in a file is executed.

    Raises:
        CheckpointError: a file that does not fit the variant's backbone, name by name.
    """
    if isinstance(config.backbone, FrameConfig) and config.backbone.network == "yolox_nano":
        return read_yolox(path, config)
    if isinstance(config.backbone, FrameConfig):
        return read_image_pretrained(path, config, config.backbone.network)
    return read_video_pretrained(path, config)
