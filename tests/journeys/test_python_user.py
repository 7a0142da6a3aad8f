"""A Python user: the wheel in an empty environment, the notebook; has a table, detections, a plot, a folder done."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaged import ROOT, build, copied, environment
from PIL import Image

pytestmark = pytest.mark.slow

SUPERVISION = "supervision==0.27.0"
AFTER = """
import json, pathlib, supervision

result = next(result for result in results if result.pts_us >= 4_000_000 and result.actors)
detections = result.to_supervision()
assert isinstance(detections, supervision.Detections)
result.plot().save("plot.jpg")
likely.to_csv("likely.csv")
pathlib.Path("detections.json").write_text(json.dumps({
    "tracks": detections.tracker_id.tolist(), "classes": detections.data["class_name"].tolist(),
    "xyxy": detections.xyxy.tolist(),
}))
"""
"""What the notebook leaves open: the result that it plots for supervision, its plot and its table as files."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that holds the wheel, pandas and supervision."""
    source = copied(tmp_path_factory.mktemp("source") / "stmixer")
    wheel = build("wheel", source, tmp_path_factory.mktemp("wheel"))
    return environment(tmp_path_factory.mktemp("user") / "env", wheel, "pandas", SUPERVISION)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hers, with the clips that the notebook names, which Jupyter runs in its own folder."""
    for name in ("tests/clips", "service/web", "docs"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("tests/clips/walk.mp4", "tests/clips/fall.mp4", "service/web/sample.mp4"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(folder: Path, *command: str | Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("STMIXER_", "PYTHON"))}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_she_has_a_table_detections_a_plot_and_a_folder(python: Path, folder: Path) -> None:
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    program = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    docs = folder / "docs"
    run(docs, python, "-c", program + AFTER)

    with (docs / "likely.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert {("1", "walk"), ("1", "fall")} <= {(row["track_id"], row["action"]) for row in rows}
    assert {row["track_id"] for row in rows} == {"1"}
    assert max(len(row["action_score"].partition(".")[2]) for row in rows) <= 4
    detections = json.loads((docs / "detections.json").read_text())
    assert (detections["tracks"], detections["classes"]) == ([1], ["fall"])
    assert len(detections["xyxy"][0]) == 4
    with Image.open(docs / "plot.jpg") as plot:
        assert plot.size == (480, 360)

    stmixer = python.parent / "stmixer"
    run(folder, stmixer, "detect", "tests/clips", "-o", "results", "-o", "all.csv", "--keyframe-hz", "2")
    assert sorted(path.name for path in (folder / "results").rglob("*.json")) == ["fall.mp4.json", "walk.mp4.json"]
    with (folder / "all.csv").open() as table:
        assert {Path(row["source"]).name for row in csv.DictReader(table)} == {"fall.mp4", "walk.mp4"}
