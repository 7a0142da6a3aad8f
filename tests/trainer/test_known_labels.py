"""What a set knows of its people label by label, and where it says that somebody may lack a box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from training import CLIPS, run_config

from stmixer.trainer.config.file import load_config, parse_config
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.records import Split
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError

WALKING = SHARED / "data" / "human_walking"
VIDEOS = """video,split,source
walk.mp4,train,street:walking
fall.mp4,train,room:falling
"""
BOXES = """video,frame,x1,y1,x2,y2,label,track,crowd
walk.mp4,0,0.1,0.2,0.3,0.4,none,1,0
walk.mp4,0,0.5,0.2,0.7,0.4,lie,2,
walk.mp4,0,0.0,0.0,1.0,0.5,,,1
walk.mp4,5,0.1,0.2,0.3,0.4,none,1,0
fall.mp4,5,0.1,0.2,0.3,0.4,wave,1,0
fall.mp4,6,0.0,0.0,0.5,0.5,,,1
"""
NEGATIVES = """source,labels
street:walking,squat; fall ;run; hover
"""
LOOKED = """video,track,label
walk.mp4,1,walk
"""
LABELS = ("fall", "lie", "run", "squat", "walk")


def written(root: Path, **files: str) -> Path:
    videos = root / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for name in ("walk.mp4", "fall.mp4"):
        if not (videos / name).exists():
            (videos / name).symlink_to(CLIPS / name)
    tables = {"videos": VIDEOS, "boxes": BOXES, "negatives": NEGATIVES, "by_looking": LOOKED} | files
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return root


def read(root: Path, allowed: tuple[str, ...] | None = LABELS, **config: Any) -> Split:
    return read_custom(CustomSet(kind="custom", **config), root, "train", allowed)


def known(split: Split, row: int) -> dict[str, bool]:
    """A row's labels of which something is known, and whether they are there."""
    return {
        label: bool(split.actions[row, column])
        for column, label in enumerate(split.labels)
        if split.annotated[row, column]
    }


def test_what_is_absent_is_known_and_all_else_is_not(tmp_path: Path) -> None:
    split = read(written(tmp_path))
    assert split.labels == ("fall", "lie", "run", "squat"), "those of both tables that the run has"
    assert split.crowd.tolist() == [True, False, False, False, False, True]
    assert known(split, 0) == {}, "an area to ignore does nothing and lacks nothing"
    assert known(split, 1) == {"fall": False, "run": False, "squat": False}
    assert known(split, 2) == {"fall": False, "lie": True, "run": False, "squat": False}, "of others lie is unknown"
    assert known(split, 4) == {}, "a label that the run has not, in a source of which nothing is absent"


def test_without_a_list_all_labels_are_read_but_none(tmp_path: Path) -> None:
    assert read(written(tmp_path), None).labels == ("fall", "hover", "lie", "run", "squat", "wave")
    assert read(written(tmp_path), annotates=("lie", "run")).labels == ("lie", "run")


def test_labels_by_looking_are_taken_where_the_run_wants_them(tmp_path: Path) -> None:
    written(tmp_path)
    assert "walk" not in read(tmp_path).labels
    split = read(tmp_path, by_looking=True)
    assert [known(split, row).get("walk") for row in range(6)] == [None, True, None, True, None, None]
    assert len(split.crowd) == 6, "another label, not another person"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"negatives": "source,labels\nzoo:walking,lie\n"}, r"negatives\.csv:2: source 'zoo:walking' is not in"),
        ({"negatives": NEGATIVES + "street:walking,run\n"}, r"negatives\.csv:3: street:walking a second time"),
        ({"videos": VIDEOS.replace(",source", ",place")}, "no column source"),
        ({"by_looking": LOOKED.replace("1", "7")}, r"by_looking\.csv:2: boxes\.csv has no track 7 of walk\.mp4"),
        ({"by_looking": LOOKED.replace("1", "x")}, r"by_looking\.csv:2: .* is no whole number"),
        ({"boxes": BOXES.replace(",1,0\nwalk.mp4,5", ",1,2\nwalk.mp4,5").replace("1,0\n", "1,2\n")}, "neither 0 nor 1"),
        ({"boxes": BOXES + "walk.mp4,0,0.5,0.2,0.7,0.4,,2,1\n"}, r"boxes\.csv:8: the same box is a person in one row"),
        ({"boxes": BOXES.replace("0.5,,,1\nw", "0.5,lie,,1\nw")}, r"boxes\.csv:4: an area to ignore \(crowd 1\)"),
    ],
)
def test_faults_are_named_by_file_and_row(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        read(written(tmp_path, **files), by_looking=True)


def test_what_is_absent_is_not_there(tmp_path: Path) -> None:
    again = "walk.mp4,5,0.5,0.2,0.7,0.4,lie,2,0\nfall.mp4,10,0.1,0.2,0.3,0.4,fall,1,0\n"
    absent = "source,labels\nstreet:walking,lie;squat;walk\nroom:falling,fall;wave\n"
    root = written(tmp_path, boxes=BOXES + again, negatives=absent)
    for part in ("train", "val"):
        with pytest.raises(TrainError) as raised:
            read_custom(CustomSet(kind="custom", by_looking=True), root, part, LABELS)  # type: ignore[arg-type]
        assert [line.partition("negatives.csv: ")[2] for line in raised.value.lines] == [
            "'lie' is absent from source 'street:walking', but boxes.csv:3 says it of walk.mp4",
            "'fall' is absent from source 'room:falling', but boxes.csv:9 says it of fall.mp4",
            "'walk' is absent from source 'street:walking', but by_looking.csv:2 says it of walk.mp4",
        ], "wave is no label of the run"
    with pytest.raises(TrainError) as raised:
        read(root, exclude=("walk.mp4",))
    assert len(raised.value.lines) == 1
    assert read(root, annotates=("squat", "walk")).labels == ("squat", "walk"), "nobody looked"


def test_a_set_without_negatives_still_refuses_labels_outside_the_list(tmp_path: Path) -> None:
    root = written(tmp_path)
    (root / "negatives.csv").unlink()
    with pytest.raises(TrainError, match=r"label 'wave' is not in the list: lie"):
        read(root)
    with pytest.raises(TrainError, match=r"by_looking\.csv:2: label 'walk' is not in the list"):
        read(root, None, by_looking=True, annotates=("lie", "wave"))
    assert known(read(root, None), 2) == {"lie": True, "wave": False}, "who is labelled is so for all that it annotates"


def test_negatives_say_what_is_absent_themselves(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="leave out unlabelled"):
        read(written(tmp_path), unlabelled="negative")


def test_a_table_of_areas_to_ignore(tmp_path: Path) -> None:
    root = written(tmp_path / "set")
    (root / "negatives.csv").unlink()
    table = tmp_path / "unannotated.csv"
    table.write_text("video,frame,x1,y1,x2,y2\nwalk.mp4,5,0.5,0.5,0.75,1\nwalk.mp4,7,0,0,1,1\nfall.mp4,5,0,0,0.5,1\n")
    run = tmp_path / "run.yaml"
    run.write_text(
        "run_dir: run\ndata_root: set\nmodel: tiny\n"
        "sets:\n  - {kind: custom, ignore: unannotated.csv, parts: [train]}\n"
    )
    source = load_data(load_config(run), ("train",)).train[0]
    split = source.split
    assert len(split) == 4, "an area alone does not make a frame annotated: none at 7"
    rows = split.people(1)
    assert split.crowd[rows].tolist() == [False, True]
    assert split.boxes_xyxy[rows][1].tolist() == [0.5, 0.5, 0.75, 1]
    assert source.single_actors().tolist() == [1, 2], "of the frames with one person and one area or none"

    table.write_text("video,frame,x1,y1,x2,y2\nrun.mp4,5,0.5,0.5,0.75,1\nwalk.mp4,5,0.5,0.5,0.5,1\n")
    with pytest.raises(TrainError) as raised:
        load_data(load_config(run), ("train",))
    assert [line.partition(".csv:")[2] for line in raised.value.lines] == [
        "2: video 'run.mp4' is not in videos.csv",
        "3: box 0.5 0.5 0.5 1 has no area",
    ]


def test_who_has_one_of_a_group_is_known_not_to_have_the_others(tmp_path: Path) -> None:
    boxes = """video,frame,x1,y1,x2,y2,label,track
walk.mp4,0,0.1,0.2,0.3,0.4,walk,1
walk.mp4,0,0.5,0.2,0.7,0.4,walk,2
walk.mp4,0,0.5,0.2,0.7,0.4,sit,2
walk.mp4,0,0.7,0.2,0.9,0.4,wave,3
"""
    root = written(tmp_path, boxes=boxes)
    (root / "negatives.csv").unlink()
    labels = ("walk", "sit", "lie", "wave", "run")
    config = run_config(
        root,
        labels=list(labels),
        exclusive=[["walk", "lie", "run"], ["wave", "run"]],
        sets=[{"kind": "custom", "annotates": ["walk", "sit", "wave"], "parts": ["train"]}],
    )
    source = load_data(config, ("train",)).train[0]
    does = {"walk", "sit", "wave"}
    assert [
        {label for label, yes in zip(labels, row, strict=True) if yes} - does for row in source.annotated.tolist()
    ] == [{"lie", "run"}, {"lie", "run"}, {"run"}]
    both = config.model_copy(update={"exclusive": (("walk", "sit", "lie"),)})
    source = load_data(both, ("train",)).train[0]
    assert source.annotated[:, labels.index("lie")].tolist() == [True, False, False], "not of who has several"
    assert not source.actions[:, labels.index("lie")].any()


def test_exclusive_groups_are_of_the_runs_labels(tmp_path: Path) -> None:
    root = written(tmp_path)
    config = run_config(root, exclusive=[["walk", "fly"]], sets=[{"kind": "custom", "parts": ["train"]}])
    with pytest.raises(TrainError, match="exclusive names walk, fly, not among the run's labels"):
        load_data(config, ("train",))
    for group in ([["walk"]], [["walk", "walk"]]):
        with pytest.raises(TrainError, match="two labels or more"):
            run_config(root, exclusive=group)


def test_an_empty_set_has_nothing_to_ignore() -> None:
    with pytest.raises(TrainError, match="leave out ignore and by_looking"):
        parse_config({"run_dir": ".", "sets": [{"kind": "custom", "empty": True, "by_looking": True}]})


def test_areas_come_to_the_target_apart_from_people(tmp_path: Path) -> None:
    from stmixer.model.zoo import variant
    from stmixer.trainer.config.run import AugmentSection
    from stmixer.trainer.data.clipset import ClipSet
    from stmixer.trainer.data.plan import Draw

    config = run_config(written(tmp_path), sets=[{"kind": "custom", "parts": ["train"]}])
    data = load_data(config, ("train",))
    plain = ClipSet(data.train, variant("tiny"), None, 0)[Draw(0, 0, (0,))].target
    assert len(plain.boxes_xyxy_px) == len(plain.actions) == 2
    assert len(plain.ignore_xyxy_px) == 1
    chances = AugmentSection(flip=1.0, mosaic=1.0, short_sides=(224,))
    clips = ClipSet(data.train, variant("tiny"), chances, 0)
    for number in range(4):
        target = clips[Draw(0, 0, (number,))].target
        sides = target.ignore_xyxy_px[:, 2:] - target.ignore_xyxy_px[:, :2]
        assert (sides > 0).all()
        assert len(target.ignore_xyxy_px) >= 1
        assert not np.isin(target.boxes_xyxy_px.numpy(), target.ignore_xyxy_px.numpy()).all(1).any()


@pytest.mark.skipif(not WALKING.exists(), reason="no shared data here")
def test_the_second_man_of_human_walking_is_ignored_where_he_walks() -> None:
    table = Path(__file__).resolve().parents[2] / "weights" / "recipe" / "human_walking_second_man.csv"
    chosen = CustomSet(kind="custom", ignore=table)
    for part, step, frames in (("train", 1, 171), ("val", 5, 28)):
        split = read_custom(chosen, WALKING, part, None, step=step)  # type: ignore[arg-type]
        names = {split.videos[split.video[keyframe]].name for keyframe in split.person_keyframes[split.crowd]}
        assert names == {"walk1.mp4" if part == "train" else "walk2.mp4"}
        assert split.crowd.sum() == frames
        sides = split.boxes_xyxy[split.crowd, 2:] - split.boxes_xyxy[split.crowd, :2]
        assert (sides[:, 0] < 0.25).all(), "a man, and no half of the picture"
