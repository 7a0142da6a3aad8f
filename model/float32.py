"""Modules that autocast leaves alone: where 8 significant bits cost more than they save."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class InFloat32(nn.Module):
    """Before a module's class in a list of bases: float32 in, float32 out, also under autocast."""

    def forward(self, x: Tensor) -> Any:
        """As the module's own."""
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            return super().forward(x.float())
