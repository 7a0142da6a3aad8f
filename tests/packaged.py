"""The wheel, built of a copy of the checkout; and environments of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("service", "model", "media", "trainer", "weights")


def copied(folder: Path) -> Path:
    """What a package is made of, in a folder, so that the checkout gets no build folder."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*ROOMS, "stmixer"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    return folder


def build(kind: str, source: Path, target: Path) -> Path:
    """``wheel`` or ``sdist`` of a folder, with what is installed here: nothing is downloaded."""
    assert find_spec("setuptools"), "setuptools is missing: it is among the dev extra"
    code = f"import setuptools.build_meta as b; b.build_{kind}({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    (built,) = target.iterdir()
    return built


def environment(folder: Path, *packages: str | Path) -> Path:
    """The Python of a new environment with these packages, at the versions of constraints.txt, and nothing else.

    Where no package index is reached it is a failure in CI and a skip by name elsewhere.
    """
    uv = Path(sys.executable).parent / "uv"
    if not uv.is_file():
        pytest.skip("uv is not installed: make test installs it")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    command = [uv, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not os.environ.get("CI") and "error sending request" in done.stderr:
        pytest.skip("no package index is reached from here")
    assert done.returncode == 0, done.stderr
    return python
