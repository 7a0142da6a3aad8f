"""How far one runtime's numbers are from another's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def deviation(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst difference, of each expected tensor's largest value; infinite for a number that is none."""
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        difference = (ours.float().cpu() - theirs.float().cpu()).abs().max() / theirs.abs().max().cpu().clamp(min=1e-6)
        worst = max(worst, float(difference.nan_to_num(torch.inf)))
    return worst
