"""bench.model: rows beside those that a file has, and the page that tells them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import model as bench_model
from bench.model import PAGE, RESULTS, app, conditions, with_milliseconds

HERE = conditions(64)
ROW = {"runtime": "eager", "precision": "fp32", "batch": 1}


def write(path: Path, **told: Any) -> Path:
    rows = [ROW | {"model": "tiny", "ms": 7.0}, ROW | {"model": "vit_l", "ms": 9.0}]
    path.write_text(json.dumps(HERE | {"load_before": 0.1, "rows": rows} | told))
    return path


def test_a_row_takes_its_own_place_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, new = write(tmp_path / "a.json"), [ROW | {"model": "tiny", "ms": 5.0}, ROW | {"model": "vit_b", "ms": 6.0}]
    said = iter(new)
    monkeypatch.setattr(
        bench_model.subprocess, "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=f"a word\n{json.dumps(next(said))}\n"),
    )  # fmt: skip
    done = CliRunner().invoke(app, ["run", "tiny", "vit_b", "--size", "64", "-o", str(path), "--add"])
    assert done.exit_code == 0, done.output
    result = json.loads(path.read_text())
    assert {name: result[name] for name in HERE} == HERE
    assert result["rows"] == [new[0], ROW | {"model": "vit_l", "ms": 9.0}, new[1]]


@pytest.mark.parametrize("name", ["processor", "torch", "size"])
def test_rows_of_elsewhere_are_not_mixed_and_it_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(bench_model.subprocess, "run", lambda *_, **__: pytest.fail("measured"))
    path = write(tmp_path / "a.json", **{name: "another"})
    before = path.read_text()
    done = CliRunner().invoke(app, ["run", "tiny", "--size", "64", "-o", str(path), "--add"])
    assert (done.exit_code, path.read_text()) == (2, before)
    assert name in done.stderr


def test_the_page_has_what_is_measured_and_a_dash_elsewhere() -> None:
    text = (
        "| `vit_l` | 39.5 | no | 731.37 | – | built |\n| `vit_b` | 32.6 | yes | 279.43 | 12.0 | a |\n"
        "| `other` | 1 | 2 | 3 | 4 | 5 |\n"
    )
    assert with_milliseconds(text, {"vit_l": 9412.25, "tiny": 1.0}) == (
        "| `vit_l` | 39.5 | no | 731.37 | 9412.2 | built |\n| `vit_b` | 32.6 | yes | 279.43 | – | a |\n"
        "| `other` | 1 | 2 | 3 | 4 | 5 |\n"
    )


def test_the_page_here_is_what_the_command_writes(tmp_path: Path) -> None:
    emptied = with_milliseconds(PAGE.read_text(), {})
    assert emptied != PAGE.read_text()
    (tmp_path / "paper.md").write_text(emptied)
    done = CliRunner().invoke(app, ["page", "--results", str(RESULTS), "--document", str(tmp_path / "paper.md")])
    assert done.exit_code == 0
    assert (tmp_path / "paper.md").read_text() == PAGE.read_text()
