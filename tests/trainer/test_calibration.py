"""Calibration: maps that are there are found, are folded exactly, and cannot turn a ranking round."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from training import BOXES, custom_set, decoder_output, filled, run_config, stage_output
from typer.testing import CliRunner

from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import load, save
from stmixer.model.detector import build
from stmixer.model.labels import Label
from stmixer.model.zoo import variant
from stmixer.trainer.calibrate.logit_maps import (
    ActionSamples,
    Affine,
    PersonMap,
    PersonSamples,
    fit_actions,
    fit_person,
    fold,
)
from stmixer.trainer.calibrate.samples import gather
from stmixer.trainer.cli import main
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluate.network import LoadedNetwork


def people(scale: float, bias: float, n: int = 20_000) -> PersonSamples:
    """Queries whose logits mean something else than they say."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 3, n)
    return PersonSamples(logits, np.zeros(n), rng.random(n) < expit(scale * logits + bias), np.ones(n))


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.4, -1.0), (2.5, 1.5)])
def test_a_persons_map_is_found(scale: float, bias: float) -> None:
    found = fit_person(people(scale, bias))
    assert found.scale == pytest.approx(scale, rel=0.06)
    assert found.bias == pytest.approx(bias, abs=0.15)
    assert found.start_scale == 0
    scores = found.scores(np.array([-1.0, 0.0, 1.0]), np.zeros(3))
    assert (np.diff(scores) > 0).all()


def test_the_cells_have_a_say_of_their_own() -> None:
    """A stage that made its cell's logit noisier: the map goes back to the cell's, and separates better."""
    rng = np.random.default_rng(2)
    starts = rng.normal(-2, 3, 20_000)
    right = rng.random(20_000) < expit(0.8 * starts + 0.5)
    logits = starts + rng.normal(0, 3, 20_000)
    found = fit_person(PersonSamples(logits, starts, right, np.ones(20_000)))
    assert found.scale + found.start_scale == pytest.approx(0.8, rel=0.06)
    assert found.start_scale > 6 * found.scale, "a scale has a prior, and comes near to 0"
    assert found.bias == pytest.approx(0.5, abs=0.15)
    mapped = found.scores(logits, starts)
    order = np.argsort(mapped)
    assert right[order[-2000:]].mean() > right[np.argsort(logits)[-2000:]].mean() + 0.05


def test_false_people_on_empty_scenes_count_by_their_weight() -> None:
    plain = people(1.0, 0.0)
    ghosts = np.full(500, 2.0)

    def score(weight: float) -> float:
        samples = PersonSamples(
            np.concatenate((plain.logits, ghosts)),
            np.zeros(len(plain.logits) + 500),
            np.concatenate((plain.right, np.zeros(500, np.bool_))),
            np.concatenate((plain.weights, np.full(500, weight))),
        )
        return float(fit_person(samples).scores(np.array([2.0]), np.zeros(1))[0])

    assert score(0.0) == pytest.approx(expit(2.0), abs=0.02)
    assert score(0.0) > score(1.0) + 0.05 > score(5.0) + 0.1


def test_scores_that_fall_are_refused() -> None:
    with pytest.raises(TrainError, match="do not rise with being right"):
        fit_person(people(-1.0, 0.0))
    some = people(1.0, 0.0, 10)
    for right in (np.zeros(10, np.bool_), np.ones(10, np.bool_)):
        with pytest.raises(TrainError, match="nothing to fit people on"):
            fit_person(PersonSamples(some.logits, some.starts, right, some.weights))


def actions(n: int = 4000) -> ActionSamples:
    """Three classes of scale ½ and biases 1, −1 and 0; the third is annotated twice, and was there both times."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (n, 3))
    there = rng.random((n, 3)) < expit(0.5 * logits + np.array((1.0, -1.0, 0.0)))
    annotated = np.ones((n, 3), np.bool_)
    annotated[2:, 2] = False
    logits[:2, 2], there[:2, 2] = -4, True
    return ActionSamples(logits, there, annotated, np.ones(n))


def test_actions_share_a_scale_and_few_tracks_move_little() -> None:
    found = fit_actions(actions())
    assert found.scale == pytest.approx(0.5, rel=0.06)
    assert found.bias[:2].tolist() == pytest.approx([1.0, -1.0], abs=0.12)
    assert 0 < found.bias[2] < 1.6, "without the prior it would be endless"


def test_what_is_not_annotated_has_no_say() -> None:
    samples = actions(500)
    other = ActionSamples(samples.logits, samples.there ^ ~samples.annotated, samples.annotated, samples.weights)
    assert np.array_equal(fit_actions(samples).bias, fit_actions(other).bias)
    with pytest.raises(TrainError, match="nothing to fit actions on"):
        fit_actions(ActionSamples(samples.logits, samples.there, samples.annotated & False, samples.weights))


@pytest.mark.parametrize("variant_name", ["tiny", "rt_nano"])
def test_maps_are_folded_exactly_and_into_the_last_stage_alone(fill, variant_name: str) -> None:
    detector = filled(fill, variant_name, classes=3)
    frames = detector.config.clip.frames
    clip, sizes = torch.from_numpy(fill.clip((3, frames, 64, 96), 0))[None], torch.tensor([[96.0, 64.0]])
    with torch.no_grad():
        before = detector(clip, sizes)
        fold(detector, PersonMap(0.7, 0.4, -0.9), Affine(1.3, np.array([0.5, -1.0, 0.0])))
        after = detector(clip, sizes)
    difference = [(o.stages[-1].human_logits[..., 0] - o.stages[-1].human_logits[..., 1]) for o in (before, after)]
    expected = 0.7 * difference[0] - 0.9
    if before.start_logits is not None:
        cells = before.start_logits.shape[1]
        expected[:, :cells] += 0.4 * before.start_logits[..., 0]
    assert (before.start_logits is not None) == (variant_name == "rt_nano")
    torch.testing.assert_close(difference[1], expected, rtol=1e-5, atol=1e-5)
    mapped = 1.3 * before.stages[-1].action_logits + torch.tensor([0.5, -1.0, 0.0])
    torch.testing.assert_close(after.stages[-1].action_logits, mapped, rtol=1e-5, atol=1e-5)
    assert torch.equal(before.stages[-1].boxes_xyxy_px, after.stages[-1].boxes_xyxy_px)
    assert torch.equal(before.stages[0].human_logits, after.stages[0].human_logits)
    assert torch.equal(before.stages[0].action_logits, after.stages[0].action_logits)
    assert not torch.equal(before.stages[-1].human_logits, after.stages[-1].human_logits)


def known(clip: torch.Tensor, sizes_wh: torch.Tensor):
    """In a network's place: the first person of BOXES, the same again but less surely, and the second one."""
    fractions = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.31, 0.4], [0.5, 0.2, 0.7, 0.4]])
    boxes = fractions * sizes_wh.repeat(1, 2)[:, None]
    logits = torch.tensor([[1.5, -0.5], [1.0, 0.0], [0.25, -0.25]]).expand(len(clip), 3, 2)
    does = torch.arange(6.0).view(3, 2).expand(len(clip), 3, 2)
    output = decoder_output(stage_output(boxes, human_logits=logits, action_logits=does))
    return replace(output, start_logits=torch.tensor([[3.0], [4.0]]).expand(len(clip), 2, 1))


def test_what_it_learns_from(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "val", "fall.mp4": "train"})
    (tmp_path / "bare" / "videos").mkdir(parents=True)
    (tmp_path / "bare" / "videos" / "a.mp4").symlink_to(tmp_path / "videos" / "fall.mp4")
    (tmp_path / "bare" / "videos.csv").write_text("video,split,frames\na.mp4,val,60\n")
    (tmp_path / "bare" / "boxes.csv").write_text("video,frame,x1,y1,x2,y2,label\n")
    sets = [{"kind": "custom", "parts": ["val"]}, {"kind": "custom", "root": "bare", "parts": ["val"], "empty": True}]
    config = run_config(tmp_path, sets=sets, labels=["walk", "wave"], evaluate={"every": 5})
    card = ModelCard(variant("tiny", classes=2), (Label(1, "walk"), Label(2, "wave")), trained=False)
    samples = gather(LoadedNetwork(known, card), load_data(config, ("val",)).val, config, torch.device("cpu"))
    # frames 0 and 10 of walk.mp4 with two people and one, then four empty keyframes
    assert samples.person.right.tolist() == [True, False, True, True, False, False] + [False] * 12
    assert samples.person.logits[:3].tolist() == [2.0, 1.0, 0.5]
    assert samples.person.starts[:3].tolist() == [3.0, 4.0, 0.0], "the third query started at no cell"
    assert samples.action_starts.tolist() == [3.0, 0.0, 3.0]
    assert samples.on_empty.tolist() == [False] * 6 + [True] * 12
    of_sets = samples.person.weights[:6].sum(), samples.person.weights[6:].sum()
    assert of_sets == pytest.approx((9.0, 9.0)), "every set weighs the same"
    assert (samples.people, samples.keyframes, samples.empty_keyframes) == (3, 6, 4)
    assert samples.actions.logits.tolist() == [[0, 1], [4, 5], [0, 1]]
    assert samples.actions.annotated.tolist() == [[True, True], [False, False], [True, True]]
    assert samples.actions.there.tolist() == [[True, True], [False, False], [True, False]]
    assert samples.actions.weights.tolist() == [0.5, 1.0, 0.5], "every track weighs the same"


def test_areas_to_ignore_teach_nothing(tmp_path: Path) -> None:
    area = "walk.mp4,0,0.45,0.1,0.9,0.9,,,1\n"
    rows = ["walk.mp4,0,0.1,0.2,0.3,0.4,walk,7,0", "walk.mp4,10,0.5,0.2,0.7,0.4,walk,7,0"]
    boxes = "video,frame,x1,y1,x2,y2,label,track,crowd\n" + "\n".join(rows) + "\n" + area
    custom_set(tmp_path, boxes + area.replace(",0,", ",10,", 1), {"walk.mp4": "val"})
    config = run_config(tmp_path, sets=[{"kind": "custom", "parts": ["val"]}], labels=["walk", "wave"])
    card = ModelCard(variant("tiny", classes=2), (Label(1, "walk"), Label(2, "wave")), trained=False)
    samples = gather(LoadedNetwork(known, card), load_data(config, ("val",)).val, config, torch.device("cpu"))
    # frame 0: the third query lies in the area and finds nobody; frame 10: there it finds somebody true
    assert samples.person.right.tolist() == [True, False, False, False, True]
    assert samples.person.logits.tolist() == [2.0, 1.0, 2.0, 1.0, 0.5]
    assert (samples.people, samples.empty_keyframes) == (2, 0)
    assert not samples.on_empty.any()


def test_the_command(tmp_path: Path, monkeypatch) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "val", "fall.mp4": "train"})
    detector, labels = build(variant("tiny", classes=2)), (Label(1, "walk"), Label(2, "wave"))
    card = ModelCard(detector.config, labels, trained=False, source="test")
    save(tmp_path / "in.safetensors", detector.state_dict(), card)
    monkeypatch.setattr("stmixer.trainer.calibrate.run.load_network", lambda *_: LoadedNetwork(known, card))
    out = tmp_path / "new" / "out.safetensors"
    command = ["calibrate", str(tmp_path / "in.safetensors"), "--custom", str(tmp_path), "-o", str(out)]
    done = CliRunner().invoke(main, [*command, "--device", "cpu", "--set", "workers=0", "--every", "5"])
    assert done.exit_code == 0, done.output
    assert "calibration" in done.output
    figures = json.loads(out.with_suffix(".json").read_text())
    assert set(figures) == {"person", "actions", "before", "after"}, "one video has no other half"
    assert figures["before"]["person_reliability"]["count"][8] == 2
    person, actions = figures["person"], figures["actions"]
    fold(
        detector,
        PersonMap(person["scale"], person["start_scale"], person["bias"]),
        Affine(actions["scale"], np.array([actions["bias"][label.name] for label in labels])),
    )
    model = load(out)
    assert model.card.source == f"test; calibrated on {tmp_path.name}"
    assert all(torch.equal(tensor, model.detector.state_dict()[name]) for name, tensor in detector.state_dict().items())
    assert out.with_suffix(".html").read_text().count("<svg") == 4


def test_one_line_for_weights_that_know_nothing(tmp_path: Path) -> None:
    custom_set(tmp_path, BOXES, {"walk.mp4": "val", "fall.mp4": "train"})
    detector = build(variant("tiny", classes=2))
    card = ModelCard(detector.config, (Label(1, "walk"), Label(2, "wave")), trained=False)
    save(tmp_path / "in.safetensors", detector.state_dict(), card)
    command = ["calibrate", str(tmp_path / "in.safetensors"), "--custom", str(tmp_path), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, "--device", "cpu", "--set", "workers=0"])
    assert done.exit_code == 2
    assert "calibration: no query finds anybody" in done.stderr
    assert not (tmp_path / "out").exists()
