"""The loop: gradients, rates, resuming, learning, weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from training import filled, own_set, reference_detector, reference_targets, run_config
from typer.testing import CliRunner

from stmixer.model.checkpoint import load
from stmixer.trainer.cli import main
from stmixer.trainer.config.run import OptimiserSection, ScheduleSection
from stmixer.trainer.training.fit import ResumeCheckpoint, fit
from stmixer.trainer.training.module import TrainingModule
from stmixer.trainer.training.optimiser import learning_rate, parameter_groups, rate_factor


def two_clips(root: Path, **more: Any):
    """A run that learns the repository's two clips and is evaluated on them."""
    own_set(root / "learned", "train")
    own_set(root / "asked", "val")
    sets = [
        {"kind": "custom", "root": "learned", "parts": ["train"]},
        {"kind": "custom", "root": "asked", "parts": ["val"]},
    ]
    plain = {"sets": sets, "augment": {"short_sides": [128], "flip": 0.5}, "clips_per_epoch": 8, "epochs": 2}
    return run_config(root, **(plain | more))


def losses(root: Path, start: int = 0) -> dict[int, dict[str, str]]:
    """Rows with losses by step."""
    with (root / "run" / "metrics" / f"start_{start}" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return {int(row["step"]): {k: v for k, v in row.items() if k.startswith("train/")} for row in rows}


@pytest.mark.parametrize("name", ["tiny"])
def test_every_trained_parameter_has_a_gradient(name: str, fill, tmp_path: Path) -> None:
    """From a start where no weight is zero. The first stage's τ is the exception: all its boxes are the whole frame,
    log IoF is the same everywhere, and a softmax does not feel that."""
    detector, clip, sizes_wh = reference_detector(fill, name, [(128, 96), (96, 128)])
    module = TrainingModule(detector, run_config(tmp_path, backbone_norm="frozen"), steps_per_epoch=1)
    module.train()
    output = detector(clip, sizes_wh)
    module.criterion(output, reference_targets(fill, [(128, 96), (96, 128)]), sizes_wh).total.backward()
    trained = {n: p for n, p in detector.named_parameters() if p.requires_grad}
    without = [n for n, p in trained.items() if p.grad is None or not bool(p.grad.abs().max() > 1e-12)]
    assert set(without) <= {"decoder.stages.0.iof_tau"}
    frozen = module.frozen_parameters()
    assert frozen
    assert all(".norm_" in n or "_norm." in n for n in frozen)
    assert all(n.startswith("backbone.") for n in frozen)
    assert len(trained) + len(frozen) == len(list(detector.parameters()))


def test_frozen_norms_stay_still(fill, tmp_path: Path) -> None:
    detector, clip, sizes_wh = reference_detector(fill, "tiny", [(64, 64)])
    module = TrainingModule(detector, run_config(tmp_path, backbone_norm="frozen"), 1).train()
    before = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    detector(clip, sizes_wh)
    assert module.training
    assert before
    assert all(torch.equal(before[name], buffer) for name, buffer in detector.named_buffers())


def test_groups_of_weight_decay(fill) -> None:
    detector = filled(fill, "tiny")
    names = {id(p): name for name, p in detector.named_parameters()}
    decayed, still = (
        [names[id(p)] for p in group["params"]] for group in parameter_groups(detector, 1e-4, *[1e-3] * 3)
    )
    assert all(name.startswith("backbone.") and "norm" in name for name in still)
    assert len(still) == len([n for n in names.values() if n.startswith("backbone.") and "norm" in n])
    assert any("mixing_norm" in name for name in decayed), "the decoder's norms decay, as officially"
    assert len(decayed) + len(still) == len(names)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 0.1), (1, 0.55), (2, 1), (4.9, 1), (5, 0.1), (7.9, 0.1), (8, 0.01), (11.9, 0.01)]
)
def test_rate_over_the_epochs(epoch: float, factor: float) -> None:
    assert rate_factor(epoch, ScheduleSection(), 12) == pytest.approx(factor)


def test_rate_scales_with_the_batch() -> None:
    assert learning_rate(OptimiserSection(), 16) == pytest.approx(2e-5)
    assert learning_rate(OptimiserSection(), 64) == pytest.approx(8e-5)


class Killed(BaseException):
    """As much of a kill -9 as fits into one process: nothing that trains may catch it."""


@pytest.mark.parametrize("ends_after", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_in_mid_epoch_with_the_same_losses(tmp_path: Path, ends_after: int, monkeypatch) -> None:
    """Epochs of 4 steps: one checkpoint in the middle of the first, one in the middle of the second."""
    small = {"clips_per_epoch": 8, "batch_size": 2}
    more = small | {"optimiser": {"lr": 1e-3}, "augment": {"flip": 0.5, "colour_jitter": 0.3, "short_sides": [96, 128]}}
    whole, broken = two_clips(tmp_path / "a", **more), two_clips(tmp_path / "b", checkpoint_every=3, **more)
    fit(whole)

    save = ResumeCheckpoint._save

    def save_and_die(self: ResumeCheckpoint, trainer: L.Trainer) -> None:
        save(self, trainer)
        if trainer.global_step == ends_after:
            raise Killed

    monkeypatch.setattr(ResumeCheckpoint, "_save", save_and_die)
    with pytest.raises(Killed):
        fit(broken)
    monkeypatch.setattr(ResumeCheckpoint, "_save", save)
    fit(broken, resume=True)
    expected = losses(tmp_path / "a")
    went_on = losses(tmp_path / "b", 1)
    assert sorted(expected) == list(range(8))
    assert sorted(went_on) == list(range(ends_after, 8))
    for step, row in went_on.items():
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in expected[step].items()}, rel=1e-5
        ), step


def test_run_folder_and_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = two_clips(tmp_path, epochs=1, optimiser={"ema_decay": 0.9, "clip_norm": 1.0}, precision="bf16")
    module = fit(config)
    run = tmp_path / "run"
    assert yaml.safe_load((run / "config.yaml").read_text()) == config.model_dump(mode="json")
    versions = json.loads((run / "versions.json").read_text())
    assert len(versions["commit"].removesuffix("-dirty")) == 40
    assert versions["torch"] == torch.__version__.split("+")[0] or versions["torch"] == torch.__version__
    model = load(run / "weights.safetensors")
    assert not model.card.trained  # one epoch from nothing finds nobody
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in said if "weights.safetensors finds nobody on the validation sets and says so" in line]
    assert "learned (19 keyframes)" in str(model.card.trained_on)
    assert [label.name for label in model.card.labels] == ["fall", "stand", "walk"]
    state = module.detector.state_dict()
    assert all(torch.equal(v, state[k].cpu()) for k, v in model.detector.state_dict().items())


@pytest.mark.drill
def test_two_clips_are_learned_by_heart(tmp_path: Path) -> None:
    """Frame mAP 1.0 with `tiny`, in about a minute on two free cores."""
    config = two_clips(
        tmp_path, epochs=48, clips_per_epoch=48, batch_size=8, augment={"short_sides": [128], "flip": 0.0},
        optimiser={"lr": 1e-3, "lr_batch": 8, "clip_norm": 1.0}, schedule={"warmup_epochs": 1, "drops": [34]},
        evaluate={"every_epochs": 0},
    )  # fmt: skip
    module = fit(config)
    (report,) = module.reports
    assert report.actions.mean_ap == 1.0
    assert report.people is not None
    assert report.people.recall == 1.0
    out = tmp_path / "evaluation"
    command = ["eval", str(tmp_path / "run" / "weights.safetensors"), "--custom", str(tmp_path / "asked")]
    done = CliRunner().invoke(main, [*command, "-o", str(out), "--device", "cpu", "--set", "workers=0"])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "asked.json").read_text())["mean_ap"] == 1.0
    assert {p.suffix for p in out.iterdir()} == {".json", ".html", ".csv"}
