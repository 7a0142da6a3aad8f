"""Two processes with the ``global`` normaliser are one process with the doubled batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from training import TESTS, custom_set, distributed_case, filled, own_set, run_config

from stmixer.trainer.training.criterion import Criterion

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_losses_and_gradients(tmp_path: Path, fill) -> None:
    """Clips with 3, 0, 1 and 0 people, dealt 3 + 0 and 1 + 0."""
    script = TESTS / "trainer" / "ddp_rank.py"
    ranks = [
        subprocess.Popen([sys.executable, script, tmp_path, str(rank)], env=ENVIRONMENT, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for process in ranks:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    detector = filled(fill, "tiny", classes=3)
    clip, sizes_wh, targets = distributed_case(fill)
    whole = Criterion(normaliser="global")(detector(clip, sizes_wh), targets, sizes_wh)
    whole.total.backward()
    files = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in (whole.terms | {"total": whole.total}).items():
        mean = sum(file["terms"][name] for file in files) / 2
        assert mean == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None
        largest = float(parameter.grad.abs().max())
        worst = float((files[0]["gradients"][name] - parameter.grad).abs().max())
        assert worst <= 1e-4 * largest + 1e-6, name


def losses_of(run: Path) -> list[float]:
    with (run / "metrics" / "start_0" / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.slow
def test_a_run_under_torchrun_has_the_losses_of_one_process(tmp_path: Path) -> None:
    own_set(tmp_path / "a", "train")
    own_set(tmp_path / "b", "val")
    sets = [{"kind": "custom", "root": "a", "parts": ["train"]}, {"kind": "custom", "root": "b", "parts": ["val"]}]
    for processes in (1, 2):
        config = run_config(
            tmp_path, sets=sets, run_dir=str(tmp_path / f"run{processes}"), devices=processes, epochs=2,
            backbone_norm="frozen", loss={"normaliser": "global"}, clips_per_epoch=12, optimiser={"lr": 1e-3},
            augment={"short_sides": [128]},
        )  # fmt: skip
        path = tmp_path / f"run{processes}.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
        command = [sys.executable, *launcher, "-m", "stmixer.trainer.cli", "fit", "-c", str(path)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"run{processes}" / "weights.safetensors").exists()
    one, two = losses_of(tmp_path / "run1"), losses_of(tmp_path / "run2")
    assert len(one) == 6
    assert two == pytest.approx(one, rel=2e-3), "steps accumulate rounding; the first is exact"
    assert two[0] == pytest.approx(one[0], rel=1e-4)


@pytest.mark.slow
def test_more_processes_than_validation_batches(tmp_path: Path) -> None:
    """``devices: 2`` without torchrun, one video with one keyframe to validate on."""
    rows = "".join(f"walk.mp4,{frame},0.1,0.2,0.3,0.4,walk,1\n" for frame in (0, 10))
    boxes = f"video,frame,x1,y1,x2,y2,label,track\n{rows}fall.mp4,5,0.1,0.2,0.3,0.4,walk,1\n"
    custom_set(tmp_path, boxes, {"walk.mp4": "train", "fall.mp4": "val"})
    config = run_config(tmp_path, devices=2, epochs=1, backbone_norm="frozen", augment={"short_sides": [128]})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "stmixer.trainer.cli", "fit", "-c", str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").exists()
