"""docs/notebook.ipynb, cell by cell, as Jupyter runs it: with the bundled model, in the notebook's own folder."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(cell: dict[str, Any], names: dict[str, Any]) -> tuple[str, Any]:
    """What it prints, and the value of its last line where that is an expression."""
    tree, last = ast.parse("".join(cell["source"])), None
    if isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = None if last is None else eval(compile(last, "cell", "eval"), names)
    return printed.getvalue(), value


def shown(cell: dict[str, Any]) -> str:
    """What the notebook has of its output, as text."""
    (output,) = cell["outputs"]
    return "".join(output.get("text") or output["data"]["text/plain"])


def test_every_cell_has_its_output() -> None:
    assert NOTEBOOK["nbformat"] == 4
    for cell in CODE:
        assert "error" not in {output["output_type"] for output in cell["outputs"]}
        assert shown(cell)


def test_it_takes_from_us_what_import_stmixer_offers() -> None:
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in CODE))
    taken = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    taken += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert [name for name in taken if name.partition(".")[0] == "stmixer"] == ["stmixer"]


@pytest.mark.slow
def test_the_cells_run_in_order_and_say_what_they_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "docs")
    names: dict[str, Any] = {}
    load, table, picture, folder, camera = (run(cell, names) for cell in CODE)
    assert load[0] == shown(CODE[0])
    assert {(1, "fall"), (1, "walk")} <= set(table[1].index.to_list())
    assert str(table[1]) == shown(CODE[1])
    assert str(table[1].columns.to_list()) == "['min', 'max', 'count']"
    assert isinstance(picture[1], Image.Image)
    assert picture[1].size == (480, 360)
    assert [line.split()[0] for line in folder[0].splitlines()] == ["fall.mp4", "walk.mp4"]
    assert camera[0].splitlines()[0] == shown(CODE[4]).splitlines()[0] == "0.0 [(1, 'walk')]"
    assert "'fall'" in camera[0]
