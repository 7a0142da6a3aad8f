"""Keys that had other names before, and where a recipe's data lies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from training import BOXES, custom_set
from typer.testing import CliRunner

from stmixer.trainer.cli import main
from stmixer.trainer.config.file import load_config, load_phases
from stmixer.trainer.config.run import CachedFeaturesSection, RunConfig, current_keys
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.run_folder import RunFolder

RECIPE = Path(__file__).resolve().parents[2] / "weights" / "recipe"
RECORDS = sorted(RECIPE.glob("runs/*/config.yaml"))
SPLITS = {"walk.mp4": "train", "fall.mp4": "val"}

PLAIN = {
    "run_dir": "run",
    "model": "rt_lite0",
    "frozen": ["backbone."],
    "augment": {"short_sides": [64], "within": 3.0},
    "sets": [{"kind": "custom", "root": "set"}],
}
OLD = {"features": {"stretches": 3, "samples": 12}}
NEW = {"cached_features": {"segments": 3, "samples": 12}}


def written(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(PLAIN | values))
    return path


def test_an_old_file_is_the_run_it_was(tmp_path: Path) -> None:
    old = load_config(written(tmp_path / "old.yaml", **OLD))
    assert old.cached_features == CachedFeaturesSection(segments=3, samples=12)
    assert old == load_config(written(tmp_path / "new.yaml", **NEW))
    assert RunConfig.model_validate(PLAIN | OLD) == RunConfig.model_validate(PLAIN | NEW)
    assert current_keys(current_keys(OLD)) == NEW


@pytest.mark.parametrize(
    ("values", "old"),
    [
        (OLD | NEW, "features is the earlier name of cached_features"),
        ({"cached_features": {"stretches": 3, "segments": 3}}, "stretches is the earlier name of segments"),
        ({"phases": [{"name": "a"} | OLD | NEW]}, "features is the earlier name of cached_features"),
    ],
)
def test_both_names_at_once_are_one_clear_line(tmp_path: Path, values: dict[str, object], old: str) -> None:
    path = written(tmp_path / "run.yaml", **values)
    with pytest.raises(TrainError, match=old) as raised:
        load_phases(path)
    assert len(raised.value.lines) == 1
    if "phases" not in values:
        with pytest.raises(ValueError, match=old):
            RunConfig.model_validate(PLAIN | values)


@pytest.mark.parametrize("under", [OLD, NEW])
@pytest.mark.parametrize(
    "over", [{"features": {"stretches": 5}}, {"features": {"segments": 5}}, {"cached_features": {"segments": 5}}]
)
def test_one_goes_over_the_other_whatever_their_names(tmp_path: Path, under: dict[str, object], over: object) -> None:
    path = written(tmp_path / "run.yaml", **under, phases=[{"name": "a"}, {"name": "b", "epochs": 1} | over])  # type: ignore[operator]
    wanted = [CachedFeaturesSection(segments=n, samples=12) for n in (3, 5)]
    assert [config.cached_features for config in load_phases(path)] == wanted
    assert load_config(written(tmp_path / "one.yaml", **under), over).cached_features == wanted[1]  # type: ignore[arg-type]


def test_a_run_of_the_old_names_goes_on_under_the_new(tmp_path: Path) -> None:
    config = load_config(written(tmp_path / "run.yaml", **OLD))
    folder = RunFolder(config.run_dir)
    folder.root.mkdir()
    folder.checkpoint.touch()
    recorded = config.model_dump(mode="json")
    section = recorded.pop("cached_features")
    folder.config.write_text(yaml.safe_dump(recorded | {"features": {"stretches": section["segments"], "samples": 12}}))
    folder.open(config, resume=True)
    folder.config.write_text(yaml.safe_dump(recorded | {"features": {"stretches": 4, "samples": 12}}))
    with pytest.raises(TrainError, match="other values of cached_features"):
        folder.open(config, resume=True)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_what_made_the_bundled_weights_is_read_as_it_was_written(path: Path) -> None:
    recorded = yaml.safe_load(path.read_text())
    config = load_config(path)
    kept = recorded.get("features") or recorded.get("cached_features")
    if kept is None:
        assert config.cached_features is None
    else:
        assert config.cached_features is not None
        assert config.cached_features.segments == kept.get("stretches", kept.get("segments"))
    assert not Path(recorded["data_root"]).is_absolute()


def test_the_records_hold_old_names() -> None:
    assert len(RECORDS) == 15
    assert any("stretches" in path.read_text() for path in RECORDS)


def test_a_recipe_names_no_place_of_its_data(tmp_path: Path) -> None:
    path = RECIPE / "stmixer-rt.yaml"
    assert "data_root" not in yaml.safe_load(path.read_text())
    phases = load_phases(path, {"data_root": str(tmp_path)})
    assert {phase.data_root for phase in phases} == {tmp_path}
    assert [phase.run_dir.name for phase in phases][-1] == "more_clips"
    done = CliRunner().invoke(
        main, ["fit", "-c", str(path), "--data-root", str(tmp_path), "--set", f"run_dir={tmp_path}"]
    )
    assert done.exit_code == 2
    assert f"{tmp_path}/exercise is not a folder" in done.stderr


def test_the_data_root_is_said_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the folder of the command, as every path on a command line, not to the YAML's."""
    (tmp_path / "configs").mkdir()
    custom_set(tmp_path / "data" / "set", BOXES, SPLITS)
    path = written(tmp_path / "configs" / "run.yaml", data_root="elsewhere", labels=["walk", "wave"])
    monkeypatch.chdir(tmp_path)

    def said(*options: str) -> str:
        done = CliRunner().invoke(main, ["eval", "no.safetensors", *options])
        assert done.exit_code == 2
        return done.stderr

    roots: list[Path] = []

    def noted(path: Path, overrides: dict[str, object]) -> RunConfig:
        config = load_config(path, overrides)
        roots.append(config.data_root)
        return config

    monkeypatch.setattr("stmixer.trainer.cli.load_config", noted)
    for given in ("data", str(tmp_path / "data")):
        assert "no.safetensors does not exist" in said("-c", str(path), "--data-root", given)
    assert roots == [tmp_path / "data"] * 2
    assert load_data(load_config(path, {"data_root": str(tmp_path / "data")})).labels == ("walk", "wave")
    assert "not both" in said("-c", str(path), "--data-root", "data", "--set", "data_root=data")
    assert "--custom names its folder" in said("--custom", "data/set", "--data-root", "data")
