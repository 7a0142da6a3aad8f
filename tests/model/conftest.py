"""What the tests of the detector share: the reference folder, and networks with weights that all matter."""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stmixer.model.backbones.yolox import YoloxBackbone
from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import Model
from stmixer.model.config import DetectorConfig
from stmixer.model.detector import Detector, skeleton
from stmixer.model.foreign.published_names import published_name
from stmixer.model.labels import AVA_LABELS
from stmixer.model.zoo import variant

SIGNAL_GAINS = {"backbone.": 1.3, "person_head.": 2.2}
"""Of convolutions before SiLU: with more of them maps grow from layer to layer, with less all cells score the same."""

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the numbers that the detector must reproduce."""
    return REFERENCE


@pytest.fixture(scope="session")
def filled(fill: ModuleType) -> Callable[..., Detector]:
    """``filled(config, seed=0)``: a detector in which no weight is zero and no norm degenerate, always the same."""

    def make(config: DetectorConfig, seed: int = 0) -> Detector:
        detector = skeleton(config)
        state = {
            name: torch.as_tensor(fill.fill(published_name(name), tensor.shape, seed))
            for name, tensor in detector.state_dict().items()
        }
        if isinstance(detector.backbone, YoloxBackbone):
            _keep_signal(state)
        detector.load_state_dict(state, strict=True, assign=True)
        return detector.requires_grad_(True).eval()

    return make


def _keep_signal(state: dict[str, Tensor]) -> None:
    """Of YOLOX, which has no norms: after forty convolutions and SiLUs nothing of the picture would be left."""
    for name, weight in state.items():
        for part, gain in SIGNAL_GAINS.items():
            if name.startswith(part) and weight.dim() == 4:
                state[name] = weight * (gain / (weight.std() * math.sqrt(weight[0].numel())))


@pytest.fixture(scope="session")
def onnx_file(filled, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``onnx_file(variant)``: the filled detector of a variant, exported once a run, whatever processes share it."""
    ours = tmp_path_factory.getbasetemp()
    exports = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "exports"
    exports.mkdir(exist_ok=True)

    def make(name: str) -> Path:
        path = exports / name / f"{name}.onnx"
        with (exports / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.parent.exists():
                made = Path(tempfile.mkdtemp(dir=exports)) / path.name
                from stmixer.model.export import export  # its packages are not where the tests on CUDA run

                files = export(Model(filled(variant(name)), ModelCard(variant(name), AVA_LABELS, trained=False)), made)
                assert sorted(files) == sorted(made.parent.iterdir()), "nothing partial is left"
                made.parent.rename(path.parent)
        return path

    return make


@pytest.fixture(scope="session")
def padded_clip(fill: ModuleType) -> Callable[..., tuple[Tensor, Tensor]]:
    """``padded_clip(frames, sizes, seed=0, padded=None)``: zero-padded reference clips and their sizes."""

    def make(
        frames: int, sizes: list[tuple[int, int]], seed: int = 0, padded: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        width, height = padded or (-(-max(w for w, _ in sizes) // 32) * 32, -(-max(h for _, h in sizes) // 32) * 32)
        clip = torch.zeros(len(sizes), 3, frames, height, width)
        for i, (w, h) in enumerate(sizes):
            clip[i, :, :, :h, :w] = torch.from_numpy(fill.clip((3, frames, h, w), seed + i))
        return clip, torch.tensor(sizes, dtype=torch.float32)

    return make
