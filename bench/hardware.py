"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_BF16 = {"avx512_bf16", "amx_tile"}
"""Flags of processors that multiply bf16, as Linux tells them: what PyTorch asks for, which not everybody has."""


def measured_on() -> dict[str, object]:
    """Hardware, load and versions, as a result names them."""
    return {
        "hardware": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[1], 1),
        "versions": {"python": platform.python_version(), "onnxruntime": onnx_runtime()},
    }


def onnx_runtime() -> str | None:
    """ONNX Runtime's version, whichever of its packages is installed; None without one."""
    for package in ("onnxruntime-gpu", "onnxruntime"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def processor() -> str:
    """The CPU's name, family and model (of virtual machines the name alone says little), and its bf16 arithmetic."""
    fields: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f", family {fields['cpu family']} model {fields.get('model', '?')}"
    return name + (", bf16" if _BF16 & set(fields.get("flags", "").split()) else "")
