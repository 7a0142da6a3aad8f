"""Files for publishing: matrices in half precision, and the card that a user reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from stmixer.model.card import CheckpointError, read_header
from stmixer.model.checkpoint import halved, load, open_model, read_tensors, save, untrained
from stmixer.model.cli import main
from stmixer.model.config import ConfigError
from stmixer.trainer.config.file import load_config

METRICS = {"exercise": {"frame_map": 0.5, "split": "val"}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    model = untrained("tiny")
    save(folder / "whole.safetensors", model.detector.state_dict(), model.card)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    command = ["pack", str(folder / "whole.safetensors"), "-o", str(folder / "half.safetensors")]
    command += ["--name", "stmixer-toy", "--metrics", str(folder / "metrics.json"), "--licence", "research only"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return folder / "half.safetensors"


def test_matrices_are_stored_in_half_and_computed_with_in_single(packed: Path) -> None:
    whole = packed.with_name("whole.safetensors")
    assert packed.stat().st_size < 0.6 * whole.stat().st_size
    stored = read_tensors(packed)
    assert {t.dtype for t in stored.values() if t.dim() > 1} == {torch.float16}
    assert torch.float16 not in {t.dtype for t in stored.values() if t.dim() < 2}
    exact, rounded = load(whole).detector.state_dict(), load(packed).detector.state_dict()
    for name, tensor in exact.items():
        assert rounded[name].dtype == tensor.dtype
        assert (rounded[name] - tensor).abs().max() <= 2**-11 * tensor.abs().max() + 1e-7


def test_the_file_says_what_it_is(packed: Path) -> None:
    card, _ = read_header(packed)
    assert (card.name, card.metrics, card.licence) == ("stmixer-toy", METRICS, "research only")
    assert load(packed).card == card
    assert CliRunner().invoke(main, ["verify", str(packed)]).exit_code == 0


def test_what_half_precision_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"too large for half precision:\n  wide"):
        halved({"wide": torch.full((2, 2), 1e6), "fine": torch.ones(2, 2)})


def test_metrics_must_be_json(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    done = CliRunner().invoke(
        main, ["pack", str(packed), "-o", str(tmp_path / "x"), "--metrics", str(tmp_path / "bad.json")]
    )
    assert done.exit_code == 2
    assert "cannot be read as JSON" in done.stderr
    with pytest.raises(CheckpointError, match="metrics are names and values"):
        type(read_header(packed)[0])(**{**vars_of(packed), "metrics": 3})


def vars_of(path: Path) -> dict[str, object]:
    card, _ = read_header(path)
    return {name: getattr(card, name) for name in card.__slots__}


@pytest.fixture
def shelf(packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where bundled weights lie: one file under two names, and a name without a file."""
    (tmp_path / "toy.safetensors").write_bytes(packed.read_bytes())
    listed = [
        {"name": "stmixer-rt", "file": "toy.safetensors"},
        {"name": "stmixer-rt-hd", "file": "toy.safetensors", "short_side": 192},
        {"name": "lost", "file": "lost.safetensors"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"bundled": listed}))
    monkeypatch.setattr("stmixer.model.bundled.FOLDER", tmp_path)
    return tmp_path


def test_what_runs_when_nothing_is_named(shelf: Path, packed: Path) -> None:
    assert open_model(None, None).card.name == "stmixer-rt"
    assert open_model("stmixer-rt", None).card.trained is read_header(packed)[0].trained
    assert not open_model("tiny", None).card.trained
    with pytest.raises(CheckpointError, match="holds stmixer-toy, not tiny; leave --model out"):
        open_model("tiny", packed)
    (shelf / "manifest.json").write_text(json.dumps({"bundled": []}))
    for name in (None, "stmixer-rt"):
        with pytest.raises(CheckpointError, match="stmixer-rt are not installed; name others with --weights"):
            open_model(name, None)


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    "named", [("stmixer-rt-hd", None), (None, Path("stmixer-rt-hd")), ("stmixer-rt-hd", Path("stmixer-rt-hd"))]
)
def test_one_file_has_two_names_and_sizes(named: tuple[str | None, Path | None]) -> None:
    hd, plain = open_model(*named), open_model(None, None)
    assert (hd.card.name, hd.card.config.preprocess.short_side) == ("stmixer-rt-hd", 192)
    assert hd.detector.config == hd.card.config
    assert plain.card.config.preprocess.short_side == 128
    for name, tensor in plain.detector.state_dict().items():
        assert torch.equal(hd.detector.state_dict()[name], tensor)


@pytest.mark.usefixtures("shelf")
def test_a_name_without_its_file_is_none() -> None:
    with pytest.raises(ConfigError, match="unknown model variant 'lost'"):
        open_model("lost", None)
    with pytest.raises(CheckpointError, match="lost does not exist"):
        load(Path("lost"))


def test_a_file_goes_before_a_name(shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "stmixer-rt-hd").write_bytes((shelf / "toy.safetensors").read_bytes())
    monkeypatch.chdir(here)
    assert load(Path("stmixer-rt-hd")).card.name == "stmixer-toy"


@pytest.mark.usefixtures("shelf")
def test_a_name_does_for_the_commands_too() -> None:
    told = CliRunner().invoke(main, ["info", "stmixer-rt-hd"])
    assert told.exit_code == 0, told.output
    assert "192" in told.output
    refused = CliRunner().invoke(main, ["info", "lost"])
    assert refused.exit_code == 2
    assert "bundled: stmixer-rt, stmixer-rt-hd; variants:" in refused.stderr


def test_training_starts_from_a_name(shelf: Path, tmp_path: Path) -> None:
    text = "run_dir: run\nmodel: tiny\ninit: {weights: stmixer-rt-hd}\nsets: [{kind: custom, root: mine}]\n"
    (tmp_path / "run.yaml").write_text(text)
    assert load_config(tmp_path / "run.yaml").init.weights == shelf / "toy.safetensors"
