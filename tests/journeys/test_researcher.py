"""A researcher, by docs/paper.md: a row of its tables starts, her detections are scored, a checkpoint is exact."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from packaged import ROOT
from training import REFERENCE, write_ava

from stmixer.model.checkpoint import load

pytestmark = pytest.mark.slow

PAPER = (ROOT / "docs" / "paper.md").read_text()
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text()


def run(folder: Path, program: str, *arguments: str) -> str:
    """What a program of the environment says, on both streams."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_run_of_the_page_starts_with_another_row(tmp_path: Path) -> None:
    """On AVA's folder tree; small, short and on a CPU by --set, as the page's own run is not."""
    write_ava(tmp_path / "ava")
    (page,) = re.findall(r"^```yaml\n(.*?)^```$", PAPER, re.DOTALL | re.MULTILINE)
    (tmp_path / "run.yaml").write_text(page.replace("vit_b", "table1e_queries_15"))
    smaller = (
        "clips_per_epoch=2",
        "batch_size=1",
        "epochs=1",
        "workers=0",
        "accelerator=cpu",
        "augment.short_sides=[64]",
        "init={weights: null, backbone: null}",
    )
    said = run(
        tmp_path, "stmixer-train", "fit", "-c", "run.yaml", *[word for key in smaller for word in ("--set", key)]
    )
    assert "1 epochs of 2 steps of 1 clips" in said
    written = tmp_path / "runs" / "table1e_queries_15" / "weights.safetensors"
    config = load(written).card.config
    assert (config.name, config.decoder.queries, config.decoder.classes) == ("slowonly_r50", 15, 80)


def test_her_detections_are_scored_as_the_public_evaluators_score_them(ava_files: Path) -> None:
    (command,) = re.findall(r"```sh\nstmixer-train (score .*?)\n```", EVALUATION)
    said = run(ava_files, "stmixer-train", *command.split())
    public = json.loads((ava_files / "expected.json").read_text())
    for name, section in (("ava-activitynet", "activitynet_top50"), ("ava-uncapped", "uncapped_with_exclusions")):
        expected = 100 * public[section]["PascalBoxes_Precision/mAP@0.5IOU"]
        assert f"{name}: frame mAP at IoU 0.5: {expected:.4f} %\n" in said


@pytest.fixture
def ava_files() -> Path:
    return REFERENCE / "ava_eval"


def test_a_published_checkpoint_is_converted_and_exact(fill: ModuleType, tmp_path: Path) -> None:
    """Of the published layout with made-up weights: what the published network computes, to 1e-4 of its largest."""
    published = {key: torch.as_tensor(value) for key, value in fill.state_dict("slowonly_r50", 0).items()}
    torch.save({"model": published}, tmp_path / "slowonly_r50.pth")
    run(tmp_path, "stmixer-weights", "convert", "slowonly_r50.pth", "-o", "slowonly_r50.safetensors")
    run(tmp_path, "stmixer-weights", "verify", "slowonly_r50.safetensors")
    detector = load(tmp_path / "slowonly_r50.safetensors").detector
    with np.load(REFERENCE / "slowonly_r50.one.npz") as expected:
        ((width, height),) = expected["sizes"].astype(int).tolist()
        clip = torch.zeros(1, 3, detector.config.clip.frames, -(-height // 32) * 32, -(-width // 32) * 32)
        clip[0, :, :, :height, :width] = torch.from_numpy(fill.clip((3, clip.shape[2], height, width), 0))
        with torch.inference_mode():
            last = detector(clip, torch.tensor([[width, height]], dtype=torch.float32)).stages[-1]
        for name in ("human_logits", "action_logits"):
            wanted = expected[f"stage5.{name}"]
            assert np.abs(getattr(last, name).numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max()
        wanted = expected["stage5.boxes"]
        assert np.abs(last.boxes_xyxy_px.numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max()
