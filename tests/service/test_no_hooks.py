"""No test hook answers in production: what tests tell faulty workers and decoders says nothing to the real ones."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import typer
from conftest import OWN_CLIPS, TELLING
from faulty_worker import POISON, slowly
from posting import DECODER, WORKER, eventually, post, samples
from serving import Server

from stmixer.service.cli import app
from stmixer.service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("service", "model", "media", "stmixer")
READS_THE_ENVIRONMENT = {
    "service/settings.py", "service/cli.py", "service/ipc/child.py", "service/decoder/cell.py", "service/bench/cli.py",
    "service/bench/processes.py", "model/pulled.py", "service/plotting.py", "service/cluster/application.py",
    "model/quiet_onnxruntime.py",
}  # fmt: skip
"""Settings; a default of OpenMP's; what a child is given, and forgets; the benchmark's key, and its own service; the
cache folder; whether there is a screen; how Ray starts; that neither it nor ONNX Runtime tells its maker anything."""


def test_the_environment_of_tests_changes_nothing(server: Server) -> None:
    """A service as it is installed, in that environment."""
    assert slowly(60_000).items() < TELLING.items()
    assert TELLING.items() < server.environment.items()
    with contextlib.suppress(psutil.AccessDenied):  # it hides from all but root
        assert TELLING.items() < psutil.Process(server.process.pid).environ().items()
    children = eventually(lambda: (server.children_of(WORKER), server.children_of(DECODER)), all)
    assert all("faulty" not in " ".join(child.cmdline()) for kind in children for child in kind)
    assert post(server, OWN_CLIPS / "fall.mp4", timeout=60).status_code == 200  # a batch may not take its minute


@pytest.mark.parametrize("name", ["STMIXER_WORKER_MODULE", "STMIXER_DECODER_MODULE", "STMIXER_TEST"])
def test_a_variable_that_is_no_setting_is_none(name: str) -> None:
    environment = {other: value for other, value in os.environ.items() if not other.startswith("STMIXER_")}
    done = subprocess.run(
        [sys.executable, "-m", "stmixer.service.cli", "serve", "--port", "0"],
        env={**environment, name: "faulty_worker"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"stmixer: {name}: no such setting; remove it or correct its name (bad_setting)\n"


@pytest.mark.parametrize("how", POISON)
def test_what_ends_a_faulty_worker_is_a_number_to_a_real_one(server: Server, how: str) -> None:
    before, workers = restarts(server), [child.pid for child in server.children_of(WORKER)]
    answer = post(server, OWN_CLIPS / "fall.mp4", timeout=60, top_k=POISON[how])
    assert answer.status_code == 200
    summary = answer.json()["summary"]
    assert summary["ok"] == summary["keyframes_due"] > 0
    assert restarts(server) == before
    assert [child.pid for child in server.children_of(WORKER)] == workers


def restarts(server: Server) -> dict[tuple[tuple[str, str], ...], float]:
    found = {labels: n for (name, labels), n in samples(server).items() if name == "stmixer_worker_restarts_total"}
    assert found
    return found


def test_the_command_has_no_option_but_its_settings() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {name[2:] for each in command.params for name in (*each.opts, *each.secondary_opts) if name[:2] == "--"}
    settings = {name.replace("_", "-") for name in Settings.model_fields}
    assert {name.removeprefix("no-") for name in options} - settings <= {"help"}


def test_the_product_knows_no_tests_and_reads_the_environment_where_it_says() -> None:
    """Nothing in it asks whether it is tested."""
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    found = set()
    for room in PRODUCT:
        for path in sorted((ROOT / room).glob("*.py" if room == "stmixer" else "**/*.py")):
            text = path.read_text()
            if re.search(r"\bos\.environ|\bgetenv\b|\benviron\b", text):
                found.add(str(path.relative_to(ROOT)))
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Import(names=names):
                        imported = {name.name.partition(".")[0] for name in names}
                    case ast.ImportFrom(module=str(module)):
                        imported = {module.partition(".")[0]}
                    case _:
                        continue
                assert not imported & {*tests, "tests", "pytest", "unittest", "_pytest"}, (path, imported)
    assert found == READS_THE_ENVIRONMENT
