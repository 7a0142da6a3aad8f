"""Options that documents name are options of something."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import typer

from stmixer.model.cli import main as weights
from stmixer.service.cli import app
from stmixer.service.schemas import DetectOptions, Result
from stmixer.service.settings import Settings
from stmixer.trainer.cli import main as train

ROOT = Path(__file__).parents[1]
SPOKEN = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
LITERAL = re.compile(r"""["']--([a-z][a-z0-9-]*)["']""")
OF_OTHERS = {
    "build", "profile", "system", "now", "tags",  # docker compose, adduser, systemctl, git
    "data-binary", "no-index", "no-build-isolation",  # curl, pip
    "nproc-per-node", "nnodes", "node-rank", "master-addr",  # torchrun
    "from-file", "replicas", "head", "address", "dashboard-host", "redis-password", "generate",  # kubectl, ray
    "help", "again",
}  # fmt: skip


def repository_files(*endings: str) -> list[Path]:
    """What git tracks here, results of measurements left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name.endswith(endings)]
    return [path for path in files if path.is_file() and "results" not in path.parts]


def options(command: typer.core.TyperGroup | typer.core.TyperCommand) -> Iterator[str]:
    """All of a command and of those below it, without their dashes."""
    for parameter in command.params:
        yield from (name[2:] for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--"))
    for below in getattr(command, "commands", {}).values():
        yield from options(below)


def test_every_option_that_is_named_is_there() -> None:
    known = {name for tree in (app, weights, train) for name in options(typer.main.get_command(tree))} | OF_OTHERS
    for program in repository_files(".py"):
        if "tests" not in program.relative_to(ROOT).parts:
            known |= set(LITERAL.findall(program.read_text()))
    documents = repository_files(".md")
    assert len(documents) > 10
    spoken = {(path.name, name) for path in documents for name in SPOKEN.findall(path.read_text())}
    assert {one for one in spoken if one[1] not in known} == set()


def test_a_setting_that_is_named_like_an_option_is_one() -> None:
    """In what the service says of itself, too."""
    serve = set(options(typer.main.get_command(app).commands["serve"]))  # type: ignore[attr-defined]
    spoken = {name for path in repository_files(".py", ".md", ".html") for name in SPOKEN.findall(path.read_text())}
    settings = {name.replace("_", "-") for name in Settings.model_fields}
    assert {"event-clips", "event-clips-mb", "event-clips-days"} <= serve
    assert (spoken & settings) - serve == set()


def test_every_option_field_and_code_of_the_wire_is_told() -> None:
    """What a request may say, what a result says, and what is said of models."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    sections = dict(re.findall(r"^### (.+)\n((?:(?!##).*\n)*)", page, re.MULTILINE))
    detect, results = sections["POST /v1/detect"], sections["Results"]
    assert set(re.findall(r"^\| `(\w+)` \|", detect, re.MULTILINE)) == set(DetectOptions.model_fields)
    assert {name for name in Result.model_fields if f"`{name}" not in results} == set()
    (line,) = re.findall(r"^Options: `keyframe_hz`.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for name in DetectOptions.model_fields if f"`{name}`" not in line} == set()
    raised = "".join((ROOT / "service" / name).read_text() for name in ("api/models.py", "engine/models.py"))
    codes = set(re.findall(r'InputError\(\s*"(\w+)"', raised))
    assert {"unknown_model", "model_in_use"} <= codes
    assert {code for code in codes if f"`{code}`" not in page} == set()
