"""What the package's extras bring (pyproject.toml), for saying which of them is missing. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

TORCH = ("torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript")
"""Modules of the extra ``torch``: PyTorch's runtimes, the paper's models, reading and exporting weights."""

TRAIN = (*TORCH, "lightning", "scipy", "tensorboard", "yaml")
"""... and of ``train``, which includes it."""


def missing(modules: Iterable[str]) -> list[str]:
    """Those that are not installed; none is imported."""
    return [name for name in modules if find_spec(name) is None]


def brought_by(extra: str, names: Iterable[str]) -> str:
    """A sentence for a user who lacks them: what is missing, and the one command that brings it."""
    return f"{', '.join(names)} not installed; pip install 'stmixer[{extra}]' brings what is missing"
