"""Shared by all tests: the reference folder, the clips, and `tiny` with fill.py's weights."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from serving import Server, running_server

# before anything imports torch: tests share the cores with the services they start (service/ipc/child.py)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TESTS = Path(__file__).resolve().parent
REFERENCE = TESTS / "reference"
SHARED = Path(os.environ.get("STMIXER_SHARED", TESTS.parent.parent / "shared"))
"""Where optional clips and data lie; the environment variable moves it."""
SHARED_CLIPS = SHARED / "clips"
OWN_CLIPS = TESTS / "clips"


def shared_clips(pattern: str) -> list[Path]:
    """Clips that may not be redistributed: none where the folder is absent."""
    return sorted(p for p in SHARED_CLIPS.glob(pattern) if p.is_file() and p.suffix != ".tsv")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests and drills get longer than the default before they count as hanging."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            for name, seconds in (("drill", 3600), ("slow", 1200)):
                if item.get_closest_marker(name) is not None:
                    item.add_marker(pytest.mark.timeout(seconds))
                    break


@pytest.fixture(scope="session")
def fill() -> ModuleType:
    """tests/reference/fill.py: deterministic weights and inputs."""
    spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, fill: ModuleType) -> Path:
    """A model file: `tiny` with fill.py's weights under their published names."""
    import torch

    from stmixer.model.card import ModelCard
    from stmixer.model.checkpoint import save
    from stmixer.model.detector import skeleton
    from stmixer.model.foreign.published import from_published
    from stmixer.model.foreign.published_names import published_name
    from stmixer.model.labels import AVA_LABELS
    from stmixer.model.zoo import variant

    config = variant("tiny")
    state = skeleton(config).state_dict()
    tensors = {published_name(k): torch.from_numpy(fill.fill(published_name(k), v.shape)) for k, v in state.items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(path, from_published(tensors, config), ModelCard(config, AVA_LABELS, trained=False, source="fill.py"))
    return path


@pytest.fixture(scope="session")
def server(tiny_weights: Path) -> Iterator[Server]:
    """One `stmixer serve` with `tiny` and fill.py's weights, for all tests that only need a service."""
    with running_server(weights=tiny_weights) as server:
        yield server
