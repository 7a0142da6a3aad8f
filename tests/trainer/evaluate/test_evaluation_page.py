"""docs/evaluation.md: each figure on it is what the evaluators give on the files it names, and the public ones gave."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from stmixer.trainer.cli import main
from stmixer.trainer.evaluators.ava import AVA_ACTIVITYNET, AVA_UNCAPPED, AvaProtocol, evaluate_ava
from stmixer.trainer.evaluators.ava_csv import read_detections, read_excluded, read_label_map, read_truth
from stmixer.trainer.evaluators.frames import FRAMES_ALL, evaluate_frames
from stmixer.trainer.evaluators.tables import keys
from stmixer.trainer.evaluators.tube_scores import COCO_THRESHOLDS, evaluate_tubes

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
RESULTS = ROOT / "bench" / "results"
MAP = "PascalBoxes_Precision/mAP@0.5IOU"


def row(start: str) -> list[str]:
    """The cells after the first of the one table row that begins so."""
    (found,) = re.findall(rf"^\| {re.escape(start)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


class Ava:
    """The reference files, and a protocol's frame mAP on them in percent."""

    def __init__(self, folder: Path) -> None:
        self.truth, self.found = read_truth(folder / "gt.csv"), read_detections(folder / "pred.csv")
        self.labels = read_label_map(folder / "label_map.pbtxt")
        self.excluded = read_excluded(folder / "excluded.csv")
        self.public = json.loads((folder / "expected.json").read_text())

    def frame_map(self, protocol: AvaProtocol) -> float:
        score = evaluate_ava(self.truth, self.found, self.labels, protocol, excluded=self.excluded)
        return 100 * score.mean_ap


@pytest.fixture(scope="module")
def ava(ava_folder: Path) -> Ava:
    return Ava(ava_folder)


def test_public_and_ours_on_ava(ava: Ava) -> None:
    for start, protocol, section in (
        ("ActivityNet's (the AVA challenge)", AVA_ACTIVITYNET, "activitynet_top50"),
        ("PySlowFast's, AlphAction's (STMixer's numbers)", AVA_UNCAPPED, "uncapped_with_exclusions"),
    ):
        figures = [f"{100 * ava.public[section][MAP]:.4f}", f"{ava.frame_map(protocol):.4f}"]
        assert row(start) == [f"`{protocol.name}`", *figures]


def test_the_command_says_the_same(ava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = re.findall(r"```sh\nstmixer-train (score .*?)\n```", PAGE)
    monkeypatch.chdir(ava_folder)
    said = CliRunner().invoke(main, [*command.split(), "--by-label"])
    assert said.exit_code == 0, said.output
    for start in ("ActivityNet's (the AVA challenge)", "PySlowFast's, AlphAction's (STMixer's numbers)"):
        name, _, ours = row(start)
        assert f"{name.strip('`')}: frame mAP at IoU 0.5: {ours} %\n" in said.output
    assert "timestamps of the exclusion list are dropped" in said.output
    expected = json.loads((ava_folder / "expected.json").read_text())["uncapped_with_exclusions"]
    of_labels = re.findall(r"^ +([\d.]+) %  (.+)$", said.output.partition("ava-uncapped")[2], re.MULTILINE)
    assert len(of_labels) > 10
    for value, name in of_labels:
        assert float(value) == pytest.approx(
            100 * expected[f"PascalBoxes_PerformanceByCategory/AP@0.5IOU/{name}"], abs=1e-4
        )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gt.csv": "vid,0902,0.1,0.1,0.2,0.2,9999,1\n"}, "no box has a label of label_map.pbtxt"),
        ({"pred.csv": "vid,0902,0.1\n"}, "pred.csv"),
        ({"label_map.pbtxt": "nothing"}, "label_map.pbtxt: no labels"),
        ({"excluded.csv": None}, "excluded.csv cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_such_file_is_one_line(
    ava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], said: str
) -> None:
    for file in ava_folder.iterdir():
        if (text := changed.get(file.name, file.read_text())) is not None:
            (tmp_path / file.name).write_text(text)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"```sh\nstmixer-train (score .*?)\n```", PAGE)
    told = CliRunner().invoke(main, command.split())
    assert (told.exit_code, len(told.output.splitlines())) == (2, 1)
    assert said in told.output


def test_what_each_rule_moves(ava: Ava) -> None:
    caps, without = {"best 50": 50, "all": None}, {"ignored": True, "wrong": False}
    listed = {"kept": False, "dropped": True}
    for cap, needs, excludes in itertools.product(caps, without, listed):
        protocol = AvaProtocol("x", caps[cap], without[needs], listed[excludes])
        assert row(f"{cap} | {needs} | {excludes}") == [f"{ava.frame_map(protocol):.2f}"]


def test_what_is_in_the_files(ava: Ava) -> None:
    truth, found = ava.truth, ava.found
    pairs = np.unique(keys(truth, found)[1], return_counts=True)[1]
    said = re.search(
        r"(\d+) true boxes with labels on (\d+) timestamps, (\d+) detections with the failings of real ones: "
        r"(\d+) to (\d+) pairs a timestamp, (\d+) scores that another detection has already, several labels a box, "
        r"(\d+) boxes with",
        " ".join(PAGE.split()),
    )
    assert said is not None
    assert [int(value) for value in said.groups()] == [
        len(truth.frame), len(set(zip(truth.video, truth.frame, strict=True))), len(found.frame), pairs.min(),
        pairs.max(), len(found.score) - len(np.unique(found.score)), (~np.isin(truth.label, list(ava.labels))).sum(),
    ]  # fmt: skip


def test_public_and_ours_on_tubes(tube_reference: Any) -> None:
    r = tube_reference
    ours = {
        f"frame mAP at {iou}": evaluate_frames(r.truth, r.found, r.labels, FRAMES_ALL, threshold=iou).mean_ap
        for iou in (0.2, 0.5)
    }
    scores = evaluate_tubes(r.truth, r.tubes, r.labels, FRAMES_ALL, thresholds=(0.2, *COCO_THRESHOLDS))
    at = {score.iou: score.mean_ap for score in scores}
    ours |= {f"video mAP at {iou}": at[iou] for iou in (0.2, 0.5, 0.75)}
    ours["video mAP at 0.5:0.95"] = float(np.mean([at[iou] for iou in COCO_THRESHOLDS]))
    for start, value in ours.items():
        public = r.expected[start.replace(" at ", "@").replace(" ", "_")]
        assert row(start) == [f"{public:.3f}", f"{100 * value:.3f}"]


def test_what_is_measured_of_tracks_is_what_the_page_says() -> None:
    for each in json.loads((RESULTS / "tracks.json").read_text())["rows"]:
        idf1 = [each["ours"]["idf1"], each["boxes"]["idf1"], each["highest"], each["bytetrack"]["idf1"]]
        pairs = [f"{each['ours'][name]} | {each['bytetrack'][name]}" for name in ("hota", "switches")]
        pairs.insert(0, " | ".join(map(str, idf1)))
        assert f"| {each['set']} | {each['hz']} | {' | '.join(pairs)} |" in PAGE


def test_what_is_measured_of_smoothed_actions_is_what_the_page_says() -> None:
    measured = json.loads((RESULTS / "smoothing.json").read_text())
    for each in measured["rows"]:
        single, smoothed = each["single"], each["smoothed"]
        pairs = {name: f"{single[name]} | {smoothed[name]}" for name in single}
        late = "–" if each["told_after_s"] is None else each["told_after_s"]
        columns = (
            each["set"], each["hz"], pairs["map"], pairs["flicker"], each["true_changes"], pairs["superfluous"], late,
            pairs["ece"], pairs["brier"],
        )  # fmt: skip
        assert f"| {' | '.join(map(str, columns))} |" in PAGE


def test_what_tracks_and_rules_cost_is_what_the_page_says() -> None:
    measured = json.loads((RESULTS / "watching.json").read_text())
    assert f"{measured['people']} people and {measured['labels']} labels" in " ".join(PAGE.split())
    for stream, parts in measured["streams"].items():
        cost = {part: each["cpu_ms"] for part, each in parts.items()}
        assert row(stream) == [f"{cost['tracks']:.3f}", f"{cost['rules']:.3f}", f"{sum(cost.values()):.3f}"]
    assert max(sum(each["cpu_ms"] for each in parts.values()) for parts in measured["streams"].values()) <= 1
    assert measured["streams"]["no rule"]["rules"]["cpu_ms"] < 0.01
