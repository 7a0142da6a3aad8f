"""The programs of the package look alike: their help, what they say of a mistake, and their version."""

from __future__ import annotations

from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

from stmixer.commands import app
from stmixer.model.cli import main as weights
from stmixer.trainer.cli import main as train

PROGRAMS = {"stmixer": app, "stmixer-weights": weights, "stmixer-train": train}
DRAWN = set("╭╮╰╯│─")
"""What frames are made of."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_says_its_version(name: str) -> None:
    done = CliRunner().invoke(PROGRAMS[name], ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"{name} {metadata.version('stmixer')}\n")


@pytest.mark.parametrize("name", PROGRAMS)
def test_their_help_is_plain(name: str) -> None:
    group = typer.main.get_command(PROGRAMS[name])
    below = [[command] for command in sorted(group.commands)]  # type: ignore[attr-defined]
    assert len(below) > 3
    for command in ([], *below):
        done = CliRunner().invoke(PROGRAMS[name], [*command, "--help"])
        assert done.exit_code == 0
        assert done.stdout.lstrip().startswith("Usage: ")
        assert not DRAWN & set(done.stdout), command
        headings = [line for line in done.stdout.splitlines() if line in ("Arguments:", "Options:", "Commands:")]
        assert "Options:" in headings
        assert ("Commands:" in headings) == (not command or command[0] in ("keys", "bench"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_mistake_is_said_alike(name: str) -> None:
    done = CliRunner().invoke(PROGRAMS[name], ["--colour"])
    assert done.exit_code == 2
    usage, hint, nothing, mistake = done.stderr.splitlines()
    assert (usage.split()[0], hint.split()[0], nothing) == ("Usage:", "Try", "")
    assert mistake == "Error: No such option: --colour"
