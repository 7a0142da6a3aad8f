"""docs/paper.md, Figures by model: what it says of cost and speed is measured, and each row of the paper has a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from training import write_ava

from stmixer.model.bundled import published
from stmixer.model.cost import multiply_adds
from stmixer.model.zoo import VARIANTS
from stmixer.trainer.config.file import load_config
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.ava import read_ava

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "paper.md").read_text()
ROWS = {
    name: [cell.strip() for cell in cells.split("|")]
    for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE)
    if name in VARIANTS
}
"""By model: paper's mAP, checkpoint, multiply-adds, ms, status."""


def preset(folder: Path, name: str, **more: str) -> RunConfig:
    """A run's configuration of that preset."""
    (folder / "run.yaml").write_text(yaml.safe_dump({"preset": name, "run_dir": "run", **more}))
    return load_config(folder / "run.yaml")


def test_every_model_has_a_row() -> None:
    assert set(ROWS) | {"tiny", "rt_nano"} == set(VARIANTS)
    assert all(len(cells) == 5 for cells in ROWS.values())


def test_published_checkpoints_go_by_their_names() -> None:
    """Those of `stmixer-weights list`; a model without one says no."""
    told = {name: re.findall(r"`([\w-]+)`", cells[1]) or cells[1] for name, cells in ROWS.items()}
    by_model: dict[str, list[str]] = {}
    for name, weights in published().items():
        by_model.setdefault(weights.variant, []).append(name)
    assert told == {name: by_model.get(name, "no") for name in ROWS}


def test_milliseconds_are_the_measured_ones() -> None:
    measured = json.loads((ROOT / "bench" / "results" / "paper_cpu.json").read_text())["rows"]
    eager = {
        row["model"]: row["ms"]
        for row in measured
        if (row["runtime"], row["precision"], row["batch"]) == ("eager", "fp32", 1)
    }
    assert {name: cells[3] for name, cells in ROWS.items()} == {
        name: f"{eager[name]:.1f}" if name in eager else "–" for name in ROWS
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_multiply_adds_are_the_counted_ones(name: str) -> None:
    counted = sum(multiply_adds(VARIANTS[name]).values())
    assert float(ROWS[name][2]) == pytest.approx(counted, abs=0.006)


def test_the_run_that_it_shows_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "run.yaml").write_text(text)
    config = load_config(tmp_path / "run.yaml")
    assert (config.model, [each.kind for each in config.sets]) == ("vit_b", ["ava"])


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("rt_")])
def test_every_row_of_the_paper_has_a_run(name: str, tmp_path: Path) -> None:
    config = preset(tmp_path, f"paper/{name}")
    assert config == preset(tmp_path, "ava_v22", model=name).model_copy(update={"preset": f"paper/{name}"})


def test_avas_folders_are_those_that_are_read(tmp_path: Path) -> None:
    """Those of docs/data.md, line by line, are what a set in the layout that the reader takes has, and no more."""
    text = (ROOT / "docs" / "data.md").read_text()
    (tree,) = re.findall(r"^```text\n(ava/\n.*?)^```$", text, re.DOTALL | re.MULTILINE)
    shown, folders = set(), []
    for line in tree.splitlines():
        name = line.strip().removesuffix(" ...").replace("VIDEO", "vid")
        folders[(len(line) - len(line.lstrip())) // 2 :] = [name]
        if not name.endswith("/"):
            shown.add("".join(folders))
    write_ava(tmp_path / "ava")
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "ava").rglob("*") if path.is_file()}
    pictures = {path for path in written if "/frames/" in path}
    assert shown == written - pictures | {min(pictures)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"preset": "ava_v22", "run_dir": "run", "data_root": "ava"}))
    config = load_config(tmp_path / "run.yaml")
    assert len(read_ava(config.sets[0], tmp_path / "ava", "train").videos) == 1  # type: ignore[arg-type]
