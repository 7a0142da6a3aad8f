"""trainer/presets/paper: every row of the paper's tables is a run that starts."""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from safetensors.torch import save_file
from training import own_set

from stmixer.model.config import DetectorConfig
from stmixer.model.cost import multiply_adds
from stmixer.model.zoo import VARIANTS
from stmixer.trainer.config.file import load_config, presets
from stmixer.trainer.config.run import RunConfig
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.loader import TrainLoader
from stmixer.trainer.data.sets import RunData, label_list, load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.long_term.bank import FORMAT, TOP_K, BankCard
from stmixer.trainer.training.fit import evaluation_loader, quieten_lightning, training_plan, training_windows
from stmixer.trainer.training.module import TrainingModule
from stmixer.trainer.training.weights import initial_detector

PAPER = tuple(name for name in presets() if name.startswith("paper/"))
TABLE_1 = tuple(name for name in PAPER if "/table1" in name)
LONG_TERM = tuple(name for name in PAPER if name.endswith("_long_term"))

# 10^9 multiply-adds of a clip of 256 x 256, from Table 1
COST = {
    "a_fpn": 45.8, "a_keyframe_res5": 53.7, "b_grid": 45.6, "b_moving": 44.6, "c_fixed": 36.8, "d_spatial": 40.4,
    "d_temporal": 33.5, "d_sequential": 43.6, "d_coupled": 93.2, "e_queries_15": 31.7, "e_queries_50": 36.9,
    "e_queries_150": 51.8, "f_stages_1": 32.0, "f_stages_3": 36.9, "f_stages_9": 51.8, "g_points_8": 42.4,
    "g_points_16": 43.1, "g_points_48": 45.6, "g_points_64": 46.9, "h_points_out_64": 40.2, "h_points_out_96": 42.3,
    "h_points_out_160": 46.4, "h_points_out_192": 48.4,
}  # fmt: skip


def loaded(folder: Path, name: str, **more: object) -> RunConfig:
    (folder / "run.yaml").write_text(yaml.safe_dump({"preset": name, "run_dir": "run"} | more))
    return load_config(folder / "run.yaml")


def test_there_is_one_for_every_row_of_table_1_and_every_backbone() -> None:
    assert {name.removeprefix("paper/table1") for name in TABLE_1} == set(COST)
    backbones = {name for name in VARIANTS if not name.startswith("rt_") and name != "tiny"}
    rest = {name.removeprefix("paper/").removesuffix("_long_term") for name in PAPER if name not in TABLE_1}
    assert rest == backbones | {"jhmdb", "ucf101_24"}


@pytest.mark.parametrize("name", TABLE_1)
def test_a_row_of_table_1_changes_its_variant_alone(name: str, tmp_path: Path) -> None:
    config, base = loaded(tmp_path, name), loaded(tmp_path, "paper/slowonly_r50")
    assert config.variant != base.variant
    assert config == base.model_copy(update={"variant": config.variant, "preset": name})


@pytest.mark.parametrize("name", TABLE_1)
@pytest.mark.slow
def test_a_row_of_table_1_costs_what_the_paper_says(name: str, tmp_path: Path) -> None:
    counted = sum(multiply_adds(loaded(tmp_path, name).detector(80)).values())
    assert counted == pytest.approx(COST[name.removeprefix("paper/table1")], rel=0.01)


@pytest.mark.parametrize(
    ("name", "kind", "model"),
    [("paper/jhmdb", "jhmdb", "slowfast_r101_nl"), ("paper/ucf101_24", "ucf101_24", "slowfast_r101_nl")]
    + [(name, "ava", name.removeprefix("paper/").removesuffix("_long_term")) for name in LONG_TERM],
)
def test_the_other_rows(name: str, kind: str, model: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, name)
    assert ([each.kind for each in config.sets], config.model) == ([kind], model)
    assert (config.long_term is not None) == (name in LONG_TERM)
    if config.long_term is not None:
        assert (config.long_term.kind, config.bank) == ("offline", tmp_path / "bank.safetensors")


def test_a_preset_of_no_name_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"'paper/vit_g' is unknown; known: .*paper/vit_b"):
        loaded(tmp_path, "paper/vit_g")


@pytest.fixture
def memory_returned() -> Iterator[None]:
    """A trainer and its module refer to each other: their weights, gradients and moments go when that is noticed."""
    yield
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.slow
@pytest.mark.usefixtures("memory_returned")
@pytest.mark.parametrize("name", PAPER)
def test_two_steps(name: str, tmp_path: Path) -> None:
    """On the repository's clips, 64 px: every loss is finite, and what is trained moves."""
    quieten_lightning()
    config, data = small(name, tmp_path)
    detector = initial_detector(config, label_list(data.labels))
    if name in LONG_TERM:
        make_bank(tmp_path / "bank.safetensors", data, detector.config)
    plan = training_plan(config, data, tuple(len(source.split) for source in data.train), 1, 0)
    module = TrainingModule(detector, config, len(plan), windows=training_windows(config, data, detector.config))
    light = [(key, value) for key, value in detector.decoder.state_dict().items() if value.numel() <= 2**16]
    before = {key: value.clone() for key, value in light}
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, log_every_n_steps=1,
        gradient_clip_val=config.optimiser.clip_norm,
    )  # fmt: skip
    module.train()
    clips = ClipSet(data.train, detector.config, config.augment, 0)
    trainer.fit(module, TrainLoader(clips, plan, 0, False), evaluation_loader(config, data.val, 1, 0))
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    after = detector.decoder.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())


def small(name: str, folder: Path) -> tuple[RunConfig, RunData]:
    """The preset's run, but for its set, its size and where it runs."""
    for part in ("train", "val"):
        own_set(folder / part, part)
    config = loaded(
        folder, name, augment={"short_sides": [64]},
        sets=[{"kind": "custom", "root": part, "parts": [part]} for part in ("train", "val")],
        batch_size=1, clips_per_epoch=2, epochs=1, workers=0, accelerator="cpu", devices=1,
        schedule={"warmup_epochs": 0},
    )  # fmt: skip
    return config, load_data(config)


def make_bank(path: Path, data: RunData, config: DetectorConfig) -> None:
    """Random queries, a clip a second, of the set's videos, as wide as the decoder's."""
    videos, clips = sorted({video.name for source in data.train for video in source.split.videos}), 12
    card = BankCard("made up", "0" * 64, "train", tuple(videos), TOP_K, 2 * config.decoder.dim)
    random, of_all = torch.Generator().manual_seed(0), clips * len(videos)
    tensors = {
        "queries": torch.randn(of_all, TOP_K, card.dim, generator=random).half(),
        "scores": torch.ones(of_all, TOP_K).half(),
        "times_us": torch.arange(clips).repeat(len(videos)) * 1_000_000,
        "starts": torch.arange(len(videos) + 1) * clips,
    }
    save_file(tensors, path, {"stmixer_bank": json.dumps({"format": FORMAT, "card": asdict(card)})})
