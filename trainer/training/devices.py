"""The devices that a run asks for, looked at before anything is read."""

from __future__ import annotations

from stmixer.model.runtimes.device import NO_CUDA, cuda_devices
from stmixer.model.runtimes.processor import counted
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.errors import TrainError


def check_devices(config: RunConfig) -> None:
    """Raises TrainError where a run wants a GPU, or more of them than there are."""
    found = cuda_devices()
    if config.accelerator == "gpu" and not found:
        raise TrainError(f"accelerator: gpu, but {NO_CUDA}; cpu or auto trains without")
    if config.accelerator != "cpu" and found and config.devices != "auto" and config.devices > found:
        raise TrainError(f"devices: {config.devices}, but {counted(found)}")
