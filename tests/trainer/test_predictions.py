"""Perfect detections score 1 by every protocol; what is left out or added costs what it should."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training import BOXES, custom_set, gt_layout, write_ava

from stmixer.model.labels import Label
from stmixer.trainer.config.run import AvaSet, CustomSet, TubeSet
from stmixer.trainer.data.ava import read_ava
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.sets import label_list
from stmixer.trainer.data.tubes import read_tubes
from stmixer.trainer.evaluate.evaluation import read_frame
from stmixer.trainer.evaluate.pictures import draw, pick
from stmixer.trainer.evaluate.predictions import KeyframePredictions, Predictions, tables
from stmixer.trainer.evaluate.reports import main_figures, report_sets
from stmixer.trainer.evaluators.frames import FRAMES_ALL
from stmixer.trainer.evaluators.tables import Keyframes


def custom(root: Path, unlabelled: str = "unknown") -> ClipSource:
    custom_set(root, BOXES, {"walk.mp4": "val", "fall.mp4": "train"})
    config = CustomSet(kind="custom", unlabelled=unlabelled)  # type: ignore[arg-type]
    return ClipSource.of(config, read_custom(config, root, "val", None), ["wave", "walk"])


def jhmdb(root: Path) -> ClipSource:
    (root / "JHMDB-GT.pkl").write_bytes(pickle.dumps(gt_layout()))
    config = TubeSet(kind="jhmdb")
    return ClipSource.of(config, read_tubes(config, root, "val", 2), ["walk", "catch"])


def ava(root: Path) -> ClipSource:
    write_ava(root)
    config = AvaSet(kind="ava")
    split = read_ava(config, root, "val")
    return ClipSource.of(config, split, split.labels)


def labels_of(source: ClipSource, names: list[str]) -> tuple[Label, ...]:
    return label_list(source.split.labels if len(source.split.labels) == 80 else names)


def perfect(source: ClipSource) -> Predictions:
    """Everybody found at their place, with score 0.9 for what they do."""
    predictions = Predictions()
    for keyframe in range(len(source.split)):
        rows = source.split.people(keyframe)
        boxes = source.split.boxes_xyxy[rows].astype(np.float32)
        scores = np.where(source.actions[rows], 0.9, 0.0).astype(np.float32)
        person = np.full(len(boxes), 0.8, np.float32)
        predictions.rows[0, keyframe] = KeyframePredictions(Draw(0, keyframe, (0,)), boxes, scores, boxes, person)
    return predictions


@pytest.mark.parametrize(("make", "names"), [(custom, ["wave", "walk"]), (jhmdb, ["walk", "catch"]), (ava, [])])
def test_perfect_is_one(tmp_path: Path, make, names: list[str]) -> None:
    source = make(tmp_path)
    excluded = Keyframes(np.array(["vid"]), np.array([904]))
    reports = report_sets(
        [source], perfect(source), labels_of(source, names), with_tubes=not isinstance(source.config, AvaSet),
        excluded=excluded,
    )  # fmt: skip
    assert [report.actions.mean_ap for report in reports] == [1.0] * (2 if make is ava else 1)
    assert all(report.people is not None and report.people.recall == 1.0 for report in reports)
    if make is jhmdb:  # the custom case has tubes of a single keyframe, which linking leaves out
        assert reports[0].video_map == pytest.approx({"0.2": 1, "0.5": 1, "0.5:0.95": 1})
    assert main_figures(reports)[f"{source.split.name}/frame_map"] == 1.0


def test_pixels_where_the_set_counts_in_pixels(tmp_path: Path) -> None:
    source = jhmdb(tmp_path)
    given = tables(source, perfect(source).of(0), labels_of(source, ["walk", "catch"]))
    assert given.truth.unit == given.actions.unit == given.people.unit == "pixels"
    assert given.truth.boxes[0].tolist() == pytest.approx([10, 20, 110, 220])
    assert given.actions.boxes[0].tolist() == pytest.approx([10, 20, 110, 220], abs=1e-4)


def test_nobody_found_is_nought(tmp_path: Path) -> None:
    source = custom(tmp_path)
    (report,) = report_sets([source], Predictions(), labels_of(source, ["wave", "walk"]))
    assert report.actions.mean_ap == 0
    assert report.people is not None
    assert report.people.recall == 0


@pytest.mark.parametrize(("unlabelled", "fault"), [("unknown", False), ("negative", True)])
def test_actions_on_people_of_unknown_action_are_no_fault(tmp_path: Path, unlabelled: str, fault: bool) -> None:
    source = custom(tmp_path, unlabelled)
    found = perfect(source)
    first = found.rows[0, 0]
    scores = first.action_scores.copy()
    scores[~source.actions[source.split.people(0)].any(1)] = 0.95
    found.rows[0, 0] = replace(first, action_scores=scores)
    (report,) = report_sets([source], found, labels_of(source, ["wave", "walk"]))
    assert (report.actions.mean_ap < 1) == fault


def test_pictures_of_an_ava_set_are_those_of_its_seconds(tmp_path: Path) -> None:
    source = ava(tmp_path)
    names = labels_of(source, [])
    given = tables(source, perfect(source).of(0), names)
    (report, _) = report_sets([source], perfect(source), names, excluded=Keyframes(np.array(["vid"]), np.array([904])))
    picks = pick(given.truth, given.actions, report.actions, FRAMES_ALL)
    assert {(p.kind, p.frame) for p in picks} == {("right", 902), ("right", 903)}
    # the folder's picture n has brightness n; it begins at second 900 and has 30 a second
    brightness = [read_frame(source, "vid", second).mean() for second in (902, 903)]
    assert brightness == pytest.approx([61, 91], abs=1)
    pictures = draw(picks, given.truth, given.actions, given.labels, lambda v, f: read_frame(source, v, f))
    assert len(pictures) == len(picks)
