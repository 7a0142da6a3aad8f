"""Shared by all tests: the reference folder, the clips, and `tiny` with fill.py's weights."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections import Counter
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
TELLING = {
    "FAULTY_WORKER_SLOW_MS": "60000", "WORKER_MODULE": "faulty_worker", "DECODER_MODULE": "uncelled_decoder",
    "PYTEST_CURRENT_TEST": "a test", "A_SECRET": "s3cr3t",
}  # fmt: skip
"""What says something to stand-ins, and nothing to what is installed (tests/service/test_no_hooks.py)."""


def shared_clips(pattern: str) -> list[Path]:
    """Clips that may not be redistributed: none where the folder is absent."""
    return sorted(p for p in SHARED_CLIPS.glob(pattern) if p.is_file() and p.suffix != ".tsv")


LONGEST = (
    "test_gpu_rehearsal", "browser/test_teach_page", "model/test_runtimes", "service/test_rest_resources",
    "trainer/test_paper_presets", "journeys/test_ml_engineer", "trainer/test_teach", "media/test_clips",
    "journeys/test_contributor", "model/test_export_variants", "journeys/test_researcher", "service/test_bench_streams",
    "journeys/test_operator", "service/test_cameras", "service/test_ws_load", "service/test_clip_cutting",
    "service/test_pulled_streams", "service/test_drain", "service/test_supervision", "model/test_onnx_files",
    "trainer/test_distributed", "service/test_models", "browser/test_wall", "browser/test_events_page",
)  # fmt: skip
"""Files of few tests that take long, the longest first."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests and drills get longer than the default before they count as hanging.

    Where several processes share the work, a file's tests all in one of them: the longest files first, then those of
    many tests, so that no process has a long one left when the others have nothing more to do.
    """
    if hasattr(config, "workerinput"):
        places = {TESTS / f"{name}.py": place for place, name in enumerate(LONGEST)}
        assert all(path.is_file() for path in places)
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (places.get(item.path, len(places)), -tests[item.path], item.path))
    for item in items:
        if item.get_closest_marker("timeout") is None:
            for name, seconds in (("drill", 3600), ("slow", 1200)):
                if item.get_closest_marker(name) is not None:
                    item.add_marker(pytest.mark.timeout(seconds))
                    break


def pytest_collection_finish() -> None:
    """Python's collector need not look at all tests, and what they import, again and again."""
    gc.collect()
    gc.freeze()


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
    """One `stmixer serve` with `tiny` and fill.py's weights, for all tests that only need a service.

    Its environment has what faulty workers and decoders of tests are told by, and a secret.
    """
    with running_server(weights=tiny_weights, environment=TELLING) as server:
        yield server
