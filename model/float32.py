"""What autocast leaves alone: where 8 significant bits cost more than they save."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")

_FORWARDS: set[Any] = set()


def in_float32(forward: Callable[Concatenate[M, Tensor, P], R]) -> Callable[Concatenate[M, Tensor, P], R]:
    """A module's forward that takes float32, computes in it and gives it, also under autocast."""

    @functools.wraps(forward)
    def wide(self: M, x: Tensor, /, *more: P.args, **named: P.kwargs) -> R:
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return forward(self, x, *more, **named)
        with torch.autocast(device, enabled=False):
            return forward(self, x.float(), *more, **named)

    _FORWARDS.add(wide)
    return wide


def stays_in_float32(module: nn.Module) -> bool:
    """Whether the module's forward is ``in_float32``; its weights are then to stay so too."""
    return type(module).forward in _FORWARDS
