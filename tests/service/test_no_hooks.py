"""No test hook answers in production: what tests tell faulty workers and decoders says nothing to the real ones."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from conftest import OWN_CLIPS
from faulty_worker import POISON, slowly
from posting import DECODER, WORKER, eventually, post, samples
from serving import Server, running_server

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
TELLING = {**slowly(60_000), "WORKER_MODULE": "faulty_worker", "DECODER_MODULE": "uncelled_decoder",
           "PYTEST_CURRENT_TEST": "a test"}  # fmt: skip


@pytest.fixture(scope="module")
def told(tiny_weights: Path) -> Iterator[Server]:
    """A service as it is installed, in the environment of tests' own."""
    with running_server(weights=tiny_weights, environment=TELLING) as server:
        yield server


def test_the_environment_of_tests_changes_nothing(told: Server) -> None:
    children = eventually(lambda: (told.children_of(WORKER), told.children_of(DECODER)), all)
    assert all("faulty" not in " ".join(child.cmdline()) for kind in children for child in kind)
    assert post(told, OWN_CLIPS / "fall.mp4", timeout=60).status_code == 200  # a batch may not take its minute


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
def test_what_ends_a_faulty_worker_is_a_number_to_a_real_one(told: Server, how: str) -> None:
    answer = post(told, OWN_CLIPS / "fall.mp4", timeout=60, top_k=POISON[how])
    assert answer.status_code == 200
    summary = answer.json()["summary"]
    assert summary["ok"] == summary["keyframes_due"] > 0
    restarts = {labels: n for (name, labels), n in samples(told).items() if name == "stmixer_worker_restarts_total"}
    assert restarts
    assert not any(restarts.values())


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
