"""AdamW groups and the learning rate's course (docs/detector.md, Training)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stmixer.model.detector import Detector
from stmixer.trainer.config.run import OptimiserSection, ScheduleSection
from stmixer.trainer.errors import TrainError


def freeze_norms(backbone: nn.Module) -> None:
    """Batch norms as constants: their weights take no gradient, their statistics stay (``keep_norms_still``)."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    keep_norms_still(backbone)


def freeze(detector: Detector, beginnings: Sequence[str]) -> None:
    """Take parameters out of training by the beginnings of their names. Raises TrainError for one that begins none."""
    names = [name for name, _ in detector.named_parameters()]
    if strange := [word for word in beginnings if not any(name.startswith(word) for name in names)]:
        raise TrainError(f"frozen: no parameter's name begins with {', '.join(strange)}")
    for name, parameter in detector.named_parameters():
        if name.startswith(tuple(beginnings)):
            parameter.requires_grad_(False)


def keep_norms_still(backbone: nn.Module) -> None:
    """Batch norms into evaluation mode; to be called after every ``train()``."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def parameter_groups(
    detector: Detector, weight_decay: float, rate: float, backbone_rate: float, person_head_rate: float
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate, with and without weight decay.

    None on the backbone's norms; in a vision transformer none on anything of one dimension. The decoder's norms and
    biases decay, as officially.
    """
    transformer = detector.config.backbone.kind not in ("slowonly", "slowfast", "csn", "frame")
    still = {
        id(parameter)
        for module in detector.backbone.modules()
        if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))
        for parameter in module.parameters(recurse=False)
    }
    if transformer:
        still |= {id(parameter) for parameter in detector.backbone.parameters() if parameter.dim() == 1}
    rates = {"backbone": backbone_rate, "person_head": person_head_rate}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(rate, weight_decay): []}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            its_rate = rates.get(name.split(".")[0], rate)
            groups.setdefault((its_rate, 0.0 if id(parameter) in still else weight_decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def learning_rate(optimiser: OptimiserSection, batch_size: int) -> float:
    """The rate for a step of ``batch_size`` clips over all processes: linear scaling."""
    return optimiser.lr * batch_size / optimiser.lr_batch


def rate_factor(epoch: float, schedule: ScheduleSection, epochs: int) -> float:
    """What the rate is multiplied by ``epoch`` epochs (with fractions) into training of ``epochs``."""
    if schedule.course == "cosine":
        factor = (1 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2
    else:
        factor = schedule.drop_factor ** sum(epoch >= drop for drop in schedule.drops)
    if epoch < schedule.warmup_epochs:
        factor *= schedule.warmup_factor + (1 - schedule.warmup_factor) * epoch / schedule.warmup_epochs
    return factor
