"""Sets of pictures and sets with negatives, from their files to their reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from training import CLIPS, custom_set

from stmixer.model.labels import Label
from stmixer.trainer.config.run import CustomSet, PictureSet
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.pictures import read_pictures
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.evaluate.evaluation import read_frame
from stmixer.trainer.evaluate.overview import overview, overview_table, write_overview
from stmixer.trainer.evaluate.page import page
from stmixer.trainer.evaluate.pictures import PERSON_LABEL, as_one_label, draw, pick
from stmixer.trainer.evaluate.predictions import KeyframePredictions, Predictions, tables
from stmixer.trainer.evaluate.report import Report, summary
from stmixer.trainer.evaluate.reports import frame_protocol, main_figures, report_empty_sets, report_sets
from stmixer.trainer.evaluate.sections import Evidence

LABELS = ("lie", "sit", "squat")
PICTURES = """image,x1,y1,x2,y2,posture,crowd
street.png,0.1,0.25,0.3,0.75,stand,0
street.png,0.4,0.25,0.5,0.5,unknown,0
street.png,0.6,0.0,1.0,0.5,unknown,1
room.png,0.1,0.5,0.6,0.75,lie,0
"""
CLIP_BOXES = """video,frame,x1,y1,x2,y2,label,track
walk.mp4,0,0.1,0.2,0.3,0.4,none,1
walk.mp4,0,0.5,0.2,0.7,0.4,lie,2
fall.mp4,5,0.1,0.2,0.3,0.4,none,1
"""


def pictures(root: Path, boxes: str = PICTURES, **config: object) -> ClipSource:
    """Three pictures of 96 by 48 px: two people and an area, somebody who lies, and nobody."""
    (root / "images").mkdir(parents=True)
    for name in ("street", "room", "empty"):
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.zeros((48, 96, 3), np.uint8))
    (root / "images.csv").write_text("image,split\nstreet.png,val\nroom.png,val\nempty.png,val\n")
    (root / "boxes.csv").write_text(boxes)
    chosen = PictureSet(kind="pictures", name="stills", **config)  # type: ignore[arg-type]
    return ClipSource.of(chosen, read_pictures(chosen, root, "val", LABELS), LABELS)


def negatives(root: Path) -> ClipSource:
    """Clips of which the sources say what is absent: nobody squats in one, nobody sits in the other."""
    custom_set(root, CLIP_BOXES, {"walk.mp4": "val", "fall.mp4": "val"})
    assert CLIPS.exists()
    (root / "videos.csv").write_text("video,split,source\nwalk.mp4,val,a:b\nfall.mp4,val,c:d\n")
    (root / "negatives.csv").write_text("source,labels\na:b,squat\nc:d,sit\n")
    chosen = CustomSet(kind="custom", name="everyday")
    return ClipSource.of(chosen, read_custom(chosen, root, "val", LABELS), LABELS)


def found(
    source: ClipSource,
    scores: dict[int, list[float]],
    more: dict[int, list[tuple[float, ...]]] | None = None,
    does: float = 0.9,
    does_from: float = 0.6,
) -> Predictions:
    """Every row's box with its person score (rows of a keyframe in turn), and boxes more with 0.95; all labels
    said, from a person score on."""
    predictions = Predictions()
    for keyframe in range(len(source.split)):
        rows = np.flatnonzero(source.split.person_keyframes == keyframe)
        boxes = [*source.split.boxes_xyxy[rows], *(more or {}).get(keyframe, [])]
        boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        person = np.array(scores.get(keyframe, []) + [0.95] * len((more or {}).get(keyframe, [])), dtype=np.float32)
        kept = person >= does_from
        actions = np.full((int(kept.sum()), len(LABELS)), does, dtype=np.float32)
        predictions.rows[0, keyframe] = KeyframePredictions(
            Draw(0, keyframe, (0,)), boxes[kept], actions, boxes, person, (320, 160)
        )
    return predictions


def labels() -> tuple[Label, ...]:
    return tuple(Label(i, name) for i, name in enumerate(LABELS, start=1))


def keyframe_of(source: ClipSource, name: str) -> int:
    return next(k for k in range(len(source.split)) if source.split.videos[source.split.video[k]].name == name)


def test_a_set_of_pictures(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    street, room, empty = (keyframe_of(source, f"{name}.png") for name in ("street", "room", "empty"))
    # of the street's rows the area itself is reported as somebody; a false one on the empty picture
    predictions = found(source, {street: [0.9, 0.3, 0.95], room: [0.5]}, {empty: [(0.1, 0.1, 0.4, 0.9)]})
    (report,) = report_sets([source], predictions, labels())
    assert report.actions is None
    people = report.people
    assert people is not None
    assert report.protocol == "pictures"
    assert (people.people, people.keyframes, people.empty_keyframes) == (3, 3, 1)
    assert (people.false_per_keyframe, people.false_per_empty_keyframe) == (pytest.approx(1 / 3), 1.0)
    assert (people.served.found, people.served.false_people) == (1, 1)
    # 224 px high: half of it is 112, a quarter 56; 448 wide: who lies is 224 long
    assert [(f.kind, f.found, f.people) for f in people.served.by_height] == [
        ("under 16 px", 0, 0),
        ("16 to 32 px", 0, 0),
        ("32 to 64 px", 0, 1),
        ("over 64 px", 1, 2),
        ("32 px and over", 1, 3),
    ]
    assert [(f.kind, f.found, f.people) for f in people.served.by_posture] == [("lie", 0, 1), ("stand", 1, 1)]
    assert people.precise.score == pytest.approx(0.3)
    assert (people.precise.found, people.precise.precision) == (3, 0.75)
    figures = main_figures([report])
    assert figures["stills/person_recall_when_precise"] == 1.0
    assert "stills/frame_map" not in figures
    assert "person AP" in page(report)


def test_pictures_of_people_alone(tmp_path: Path) -> None:
    source = pictures(tmp_path).quarter_turned()
    street, room, empty = (keyframe_of(source, f"{name}.png") for name in ("street", "room", "empty"))
    predictions = found(source, {street: [0.9, 0.3, 0.95], room: [0.5]}, {empty: [(0.1, 0.1, 0.4, 0.9)]})
    (report,) = report_sets([source], predictions, labels(), with_actions=False)
    assert report.people is not None
    given = tables(source, predictions.of(0), labels())
    truth, shown, score = as_one_label(given.truth, given.people, report.people)
    picks = pick(truth, shown, score, frame_protocol(source.config), per_label=9)
    assert [(p.kind, p.video) for p in picks] == [
        ("right", "street.png"), ("wrong", "empty.png"), ("missed", "room.png"), ("missed", "street.png")
    ]  # fmt: skip
    drawn = draw(picks, truth, shown, PERSON_LABEL, lambda video, frame: read_frame(source, video, frame))
    assert drawn[0].caption == "right: person 0.90 · street.png · frame 0"
    assert read_frame(source, "street.png", 0).shape == (96, 48, 3)
    text = page(report, Evidence(drawn))
    assert "who is not there" in text
    assert text.count("<figure>") == 4


def test_turned_pictures_are_measured_along_the_person(tmp_path: Path) -> None:
    source = pictures(tmp_path).quarter_turned()
    scores = {keyframe_of(source, "street.png"): [0.9, 0.3, 0.1], keyframe_of(source, "room.png"): [0.5]}
    given = tables(source, found(source, scores).of(0), labels())
    assert given.truth.height_px is not None
    boxes = given.truth.boxes
    sides = (boxes[:, 2:] - boxes[:, :2]) * (320, 160) * (224 / 160)
    assert given.truth.height_px == pytest.approx(sides.max(1))


def test_whose_posture_is_said_does_not_lie(tmp_path: Path) -> None:
    source = pictures(tmp_path, postures={"lie": "lie"})
    street, room = (keyframe_of(source, f"{name}.png") for name in ("street", "room"))
    (report,) = report_sets([source], found(source, {street: [0.9, 0.9, 0.1], room: [0.7]}), labels())
    assert report.actions is not None
    # lie is said of one who stands, of one who is unknown, and of one who lies: wrong, ignored, right
    assert report.actions.classes[0].detections == 2
    assert report.actions.ap("lie") == pytest.approx(1 / 4)
    assert report.out_of_set is not None
    assert (report.out_of_set.any_label.named, report.out_of_set.any_label.people) == (1, 1)


def test_a_set_with_negatives(tmp_path: Path) -> None:
    source = negatives(tmp_path)
    walk, fall = (keyframe_of(source, f"{name}.mp4") for name in ("walk", "fall"))
    predictions = found(source, {walk: [0.9, 0.8], fall: [0.7]})
    given = tables(source, predictions.of(0), labels())
    assert given.absent is not None
    assert sorted(given.absent.label.tolist()) == [2, 3, 3]
    (report,) = report_sets([source], predictions, labels(), with_tubes=True, among=("squat",))
    assert report.actions is not None
    by_name = {c.name: c for c in report.actions.classes}
    # of lie one of three is known, of squat two, of sit one
    assert {name: c.detections for name, c in by_name.items()} == {"lie": 1, "sit": 1, "squat": 2}
    assert report.mean_ap == by_name["lie"].ap == 1.0
    assert report.tubes == ()
    out = report.out_of_set
    assert out is not None
    assert (out.any_label.named, out.any_label.people, out.people) == (3, 3, 3)
    assert out.among is not None
    assert (out.among.named, out.among.people) == (2, 2)
    assert main_figures([report])["everyday/named_out_of_set"] == 1.0
    (silent,) = report_sets([source], found(source, {walk: [0.9, 0.8], fall: [0.7]}, does=0.4), labels())
    assert silent.out_of_set is not None
    assert silent.out_of_set.any_label.share == 0


def test_who_is_too_unsure_to_have_actions_is_not_found_out_of_set(tmp_path: Path) -> None:
    source = negatives(tmp_path)
    walk, fall = (keyframe_of(source, f"{name}.mp4") for name in ("walk", "fall"))
    predictions = found(source, {walk: [0.9, 0.65], fall: [0.75]}, does_from=0.7)
    (report,) = report_sets([source], predictions, labels(), score_threshold=0.7)
    out = report.out_of_set
    assert out is not None
    assert (out.any_label.named, out.any_label.people, out.people, out.person_score) == (2, 2, 3, 0.7)
    assert any("person score ≥ 0.7" in line for line in summary(report))
    assert "found with a score of 0.7" in page(report)
    (usual,) = report_sets([source], predictions, labels(), score_threshold=0.3)
    assert report.people is not None
    assert usual.people is not None
    assert usual.people.served == report.people.served, "who is found at all is told at the served score"
    assert usual.out_of_set is not None
    assert (usual.out_of_set.person_score, usual.out_of_set.any_label.people) == (0.6, 3)


def test_the_overview_has_it(tmp_path: Path) -> None:
    source = negatives(tmp_path / "clips")
    scores = {k: [0.9] * int(n) for k, n in enumerate(np.diff(source.split.starts))}
    reports: list[Report] = report_sets([source], found(source, scores), labels())
    still = pictures(tmp_path / "stills")
    reports += report_sets(
        [still], found(still, {k: [0.9] * int(n) for k, n in enumerate(np.diff(still.split.starts))}), labels()
    )
    write_overview(tmp_path / "summary.json", reports, [])
    of_clips, of_stills = json.loads((tmp_path / "summary.json").read_text())["sets"]
    assert of_clips["out_of_set"]["any_label"] == {"of": "any label", "named": 3, "people": 3, "share": 1.0}
    assert of_stills["out_of_set"] is None
    assert (of_stills["mean_ap"], of_stills["precise"]["recall"], of_stills["served"]["found"]) == (None, 1.0, 3)
    assert of_stills["false_people_per_empty_keyframe"] == 0
    assert overview(reports, [])["sets"] == [of_clips, of_stills]
    assert overview_table(reports, []).row_count == 2


def test_crowd_rows_are_no_people(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    given = tables(source, [], labels())
    assert len(given.truth) == 3
    assert given.ignored.boxes.tolist() == [[0.6, 0.0, 1.0, 0.5]]
    assert given.empty.video.tolist() == ["empty.png"]
    assert given.truth.height_px is not None
    assert np.isnan(given.truth.height_px).all(), "nobody has told the pictures' sizes"
    bare = replace(source, split=replace(source.split, posture=np.zeros_like(source.split.posture)))
    assert tables(bare, [], labels()).truth.posture is None


AREA_ON_ALL = "image,x1,y1,x2,y2,posture,crowd\nstreet.png,0.5,0.0,1.0,1.0,unknown,1\n"
NOBODY = "image,x1,y1,x2,y2,posture,crowd\n"


@pytest.mark.parametrize(("boxes", "false_people"), [(AREA_ON_ALL, 1), (NOBODY, 2)])
def test_pictures_that_happen_to_show_nobody(tmp_path: Path, boxes: str, false_people: int) -> None:
    source = pictures(tmp_path, boxes, postures={"lie": "lie"})
    street, room = (keyframe_of(source, f"{name}.png") for name in ("street", "room"))
    scores = {street: [0.1] * int(np.diff(source.split.starts)[street])}
    # in the right half of one picture, where the area is, and on another
    predictions = found(source, scores, {street: [(0.6, 0.1, 0.8, 0.9)], room: [(0.1, 0.1, 0.4, 0.9)]})
    assert report_sets([source], predictions, labels()) == []
    (report,) = report_empty_sets([source], predictions, labels(), notes=("a note",))
    assert (report.name, report.split, report.notes) == ("stills", "val", ("a note",))
    assert (report.keyframes, report.false_people) == (3, false_people)
    assert main_figures([], [report]) == {"stills/false_people_per_keyframe": false_people / 3}


def test_clips_whose_keyframes_hold_areas_alone(tmp_path: Path) -> None:
    rows = "walk.mp4,5,0.5,0,1,1,,1,1\nwalk.mp4,6,0.1,0.2,0.3,0.4,lie,1,0\nfall.mp4,0,0.5,0,1,1,,1,1\n"
    boxes = f"video,frame,x1,y1,x2,y2,label,track,crowd\n{rows}"
    custom_set(tmp_path, boxes, {"walk.mp4": "train", "fall.mp4": "train"})
    chosen = CustomSet(kind="custom", name="mine")
    # training keyframes too: with every fifth the two at 5 and 0 count, that at 6 does not
    source = ClipSource.of(chosen, read_custom(chosen, tmp_path, "train", LABELS), LABELS)
    extra = [(0.6, 0.1, 0.8, 0.9), (0.1, 0.1, 0.4, 0.9)]
    predictions = found(source, {k: [0.1] for k in range(3)}, dict.fromkeys(range(3), extra))
    assert len(report_sets([source], predictions, labels())) == 1, "somebody lies at 6"
    assert report_empty_sets([source], predictions, labels()) == []
    assert report_sets([source], predictions, labels(), step=5) == []
    (report,) = report_empty_sets([source], predictions, labels(), step=5)
    assert (report.keyframes, report.false_people) == (2, 2)
    assert report.notes == ("keyframes: annotated frames whose index is a multiple of 5",)
    somebody = boxes + "fall.mp4,0,0.1,0.2,0.3,0.4,lie,2,0\n"
    custom_set(tmp_path, somebody, {"walk.mp4": "train", "fall.mp4": "train"})
    source = ClipSource.of(chosen, read_custom(chosen, tmp_path, "train", LABELS), LABELS)
    assert len(report_sets([source], Predictions(), labels())) == 1
    assert report_empty_sets([source], Predictions(), labels()) == []
