"""The dense person head in training: one view of the keyframe's cells for its own loss and for the queries."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from training import picture_set, run_config

from stmixer.model.checkpoint import read_tensors
from stmixer.model.detector import build
from stmixer.model.zoo import variant
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.fit import fit
from stmixer.trainer.training.module import TrainingModule

PICTURES = [{"kind": "pictures", "postures": {"lie": "lie"}}]


def configured(root: Path, **more: object) -> RunConfig:
    plain = {
        "model": "rt_nano",
        "sets": PICTURES,
        "stills": True,
        "epochs": 1,
        "clips_per_epoch": 4,
        "batch_size": 2,
        "augment": {"short_sides": [64]},
        "backbone_norm": "frozen",
        "schedule": {"warmup_epochs": 0.0},
        "optimiser": {"lr": 1e-2},
    }
    return run_config(picture_set(root), **plain | more)


def test_the_head_learns_by_its_own_loss(tmp_path: Path) -> None:
    config = configured(tmp_path, loss={"dense": 1.0}, frozen=["backbone."])
    fit(config)
    before = build(variant("rt_nano", classes=1), seed=0).state_dict()
    after = read_tensors(config.run_dir / "weights.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in after if name.startswith("person_head."))
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("backbone."))
    (path,) = config.run_dir.glob("metrics/start_0/metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rows) == 2
    for row in rows:
        terms = {name: float(value) for name, value in row.items() if name.startswith("train/loss_") and value}
        assert {"train/loss_dense_score", "train/loss_dense_box"} <= terms.keys()
        weights = {"ce": 2, "bbox": 2, "giou": 2, "bce": 24}
        others = {name: value for name, value in terms.items() if "dense" not in name}
        total = sum(weights[name.split("_")[1]] * value for name, value in others.items()) / len(others)
        total += terms["train/loss_dense_score"] + 2 * terms["train/loss_dense_box"]
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-4)


def test_training_computes_what_the_detector_does(tmp_path: Path) -> None:
    """Cells of keyframes alone, and a frozen backbone folded: the same boxes as of the detector's forward."""
    detector = build(variant("rt_nano", classes=1), seed=0)
    module = TrainingModule(detector, configured(tmp_path, frozen=["backbone."]), 1)
    clip = torch.rand(2, 3, detector.config.decoder.frames, 64, 96, generator=torch.Generator().manual_seed(0))
    sizes_wh = torch.tensor([[96.0, 64.0]] * 2)
    with torch.no_grad():
        maps = module._maps(clip)
        cells = module._cells(maps, 2)
        ours, theirs = module._rest(maps, cells, sizes_wh), detector(clip, sizes_wh)
    assert cells is not None
    assert len(cells.logits) == 2
    for a, b in zip(ours.stages, theirs.stages, strict=True):
        torch.testing.assert_close(a.boxes_xyxy_px, b.boxes_xyxy_px, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(a.human_logits, b.human_logits, rtol=1e-4, atol=1e-4)


def test_the_head_learns_at_the_backbones_rate_unless_said_otherwise(tmp_path: Path) -> None:
    detector = build(variant("rt_nano", classes=1), seed=0)
    names = {id(parameter): name.split(".")[0] for name, parameter in detector.named_parameters()}

    def rates(**optimiser: float) -> dict[str, set[float]]:
        config = configured(tmp_path, optimiser={"lr": 1.0, "lr_batch": 2, "backbone_factor": 0.1} | optimiser)
        given: Any = TrainingModule(detector, config, 1).configure_optimizers()
        found: dict[str, set[float]] = {}
        for group in given["optimizer"].param_groups:
            for parameter in group["params"]:
                found.setdefault(names[id(parameter)], set()).add(group["initial_lr"])
        return found

    assert rates() == {"backbone": {0.1}, "person_head": {0.1}, "feature_space": {1.0}, "decoder": {1.0}}
    assert rates(person_head_factor=0.5)["person_head"] == {0.5}


def test_a_model_without_a_head_has_no_loss_for_it(tmp_path: Path) -> None:
    for changes in ({"model": "rt_lite0"}, {"variant": {"cells": 0}}):
        with pytest.raises(TrainError, match=r"loss\.dense: no query of rt_\w+ starts at a cell"):
            configured(tmp_path, loss={"dense": 1.0}, **changes)
        with pytest.raises(TrainError, match=r"optimiser\.person_head_factor: no query of rt_\w+ starts at a cell"):
            configured(tmp_path, optimiser={"person_head_factor": 0.5}, **changes)
