"""Several runs in one file: each starts from the weights of the one before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training import custom_set, run_config

from stmixer.model.bundled import bundled
from stmixer.model.card import ModelCard, read_header
from stmixer.model.checkpoint import read_tensors, save
from stmixer.model.detector import build
from stmixer.model.foreign.pretrained import Pretrained
from stmixer.model.labels import Label
from stmixer.model.zoo import variant
from stmixer.trainer.config.file import load_config, load_phases
from stmixer.trainer.data.sets import label_list, load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.fit import fit_phases
from stmixer.trainer.training.weights import initial_detector

BOXES = "video,frame,x1,y1,x2,y2,label,track\nwalk.mp4,0,0.1,0.2,0.3,0.4,walk,0\nfall.mp4,0,0.1,0.2,0.3,0.4,fall,0\n"
SPLITS = {"walk.mp4": "train", "fall.mp4": "val"}


def written(tmp_path: Path, phases: object, **changes: object) -> Path:
    root = custom_set(tmp_path / "custom", BOXES, SPLITS)
    config = run_config(root, **changes).model_dump(mode="json", exclude_unset=True)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config | {"phases": phases}))
    return path


def test_phases_are_laid_over_the_rest(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        [{"name": "first", "epochs": 3, "init": {"seed": 4}}, {"name": "second", "optimiser": {"lr": 0.5}}],
        epochs=1,
        optimiser={"lr": 0.1, "weight_decay": 0.25},
    )
    first, second = load_phases(path, {"batch_size": 2})
    assert (first.epochs, second.epochs) == (3, 1)
    assert (first.optimiser.lr, second.optimiser.lr) == (0.1, 0.5)
    assert second.optimiser.weight_decay == 0.25
    assert {first.batch_size, second.batch_size} == {2}
    assert first.run_dir.name == "first"
    assert first.run_dir.parent == second.run_dir.parent
    assert first.init.weights is None
    assert first.init.seed == 4
    assert second.init.weights == first.run_dir / "weights.safetensors"
    assert second.init.classifier == "keep"
    assert load_config(path, {"batch_size": 2}) == second, "what is evaluated is what comes last"


def test_a_phase_may_start_from_the_mean_with_an_earlier_one(tmp_path: Path) -> None:
    phases = [{"name": "wide"}, {"name": "fine"}, {"name": "both", "init": {"average_with": "wide"}}]
    wide, fine, both = load_phases(written(tmp_path, phases))
    assert (wide.init.average_with, fine.init.average_with) == (None, None)
    assert both.init.weights == fine.run_dir / "weights.safetensors"
    assert both.init.average_with == wide.run_dir / "weights.safetensors"


def test_a_later_phase_may_go_half_way_back(tmp_path: Path) -> None:
    common = {"init": {"backbone": str(tmp_path / "coco.onnx")}}
    phases = [{"name": "wide"}, {"name": "fine"}, {"name": "back", "init": {"backbone": str(tmp_path / "other.onnx")}}]
    wide, fine, back = load_phases(written(tmp_path, phases, **common))
    assert (wide.init.backbone, fine.init.backbone) == (tmp_path / "coco.onnx", None)
    assert (back.init.backbone, back.init.weights) == (tmp_path / "other.onnx", fine.run_dir / "weights.safetensors")


def saved(path: Path, seed: int, *labels: str) -> Path:
    detector = build(variant("tiny", classes=len(labels)), seed=seed)
    named = tuple(Label(number, name) for number, name in enumerate(labels))
    save(path, detector.state_dict(), ModelCard(detector.config, named, trained=True))
    return path


def test_the_mean_of_two_files(tmp_path: Path) -> None:
    one, two = (
        saved(tmp_path / "one.safetensors", 1, "walk", "fall"),
        saved(tmp_path / "two.safetensors", 2, "walk", "fall"),
    )
    root = custom_set(tmp_path / "custom", BOXES, SPLITS)
    init = {"weights": str(one), "average_with": str(two), "classifier": "keep"}
    config = run_config(root, init=init, labels=["walk", "fall"])
    mean = initial_detector(config, read_header(one)[0].labels).state_dict()
    first, second = read_tensors(one), read_tensors(two)
    moved = [name for name in mean if not torch.equal(first[name], second[name])]
    assert len(moved) > len(mean) / 4
    for name in moved:
        torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)

    other = saved(tmp_path / "other.safetensors", 2, "walk", "run")
    config = run_config(root, init=init | {"average_with": str(other)}, labels=["walk", "fall"])
    with pytest.raises(TrainError, match=r"average_with: .*other.safetensors is another variant or has other labels"):
        initial_detector(config, read_header(one)[0].labels)
    with pytest.raises(TrainError, match="average_with wants weights"):
        run_config(root, init={"average_with": str(two)})


def test_labels_that_the_file_has_keep_what_it_knows(tmp_path: Path) -> None:
    """Whatever their order; the others start as those of a new network do."""
    one = saved(tmp_path / "one.safetensors", 1, "walk", "fall", "sit")
    root = custom_set(tmp_path / "custom", BOXES, SPLITS)
    labels = (Label(1, "fall"), Label(2, "wave"), Label(3, "walk"))
    init = {"weights": str(one), "classifier": "matching", "seed": 5}
    config = run_config(root, init=init, labels=[label.name for label in labels])
    started, theirs = initial_detector(config, labels).state_dict(), read_tensors(one)
    fresh = build(variant("tiny", classes=3), seed=5).state_dict()
    heads = [name for name in started if ".action_head.3." in name]
    assert heads
    for name in heads:
        torch.testing.assert_close(started[name], torch.stack([theirs[name][1], fresh[name][1], theirs[name][0]]))
    rest = [name for name in started if name not in heads]
    assert all(torch.equal(started[name], theirs[name]) for name in rest)


def test_a_set_of_ones_own_starts_from_the_bundled_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From nothing only who asks for it, or names another model and nothing to start from, and that is said."""
    path = tmp_path / "run.yaml"
    path.write_text("preset: custom\nrun_dir: run\n")
    config = load_config(path)
    assert (config.model, config.init.classifier) == ("rt_nano", "matching")
    assert config.init.weights == bundled()["stmixer-rt"].file
    assert load_config(path, {"init": {"weights": None}}).init.weights is None
    labels = (Label(1, "walk"), Label(2, "fall"))
    other = {"model": "tiny", "labels": ["walk", "fall"]}
    with caplog.at_level(logging.INFO):
        initial_detector(load_config(path, other), labels)
    assert caplog.messages == ["model tiny starts from nothing: the weights of preset custom are of rt_nano"]
    named = load_config(path, other | {"init": {"weights": "stmixer-rt"}})
    with pytest.raises(
        TrainError,
        match=r"init.weights: stmixer-rt.safetensors is of another variant than model tiny; .* init: {weights: null}",
    ):
        initial_detector(named, labels)


@pytest.mark.parametrize(
    ("init", "more", "weights", "backbone"),
    [
        ("{backbone: coco.onnx}", {}, None, "coco.onnx"),
        ("{seed: 3}", {"init": {"backbone": "coco.onnx"}}, None, "coco.onnx"),
        ("{seed: 3}", {"phases": [{"name": "one", "init": {"backbone": "coco.onnx"}}]}, None, "coco.onnx"),
        ("{weights: own.safetensors, backbone: coco.onnx}", {}, "own.safetensors", "coco.onnx"),
        ("{weights: own.safetensors}", {"init": {"backbone": "coco.onnx"}}, "own.safetensors", "coco.onnx"),
        ("{backbone: null}", {}, "stmixer-rt.safetensors", None),
    ],
)
def test_who_names_a_backbone_alone_starts_from_it_alone(
    tmp_path: Path, init: str, more: dict[str, Any], weights: str | None, backbone: str | None
) -> None:
    """And not half-way from the preset's weights, of which the file does not speak."""
    path = tmp_path / "run.yaml"
    path.write_text(f"preset: custom\nrun_dir: run\ninit: {init}\n")
    found = load_config(path, more).init
    names = [None if file is None else file.name for file in (found.weights, found.backbone)]
    assert names == [weights, backbone]


def test_a_backbone_half_way_back_to_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the pre-training's file holds, and nothing else."""
    one = saved(tmp_path / "one.safetensors", 1, "walk", "fall")
    first = read_tensors(one)
    floats = {name: x for name, x in first.items() if name.startswith("backbone.") and x.is_floating_point()}
    theirs = {name: torch.full_like(x, 3.0) for name, x in floats.items()}
    pretrained = Pretrained(theirs, {}, ())
    monkeypatch.setattr("stmixer.trainer.training.weights.read_pretrained", lambda *_: pretrained)
    init = {"weights": str(one), "backbone": str(tmp_path / "coco.onnx"), "classifier": "keep"}
    config = run_config(custom_set(tmp_path / "custom", BOXES, SPLITS), init=init, labels=["walk", "fall"])
    started = initial_detector(config, read_header(one)[0].labels).state_dict()
    pretrained.tensors["backbone.nowhere"] = torch.ones(3)
    with pytest.raises(TrainError, match=r"init.backbone: .*one.safetensors has no such backbone.nowhere"):
        initial_detector(config, read_header(one)[0].labels)
    del pretrained.tensors["backbone.nowhere"]
    assert len(theirs) > 20
    for name, x in started.items():
        torch.testing.assert_close(x, (first[name] + 3) / 2 if name in theirs else first[name])


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({"name": "a"}, "phases must be a list"),
        ([], "every phase wants a name"),
        ([3], "phases must be a list of keys and values"),
        ([{"epochs": 1}], "every phase wants a name of its own"),
        ([{"name": "a"}, {"name": "a"}], "every phase wants a name of its own"),
        ([{"name": "../a"}], "every phase wants a name of its own"),
        ([{"name": "a", "epoch": 1}], "unknown key epoch"),
    ],
)
def test_wrong_phases_are_one_clear_line(tmp_path: Path, phases: object, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        load_phases(written(tmp_path, phases))


@pytest.mark.slow
def test_a_run_of_two_phases_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        [{"name": "one"}, {"name": "two", "optimiser": {"lr": 1e-12, "weight_decay": 0}}],
        epochs=1,
        clips_per_epoch=2,
        batch_size=2,
    )
    configs = load_phases(path)
    fit_phases(configs)
    one, two = (read_tensors(c.run_dir / "weights.safetensors") for c in configs)
    learned = [name for name in one if "running_" not in name and one[name].is_floating_point()]
    assert all((one[name] - two[name]).abs().max() <= 1e-6 for name in learned), "two starts from one"

    stamp = (configs[0].run_dir / "weights.safetensors").stat().st_mtime_ns
    (configs[1].run_dir / "weights.safetensors").unlink()
    fit_phases(configs, resume=True)
    assert (configs[0].run_dir / "weights.safetensors").stat().st_mtime_ns == stamp, "what is done is not done again"
    assert (configs[1].run_dir / "weights.safetensors").exists()


@pytest.mark.slow
def test_what_is_written_lies_between_start_and_end(tmp_path: Path) -> None:
    path = written(tmp_path, [{"name": "whole"}], epochs=1, clips_per_epoch=4, batch_size=2)
    (whole,) = load_phases(path)
    part = load_config(path, {"phases": [{"name": "part", "mixing": 0.25}]})
    first = initial_detector(whole, label_list(load_data(whole).labels)).state_dict()
    fit_phases([whole])
    fit_phases([part])
    last, between = (read_tensors(c.run_dir / "weights.safetensors") for c in (whole, part))
    changed = [name for name in last if last[name].is_floating_point() and not torch.equal(first[name], last[name])]
    assert len(changed) > len(last) / 4
    for name in changed:
        torch.testing.assert_close(between[name], first[name] + 0.25 * (last[name] - first[name]))
