"""Which device a command runs on, by its name."""

from __future__ import annotations

import torch

from stmixer.model.runtimes.processor import counted
from stmixer.model.runtimes.runtime import RuntimeUnavailable

NO_CUDA = "no CUDA device is usable here (none, no driver, or a PyTorch without CUDA)"


def cuda_devices() -> int:
    """How many are usable."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def named_device(name: str | None) -> torch.device:
    """``cpu``, ``cuda`` or ``cuda:N``; by default cuda where there is one.

    Raises RuntimeUnavailable for another name, and for a device that is not there.
    """
    found = cuda_devices()
    if name is None:
        return torch.device("cuda" if found else "cpu")
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise RuntimeUnavailable(f"--device wants cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not found:
        raise RuntimeUnavailable(f"--device {name}: {NO_CUDA}; leave it out, or say cpu")
    if device.type == "cuda" and (device.index or 0) >= found:
        raise RuntimeUnavailable(f"--device {name}: {counted(found)}, numbered from 0")
    return device
