"""The wheel and the source archive: one import name with everything below it, and they run outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from packaged import ROOMS, ROOT, build, copied

NEEDED = {
    "stmixer/__init__.py",
    "stmixer/cli.py",
    "stmixer/commands.py",
    "stmixer/py.typed",
    "stmixer/model/detector.py",
    "stmixer/media/decode.py",
    "stmixer/service/cli.py",
    "stmixer/service/web/index.html",
    "stmixer/service/web/app.js",
    "stmixer/service/web/style.css",
    "stmixer/trainer/cli.py",
    "stmixer/trainer/presets/custom.yaml",
    "stmixer/trainer/presets/teach.yaml",
    "stmixer/weights/stmixer-rt.safetensors",
    "stmixer/weights/stmixer-rt.onnx",
    "stmixer/weights/stmixer-rt.frame.onnx",
    "stmixer/weights/stmixer-rt.clip.onnx",
    "stmixer/weights/manifest.json",
    "stmixer/weights/LICENSE",
}
pytestmark = pytest.mark.slow  # builds both, and starts a model


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a package is made of, so that the checkout gets no build folder."""
    return copied(tmp_path_factory.mktemp("source") / "stmixer")


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", copy, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the wheel's content."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the installed package first on its path, in another folder and with nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STMIXER_", "PYTHON"))}
    environment |= {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def sources() -> set[str]:
    """Every module and page file of the checkout, as an installed file."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")] + list((ROOT / "service/web").iterdir())
    return {f"stmixer/{path.relative_to(ROOT)}" for path in files if path.is_file()}


def test_a_wheel_adds_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"stmixer"}
    assert set(names) >= NEEDED | sources()
    assert max(Counter(names).values()) == 1
    (top_level,) = (name for name in names if name.endswith("top_level.txt"))
    assert zipfile.ZipFile(wheel).read(top_level) == b"stmixer\n"


def test_a_wheel_holds_no_tests_and_no_recipe(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests/", "bench/")) or "/recipe/" in name]


def test_a_source_archive_holds_each_file_once(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
        archive.extractall(tmp_path, filter="data")
    names = [member.name.partition("/")[2] for member in members]
    assert all(member.isreg() for member in members), "links are followed"
    assert max(Counter(names).values()) == 1
    assert set(names) >= NEEDED | sources() | {"pyproject.toml", "README.md", "LICENSE"}
    assert not [name for name in names if name.split("/")[0] in ROOMS], "rooms are below stmixer alone"


def test_the_archive_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "out").mkdir()
    again = build("wheel", source, tmp_path / "out")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_it_is_the_installed_one_that_runs_and_it_is_light(installed: Path, tmp_path: Path) -> None:
    code = "import stmixer, sys; print(stmixer.__file__); assert 'torch' not in sys.modules"
    ran = run(installed, tmp_path, "-c", code)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(installed / "stmixer" / "__init__.py")


@pytest.mark.parametrize("module", ["stmixer.cli", "stmixer.service.cli", "stmixer.model.cli", "stmixer.trainer.cli"])
def test_its_commands_start(installed: Path, tmp_path: Path, module: str) -> None:
    ran = run(installed, tmp_path, "-m", module, "--help")
    assert ran.returncode == 0, ran.stderr
    assert "Usage" in ran.stdout


def test_it_detects_with_the_bundled_weights(installed: Path, tmp_path: Path) -> None:
    clip = shutil.copy(ROOT / "tests" / "clips" / "walk.mp4", tmp_path)
    ran = run(installed, tmp_path, "-m", "stmixer.service.cli", "detect", str(clip), "-o", "out.json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["model"], found["trained"]) == ("stmixer-rt", True)
    assert any(result["actors"] for result in found["keyframes"])
