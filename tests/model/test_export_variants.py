"""Every backbone and ablation as ONNX: within 1e-3 of eager at another batch and size than the exported one."""

from __future__ import annotations

from pathlib import Path

import pytest
from narrow import ABLATIONS, BACKBONES, LONG_TERM, narrow

from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import Model
from stmixer.model.export import TOLERANCE, ExportError, export
from stmixer.model.labels import AVA_LABELS


def model(filled, name: str) -> Model:
    return Model(filled(narrow(name)), ModelCard(narrow(name), AVA_LABELS, trained=False))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
    + [pytest.param(name, marks=pytest.mark.drill) for name in ABLATIONS],
)
def test_narrow(filled, tmp_path: Path, name: str) -> None:
    """``export`` compares before it keeps a file, and says by how much it differs."""
    worst = export(model(filled, name), tmp_path / f"{name}.onnx")
    assert list(worst) == [tmp_path / f"{name}.onnx"]
    assert max(worst.values()) <= TOLERANCE


@pytest.mark.parametrize("name", LONG_TERM)
def test_long_term_models_are_refused(filled, tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="long-term"):
        export(model(filled, name), tmp_path / f"{name}.onnx")
    assert not list(tmp_path.iterdir())
