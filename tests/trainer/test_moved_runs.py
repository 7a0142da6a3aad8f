"""Runs whose folder was moved, with the files that they name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from stmixer.model.detector import build
from stmixer.model.zoo import variant
from stmixer.trainer.config.file import load_config
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.cached_features import make_features
from stmixer.trainer.training.run_folder import RunFolder

RUN = {
    "run_dir": "run",
    "model": "rt_lite0",
    "frozen": ["backbone."],
    "augment": {"short_sides": [64], "within": 3.0},
    "cached_features": {"segments": 3, "samples": 12},
    "init": {"backbone": "classifier.pth"},
    "sets": [{"kind": "custom", "root": "set", "ignore": "areas.csv"}, {"kind": "custom", "root": "other"}],
}


def begun(root: Path) -> RunConfig:
    """A run in a folder, with its own table and weights, that was cut off."""
    root.mkdir()
    (root / "areas.csv").write_text("video,frame,x1,y1,x2,y2\n")
    (root / "classifier.pth").write_bytes(b"weights")
    (root / "run.yaml").write_text(yaml.safe_dump(RUN))
    config = load_config(root / "run.yaml")
    folder = RunFolder(config.run_dir)
    folder.open(config, resume=False)
    folder.write(config)
    folder.checkpoint.touch()
    return config


def test_a_moved_run_goes_on(tmp_path: Path) -> None:
    before = begun(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    config = load_config(tmp_path / "there" / "run.yaml")
    assert config.sets != before.sets
    folder = RunFolder(config.run_dir)
    folder.open(config, resume=True)
    (tmp_path / "there" / "areas.csv").write_text("video,frame,x1,y1,x2,y2\nwalk.mp4,0,0,0,1,1\n")
    (tmp_path / "there" / "classifier.pth").write_bytes(b"other weights")
    with pytest.raises(TrainError, match="the run began with other values of sets, init"):
        folder.open(config, resume=True)


def test_an_earlier_run_goes_on_where_it_was(tmp_path: Path) -> None:
    config = begun(tmp_path / "here")
    folder = RunFolder(config.run_dir)
    folder.files.unlink()
    folder.open(config, resume=True)
    (tmp_path / "here").rename(tmp_path / "there")
    config = load_config(tmp_path / "there" / "run.yaml")
    with pytest.raises(TrainError, match="the run began with other values of sets, init"):
        RunFolder(config.run_dir).open(config, resume=True)


def test_maps_of_a_moved_run_are_its_own(tmp_path: Path) -> None:
    config = begun(tmp_path / "here")
    detector = build(variant("tiny"))

    def make(config: RunConfig) -> None:
        made = SimpleNamespace(root=config.run_dir / "features", missing=lambda: [])
        make_features(made, config, (), detector, torch.device("cpu"))  # type: ignore[arg-type]

    make(config)
    made = config.run_dir / "features" / "made.json"
    of = json.loads(made.read_text())
    assert str(tmp_path) not in made.read_text()
    # as an earlier version wrote it: where the table lay
    of["config"]["sets"][0]["ignore"] = str(tmp_path / "here" / "areas.csv")
    made.write_text(json.dumps(of))
    make(config)
    (tmp_path / "here").rename(tmp_path / "there")
    make(load_config(tmp_path / "there" / "run.yaml"))
    (tmp_path / "there" / "areas.csv").write_text("video,frame,x1,y1,x2,y2\nwalk.mp4,0,0,0,1,1\n")
    with pytest.raises(TrainError, match="holds the maps of another run"):
        make(load_config(tmp_path / "there" / "run.yaml"))
