"""docs/api.md, docs/operate.md and the README, command by command, against a real service.

The block of ``js``, which wants a page and a camera, is run in ``tests/browser/test_camera_program.py``. What no test
runs, and why: ``tests/blocks.py``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks, not_run
from conftest import OWN_CLIPS
from serving import Server

ALONE = """
import sys

BROUGHT = {
    "httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "websockets", "pydantic", "pydantic_core",
    "annotated_types", "typing_extensions", "typing_inspection", "stmixer",
}


class Alone:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in BROUGHT and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Alone())
"""
"""Python as it is where the client alone is installed (docs/api.md, The Python client)."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to a reader's commands, but may be written to."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "clips").symlink_to(OWN_CLIPS)
    for name in ("docker", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return tmp_path


def run(command: list[str], folder: Path, server: Server, *before: Path) -> str:
    """Its output; fails where it fails. ``before``: folders of Python before ours."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    python = ":".join(str(each) for each in (*before, ROOT))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python, "STMIXER": server.url}
    environment.pop("STMIXER_PORT", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
    assert len(programs) == 4
    run([sys.executable, "-c", programs[0]], checkout, server)
    assert "summary" in run([sys.executable, "-c", programs[1]], checkout, server)


@pytest.mark.slow
def test_the_client_of_api_md_with_what_it_is_installed_with(server: Server, checkout: Path, tmp_path: Path) -> None:
    """Nothing but httpx, websockets, pydantic and what these bring: no FFmpeg, numpy, server or torch."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "sitecustomize.py").write_text(ALONE)
    clip, camera = [text for kind, text in blocks("docs/api.md") if kind == "python"][2:]
    said = run([sys.executable, "-c", clip], checkout, server, tmp_path / "alone").splitlines()
    assert [line.split()[0] for line in said[:3]] == ["0.0", "1.0", "2.0"]
    assert said[-1].startswith("400 unreadable ")
    *results, summary = run([sys.executable, "-c", camera], checkout, server, tmp_path / "alone").splitlines()
    assert all(re.fullmatch(r"[\d.]+ \d+ people", line) for line in results)
    assert 0 < len(results) <= int(re.findall(r" ok=(\d+) ", summary)[0])
    assert "received=60 " in summary


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
    to_run = [line for line in lines if not line.startswith(not_run("README.md"))]
    assert len(lines) - len(to_run) == 4
    for line in to_run:
        line = line.replace("curl ", "curl -sSf ").replace("stmixer detect ", "stmixer detect --model tiny ")
        run(["bash", "-euc", line], checkout, server)
