"""Runs that an earlier version began: keys that it did not know are at their defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from training import own_set, run_config

from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.cached_features import FeatureFolder
from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.cached_features import _what_made
from stmixer.trainer.training.run_folder import RunFolder

NEW_OF_A_SET = ("ignore", "by_looking")


def cached(root: Path, **more: Any) -> RunConfig:
    return run_config(
        own_set(root, "train"),
        model="rt_lite0",
        backbone_norm="frozen",
        frozen=["backbone."],
        augment={"short_sides": [64], "within": 3.0},
        cached_features={"segments": 3, "samples": 12},
        **more,
    )


def as_before(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values without what is new."""
    sets = [{key: value for key, value in one.items() if key not in NEW_OF_A_SET} for one in values["sets"]]
    assert len(sets[0]) == len(values["sets"][0]) - len(NEW_OF_A_SET)
    return {key: value for key, value in values.items() if key != "exclusive"} | {"sets": sets}


def test_a_run_goes_on(tmp_path: Path) -> None:
    config = cached(tmp_path)
    folder = RunFolder(config.run_dir)
    folder.root.mkdir()
    folder.checkpoint.touch()
    before = as_before(config.model_dump(mode="json"))
    before["loss"] = {key: value for key, value in before["loss"].items() if key != "dense"}
    folder.config.write_text(yaml.safe_dump(before))
    folder.open(config, resume=True)
    with pytest.raises(TrainError, match="other values of exclusive"):
        folder.open(config.model_copy(update={"exclusive": (("fall", "walk"),)}), resume=True)


def test_its_cached_features_are_still_its_own(tmp_path: Path) -> None:
    config = cached(tmp_path)
    keys = ("model", "variant", "sets", "labels", "exclusive", "split", "augment", "seed")
    values = {key: value for key, value in config.model_dump(mode="json").items() if key in keys}
    now = values | {"cached_features": {"samples": 12}}
    made = tmp_path / "made.json"
    made.write_text(json.dumps({"backbone": "a", "config": as_before(now)}))
    assert _what_made(made) == {"backbone": "a", "config": now}


def test_its_segments_hold_people_alone(tmp_path: Path) -> None:
    columns = {
        "source": 0,
        "size_wh": np.array((64, 64), np.float32),
        "keyframes": np.array([4]),
        "at": np.array([4]),
        "boxes_xyxy_px": np.array([[1, 2, 30, 40]], np.float32),
        "actions": np.ones((1, 2), np.bool_),
        "annotated": np.ones((1, 2), np.bool_),
    }
    np.savez(tmp_path / "000000.npz", **columns)
    np.savez(tmp_path / "000001.npz", **columns | {"crowd": np.ones(1, np.bool_)})
    folder = FeatureFolder(tmp_path, 2, (64, 64), (24, 40, 112, 320))
    before, now = (folder.target(number, 4)[1] for number in range(2))
    assert (len(before.boxes_xyxy_px), len(before.ignore_xyxy_px)) == (1, 0)
    assert (len(now.boxes_xyxy_px), len(now.actions), len(now.ignore_xyxy_px)) == (0, 0, 1)
