"""The report: its figures, JSON, the terminal's table, the page and its pictures."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from stmixer.trainer.evaluate.page import page, write_page
from stmixer.trainer.evaluate.pictures import Pick, draw, pick
from stmixer.trainer.evaluate.report import Report, Subject, report_ava, report_frames
from stmixer.trainer.evaluate.sections import Evidence
from stmixer.trainer.evaluators.ava import AVA_ACTIVITYNET
from stmixer.trainer.evaluators.frames import FRAMES_ALL, FRAMES_CUSTOM, evaluate_frames, every
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, Keyframes, PersonDetections
from stmixer.trainer.evaluators.tubes import Linking

Truth = Callable[..., GroundTruth]
Found = Callable[..., Detections]
People = Callable[..., PersonDetections]
Boxes = tuple[tuple[float, float, float, float], ...]
LABELS = {0: "walk <slow>", 1: "fall", 2: "<sit>"}


class Scene:
    """Two people over four keyframes: one walks and is found, one falls and is found twice of four times."""

    def __init__(self, truth_of: Truth, found_of: Found, people_of: People, boxes: Boxes) -> None:
        a, b, _ = boxes
        frames = (0, 5, 10, 15)
        self.truth = truth_of([("v.mp4", f, box, c, c) for f in frames for c, box in ((0, a), (1, b))])
        self.people = people_of([("v.mp4", f, box, s) for f in frames for box, s in ((a, 0.9), (b, 0.7))])
        rows = [("v.mp4", f, a, 0, 0.9) for f in frames] + [("v.mp4", f, a, 1, 0.6) for f in frames[:1]]
        rows += [("v.mp4", f, b, 1, 0.8) for f in frames[:2]] + [("v.mp4", f, b, 1, 0.1) for f in frames[2:]]
        self.found = found_of(rows)

    def report(self, **more: Any) -> Report:
        subject = Subject("home & co", "val", "pseudo", ("checkpoint x.safetensors",))
        return report_frames(subject, self.truth, self.found, LABELS, FRAMES_CUSTOM, people=self.people, **more)


@pytest.fixture(scope="module")
def scene(truth_of: Truth, found_of: Found, people_of: People, boxes: Boxes) -> Scene:
    return Scene(truth_of, found_of, people_of, boxes)


def test_figures(scene: Scene, tmp_path: Path) -> None:
    report = scene.report(empty=Keyframes(np.array(["v.mp4"]), np.array([99])))
    report.write_json(tmp_path / "report.json")
    out = json.loads((tmp_path / "report.json").read_text())
    assert (out["set"], out["split"], out["origin"], out["protocol"]) == ("home & co", "val", "pseudo", "frames-custom")
    walk, fall, sit = out["classes"]
    assert (walk["ap"], walk["boxes"], walk["tracks"], walk["few_tracks"]) == (1.0, 4, 1, True)
    # Right, right, wrong, right, right.
    assert fall["ap"] == pytest.approx(1 / 2 + (1 / 4) * (2 / 3 + 3 / 4) / 2 + (1 / 4) * (3 / 4 + 4 / 5) / 2)
    assert sit["ap"] is None
    assert out["mean_ap"] == pytest.approx((1 + fall["ap"]) / 2)
    assert (out["people"]["ap"], out["people"]["recall"], out["people"]["keyframes"]) == (1.0, 1.0, 5)
    assert out["people"]["false_per_empty_keyframe"] == 0.0
    assert set(out["video_map"]) == {"0.2", "0.5", "0.5:0.95"}
    # walk 1; fall: the one-frame tube at 0.6 is wrong and goes before the right one at 0.45.
    assert out["video_map"]["0.5"] == pytest.approx((1 + 1 / 4) / 2)
    assert [t["iou"] for t in out["tubes"]] == [0.2, *(round(0.5 + 0.05 * i, 2) for i in range(10))]
    assert out["person_reliability"]["count"] == [0, 0, 0, 0, 0, 0, 0, 4, 0, 4]
    assert out["person_reliability"]["ece"] == pytest.approx(0.2)
    # 4 × 0.9, 2 × 0.8 and 2 × 0.1 come true, 1 × 0.6 does not.
    assert out["action_reliability"]["ece"] == pytest.approx((4 * 0.1 + 2 * 0.2 + 2 * 0.9 + 0.6) / 9)
    assert out["action_reliability"]["observed"][2] is None


def test_people_at_both_cuts(scene: Scene) -> None:
    people = scene.report().as_dict()["people"]
    by_label = [{"kind": "walk <slow>", "found": 4, "people": 4}, {"kind": "fall", "found": 4, "people": 4}]
    cut = {
        "precision": 1.0,
        "recall": 1.0,
        "found": 8,
        "people": 8,
        "false_people": 0,
        "by_height": [],
        "by_posture": [],
    }
    assert isinstance(people, dict)
    assert people["served"] == {"score": 0.6, "by_label": by_label, **cut}
    assert people["precise"] == {"score": 0.7, "by_label": by_label, **cut}


def test_people_alone(scene: Scene, tmp_path: Path) -> None:
    report = scene.report(with_actions=False)
    assert (report.mean_ap, report.classes, report.tubes, report.protocol) == (None, (), (), "frames-custom")
    out = report.as_dict()
    assert (out["mean_ap"], out["out_of_set"], out["action_reliability"]) == (None, None, None)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(report)
    assert "people alone" in (text := console.export_text())
    assert "found 8 of 8" in text
    write_page(tmp_path / "page.html", report)
    assert "<h1>home &amp; co val: person AP 100.0 %</h1>" in (tmp_path / "page.html").read_text()


def test_a_set_whose_labels_nobody_has_is_of_people_alone(scene: Scene) -> None:
    subject = Subject("x", "val", "true")
    report = report_frames(
        *(subject, scene.truth, scene.found.take(np.array([], dtype=np.int64)), {7: "jump"}, FRAMES_CUSTOM),
        people=scene.people,
    )
    assert report.actions is None
    assert report.people is not None


def test_out_of_set_in_all_forms(scene: Scene, truth_of: Truth, boxes: Boxes) -> None:
    absent = truth_of([("v.mp4", f, boxes[0], 1, 0) for f in (0, 5, 10, 15)])
    report = scene.report(absent=absent, among=("fall",), with_tubes=False)
    out = report.as_dict()["out_of_set"]
    one = {"named": 1, "people": 4, "share": 0.25}
    assert out == {
        "score": 0.5,
        "person_score": 0.6,
        "people": 4,
        "any_label": {"of": "any label", **one},
        "among": {"of": "fall", **one},
        "by_label": [{"of": "fall", **one}],
    }
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(report)
    text = console.export_text()
    assert "1 of 4 people found (25.0 %) have a label that is known to be absent at score ≥ 0.5, person score" in text
    assert "at score ≥ 0.5, person score ≥ 0.6; fall 1 of 4" in text
    assert "out of set, among fall: 1 of 4" in text
    assert "<td>fall</td><td>1</td><td>4</td><td>25.0</td>" in page(report)


def test_a_picture_without_detections_is_a_missed_one(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    a, _, _ = boxes
    truth = truth_of([("v", f, a, 0, 0) for f in range(0, 31)])
    found = found_of([("v", f, a, 0, 0.9) for f in (0, 5, 20, 25, 30)])
    # 10 and 15 are missed: two pictures, not nine frames.
    for max_gap, video_map in ((2, 1.0), (1, 0.0)):
        linking = Linking(max_gap=max_gap)
        fifth = every(FRAMES_CUSTOM, 5)
        report = report_frames(Subject("x", "val", "true"), truth, found, LABELS, fifth, linking=linking)
        assert report.video_map["0.5:0.95"] == pytest.approx(video_map)


def test_ava_report(scene: Scene, tmp_path: Path) -> None:
    lifted = Detections(
        scene.found.video, scene.found.frame, scene.found.boxes, scene.found.label + 1, scene.found.score
    )
    truth = GroundTruth(
        scene.truth.video, scene.truth.frame, scene.truth.boxes, scene.truth.label + 1, scene.truth.track
    )
    report = report_ava(Subject("ava", "val", "true"), truth, lifted, {2: "fall"}, AVA_ACTIVITYNET, people=scene.people)
    report.write_json(tmp_path / "report.json")
    out = json.loads((tmp_path / "report.json").read_text())
    assert (out["protocol"], out["tubes"], out["video_map"]) == ("ava-activitynet", [], {})
    # Pascal: precision 1, 1, ⅔ → ⅘, ¾ → ⅘, ⅘.
    assert out["mean_ap"] == pytest.approx(1 / 2 + 1 / 2 * 4 / 5)
    assert sum(out["action_reliability"]["count"]) == 5
    assert out["people"]["people"] == 8


def test_the_terminal_says_what_it_measured(scene: Scene) -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(scene.report())
    text = console.export_text()
    for words in (
        "frames-custom",
        "PSEUDO",
        "walk",
        "100.0",
        "1 (few)",
        "video mAP",
        "0.000 false people per keyframe",
        "frames-custom: annotated frames count; a person without a label does something unknown",
        "people (frames-custom) at IoU 0.5",
        "person score (frames-custom): expected calibration error",
    ):
        assert words in text
    assert re.search(r"<sit>\s+│\s+–\s+│\s+0", text)


def test_no_origin_is_made_up() -> None:
    with pytest.raises(ValueError, match="origin 'guess' is none of true, pseudo, mixed"):
        Subject("x", "val", "guess")  # type: ignore[arg-type]


class _Tags(HTMLParser):
    """Open tags, and every address that the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_loads_nothing_and_shows_all(scene: Scene, tmp_path: Path) -> None:
    report = scene.report()
    picks = pick(scene.truth, scene.found, report.actions, FRAMES_CUSTOM)
    pictures = draw(picks, scene.truth, scene.found, LABELS, _grey, people=scene.people)
    write_page(tmp_path / "report.html", report, Evidence(pictures))
    text = (tmp_path / "report.html").read_text()
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.loads) == len(pictures) > 0
    assert all(address.startswith("data:image/jpeg;base64,") for address in tags.loads)
    assert not re.search(r"https?:|url\(|@import|<script", text)
    # Bars; person, walk, fall; two reliability diagrams.
    assert tags.count["svg"] == 6
    assert tags.count["img"] == len(pictures)
    for words in (
        "frames-custom",
        "PSEUDO",
        "home &amp; co",
        "&lt;sit&gt;",
        "walk &lt;slow&gt;",
        "Right:",
        "Wrong:",
        "Missed:",
        "ECE",
    ):
        assert words in text
    assert "<slow>" not in text
    assert "<sit>" not in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


def test_page_of_little(truth_of: Truth, found_of: Found, boxes: Boxes) -> None:
    truth = truth_of([("v", 0, boxes[0], 0, -1)])
    bare = report_frames(Subject("x", "val", "true"), truth, found_of([]), LABELS, FRAMES_ALL, with_tubes=False)
    text = page(bare)
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert "no rows" in text
    assert "Video AP" not in text
    assert "annotated by people" in text
    assert json.dumps(bare.as_dict(), allow_nan=False)


def _grey(video: str, frame: int) -> np.ndarray:
    assert video == "v.mp4"
    return np.full((240, 320, 3), 60 + frame, dtype=np.uint8)


def test_picks(scene: Scene) -> None:
    score = evaluate_frames(scene.truth, scene.found, LABELS, FRAMES_CUSTOM)
    picks = pick(scene.truth, scene.found, score, FRAMES_CUSTOM, each=3, per_label=2)
    by_kind = {
        kind: [(p.label, p.frame, p.score) for p in picks if p.kind == kind] for kind in ("right", "wrong", "missed")
    }
    # No picture twice: both "fall" stand on pictures that "walk" has taken, so one label fills up at two.
    assert by_kind["right"] == [(0, 0, 0.9), (0, 5, 0.9)]
    assert by_kind["wrong"] == [(1, 0, 0.6)]
    assert by_kind["missed"] == [(1, 10, None), (1, 15, None)]
    assert len(pick(scene.truth, scene.found, score, FRAMES_CUSTOM, each=1)) == 3


def test_drawn_pictures(scene: Scene, boxes: Boxes) -> None:
    chosen = Pick("wrong", "v.mp4", 0, 1, 0.6, np.array(boxes[0]))
    (picture,) = draw([chosen], scene.truth, scene.found, LABELS, _grey, people=scene.people)
    assert picture.caption == "wrong: fall 0.60 · v.mp4 · frame 0"
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert image.size == (2 * 320 + 4, 240)
        rgb = np.asarray(image.convert("RGB")).astype(int)
    left, right = rgb[:, :320], rgb[:, 324:]
    for half in (left, right):
        assert (np.ptp(half[:118, 160:225], axis=2) > 60).any()  # B's outline or plate, in colour
        assert (np.abs(half[200:] - 60) < 12).all()  # nothing is drawn where nobody is
    assert np.abs(left - right).max() > 60
