"""Imports run one way (docs/architecture.md): the walls between the rooms, held by reading the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("model", "media", "service", "trainer")
HEAVY = {"torch", "torchvision", "onnxruntime", "lightning"}

ALLOWED = {
    "model": {"model"},
    "media": {"media"},
    "service": {"service", "model", "media"},
    "trainer": {"trainer", "model", "media"},
}
TORCH_FREE = (
    "stmixer.model.config",
    "stmixer.model.zoo",
    "stmixer.model.clip",
    "stmixer.model.labels",
    "stmixer.model.boxes",
    "stmixer.model.linking",
    "stmixer.model.preprocess",
    "stmixer.model.postprocess",
    "stmixer.model.query_bank",
    "stmixer.media.grid",
    "stmixer.media.decode",
    "stmixer.media.draw",
    "stmixer.media.encode",
    "stmixer.service.cli",
    "stmixer.service.client",
    "stmixer.service.engine.keyframes",
    "stmixer.service.schemas",
    "stmixer.media.annotated",
)


def _modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    crossed = {name for name in _imports(path) if name.split(".")[0] in set(ROOMS) - ALLOWED[room]}
    assert not crossed


@pytest.mark.parametrize("path", [p for p in _modules() if p.parts[-2] == "media"], ids=lambda p: p.name)
def test_media_knows_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in _imports(path)} & HEAVY


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_free_when_really_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit(1 if 'torch' in sys.modules else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_walls_see_a_breach(tmp_path: Path) -> None:
    breach = tmp_path / "breach.py"
    breach.write_text("def f():\n    from stmixer.service.cli import main\n    import torch.nn\n")
    assert _imports(breach) == {"stmixer.service.cli", "torch.nn"}
