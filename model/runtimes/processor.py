"""What a machine computes with, told without PyTorch: CUDA devices by the driver's own word, a CPU by its flags."""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Device:
    """``cpu``, ``cuda`` or ``cuda:N``, as torch writes them."""

    type: Literal["cpu", "cuda"]
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


CPU = Device("cpu")


def device_of(name: str) -> Device | None:
    """The device of this name; None if it is no name of one."""
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", name, re.ASCII)
    if match is None or (match[1] == "cpu" and match[2] is not None):
        return None
    return Device("cuda" if match[1] == "cuda" else "cpu", None if match[2] is None else int(match[2]))


@functools.cache
def driver_devices() -> int:
    """How many CUDA devices the NVIDIA driver shows; 0 without a driver, or with one that does not work."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def counted(devices: int) -> str:
    """So many CUDA devices, as a clause."""
    return "there is 1 CUDA device" if devices == 1 else f"there are {devices} CUDA devices"


@functools.cache
def processor() -> tuple[str, frozenset[str]]:
    """The CPU's name, and its flags as Linux writes them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    first = dict[str, str]()
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    return first.get("model name", ""), frozenset(first.get("flags", "").split())
