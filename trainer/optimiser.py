"""AdamW groups and the learning rate's course (DETECTOR.md, Training)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.detector import Detector
from trainer.config import OptimiserSection, ScheduleSection


def freeze_norms(backbone: nn.Module) -> None:
    """Batch norms as constants: their weights take no gradient, their statistics stay (``keep_norms_still``)."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    keep_norms_still(backbone)


def keep_norms_still(backbone: nn.Module) -> None:
    """Batch norms into evaluation mode; to be called after every ``train()``."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def parameter_groups(detector: Detector, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters with and without weight decay.

    None on the backbone's norms; in a vision transformer none on anything of one dimension. The decoder's norms and
    biases decay, as officially.
    """
    transformer = detector.config.backbone.kind not in ("slowonly", "slowfast", "csn")
    still = {
        id(parameter)
        for module in detector.backbone.modules()
        if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))
        for parameter in module.parameters(recurse=False)
    }
    if transformer:
        still |= {id(parameter) for parameter in detector.backbone.parameters() if parameter.dim() == 1}
    trainable = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if id(p) not in still], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in still], "weight_decay": 0.0},
    ]


def learning_rate(optimiser: OptimiserSection, batch_size: int) -> float:
    """The rate for a step of ``batch_size`` clips over all processes: linear scaling."""
    return optimiser.lr * batch_size / optimiser.lr_batch


def rate_factor(epoch: float, schedule: ScheduleSection) -> float:
    """What the rate is multiplied by ``epoch`` epochs (with fractions) into training."""
    factor = schedule.drop_factor ** sum(epoch >= drop for drop in schedule.drops)
    if epoch < schedule.warmup_epochs:
        factor *= schedule.warmup_factor + (1 - schedule.warmup_factor) * epoch / schedule.warmup_epochs
    return factor
