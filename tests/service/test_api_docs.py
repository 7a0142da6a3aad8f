"""docs/api.md, docs/operate.md and the README, command by command, against a real service.

What a test does not run stands in a block of another kind: ``console`` (wants a container engine), ``js`` (wants a
camera), ``json`` (a log line, no command).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OWN_CLIPS
from serving import Server

ROOT = Path(__file__).resolve().parents[2]
UNTESTED = {"console", "js", "json"}
NOT_RUN = {
    "make run": "sets up a machine; .ci/run does the same, and tests/serving.py starts what it starts",
    "make test": "it is what runs this",
    ".venv/bin/stmixer serve --weights model.safetensors": "weights of the reader's own; tests/serving.py serves such",
}
"""Lines of the README by how they begin, and why no test here runs them."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Each fenced block's kind and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to a reader's commands, but may be written to."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "clips").symlink_to(OWN_CLIPS)
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return tmp_path


def run(command: list[str], folder: Path, server: Server) -> str:
    """Its output; fails where it fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "STMIXER": server.url}
    environment.pop("STMIXER_PORT", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_block_is_of_a_known_kind() -> None:
    for page in ("docs/api.md", "docs/operate.md", "README.md"):
        assert {kind for kind, _ in blocks(page)} <= {"sh", "python", "javascript", *UNTESTED}, page


@pytest.mark.slow
def test_the_commands_of_api_md(server: Server, checkout: Path) -> None:
    commands = [text for kind, text in blocks("docs/api.md") if kind == "sh"]
    assert len(commands) == 3
    outputs = [run(["bash", "-euc", command.replace("$STMIXER", server.url)], checkout, server) for command in commands]
    assert [bool(output) for output in outputs] == [True, False, True]
    for name in ("out.mp4", "boxes.mp4"):
        assert (checkout / name).stat().st_size > 10_000


@pytest.mark.slow
def test_the_python_of_api_md(server: Server, checkout: Path) -> None:
    programs = [text for kind, text in blocks("docs/api.md") if kind == "python"]
    assert len(programs) == 2
    run([sys.executable, "-c", programs[0]], checkout, server)
    assert "summary" in run([sys.executable, "-c", programs[1]], checkout, server)


@pytest.mark.slow
def test_the_javascript_of_api_md(server: Server, checkout: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is missing: apt-get install nodejs")
    (program,) = [text for kind, text in blocks("docs/api.md") if kind == "javascript"]
    assert re.fullmatch(r"\d+ \d+\n", run(["node", "--input-type=module", "-e", program], checkout, server))


@pytest.mark.slow
def test_the_commands_of_operate_md(server: Server, checkout: Path) -> None:
    commands = [text for kind, text in blocks("docs/operate.md") if kind == "sh"]
    assert len(commands) == 2
    assert "--max-streams" in run(["bash", "-euc", commands[0]], checkout, server)
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    assert "SUCCESS" in run(["bash", "-euc", commands[1]], checkout, server)


@pytest.mark.slow
def test_the_commands_of_the_readme(server: Server, checkout: Path) -> None:
    """Its curl lines against our server; its detect lines with `tiny`, for the bundled model takes its time."""
    text = "".join(text for kind, text in blocks("README.md") if kind == "sh")
    lines = [line.replace("http://127.0.0.1:8000", server.url) for line in text.splitlines()]
    to_run = [line for line in lines if not line.startswith(tuple(NOT_RUN))]
    assert len(lines) - len(to_run) == len(NOT_RUN)
    for line in to_run:
        line = line.replace("curl ", "curl -sSf ").replace("stmixer detect ", "stmixer detect --model tiny ")
        run(["bash", "-euc", line], checkout, server)
