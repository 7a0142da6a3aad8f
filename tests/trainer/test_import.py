"""``stmixer-train import``: what each tool's export says becomes a set's rows; what is left out is told in words."""

from __future__ import annotations

import copy
import csv
import errno
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import (
    AVA_LABELS,
    ava_rows,
    coco_video,
    cvat_images,
    cvat_video,
    draw_pictures,
    via_csv,
    via_project,
    write_json,
    youtube_vis,
)
from training import CLIPS
from typer.testing import CliRunner, Result

from stmixer.media.decode import Limits, VideoReader
from stmixer.trainer.cli import main
from stmixer.trainer.config.run import CustomSet, PictureSet
from stmixer.trainer.data.check import check_split
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.pictures import read_pictures


def call(*args: object) -> Result:
    result = CliRunner().invoke(main, ["import", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def imported(*args: object) -> list[str]:
    """The lines of an import that worked."""
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def corners(row: dict[str, str]) -> list[float]:
    return [float(row[key]) for key in ("x1", "y1", "x2", "y2")]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the repository's clips."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("walk.mp4", "fall.mp4"):
        (folder / name).symlink_to(CLIPS / name)
    return folder


def test_cvat_of_a_video(here: Path, tmp_path: Path) -> None:
    """Boxes move on a line between keyframes, end where they are outside, and the other track is turned upright."""
    (here / "annotations.xml").write_text(cvat_video())
    lines = imported(here, "-o", tmp_path / "set")
    table = rows(tmp_path / "set" / "boxes.csv")
    walker = [row for row in table if row["track"] == "0"]
    assert [int(row["frame"]) for row in walker] == list(range(12))
    assert [row["label"] for row in walker] == ["walk"] * 10 + ["stand"] * 2
    assert corners(walker[0]) == pytest.approx([0.1, 0.1, 0.2, 0.5])
    assert corners(walker[5]) == pytest.approx([0.15, 0.1, 0.25, 0.5])
    assert corners(walker[11]) == pytest.approx([0.2, 0.1, 0.3, 0.5])
    (other,) = [row for row in table if row["track"] == "1"]
    assert (other["frame"], other["label"]) == ("5", "")
    assert corners(other) == pytest.approx([325 / 640, 75 / 360, 375 / 640, 175 / 360], abs=1e-5)
    assert lines[0] == "read CVAT 1.1: videos 1, boxes 13"
    assert "left out, 1 times: shapes are of the kind polyline, which is no box (first: track 2)" in lines
    assert any(line.endswith("1 videos (0 for validation), 13 rows; labels: stand 2, walk 10") for line in lines)
    assert (tmp_path / "set" / "previews" / "walk.mp4.jpg").stat().st_size > 1000
    split = read_custom(CustomSet(kind="custom"), tmp_path / "set", "train", None)
    assert (split.labels, len(split), split.origin) == (("stand", "walk"), 12, "true")
    assert len(check_split(split, "quick")) == 12


def test_cvat_of_pictures(tmp_path: Path) -> None:
    """Subsets are the split; a polygon counts by the box around it; what is no person is left out."""
    here = tmp_path / "task"
    draw_pictures(here / "images", "a.png", "b.png")
    (here / "annotations.xml").write_text(cvat_images())
    lines = imported(here, "-o", tmp_path / "set", "--leave-out", "car")
    assert "left out, 1 times: boxes are of car (first: a.png)" in lines
    (walker, sitter) = rows(tmp_path / "set" / "boxes.csv")
    assert (walker["image"], walker["label"], corners(walker)) == ("a.png", "walk", pytest.approx([0.1, 0.1, 0.5, 0.5]))
    assert (sitter["image"], sitter["label"], corners(sitter)) == ("b.png", "sit", pytest.approx([0, 0, 0.5, 0.5]))
    split = read_pictures(PictureSet(kind="pictures"), tmp_path / "set", "val", None)
    assert [video.name for video in split.videos] == ["b.png"]


def test_cvat_of_a_videos_frames_as_pictures(here: Path, tmp_path: Path) -> None:
    """`for images` of a video task: frame_000005 is frame 5 of the video that the task was made of."""
    text = cvat_images(("frame_000005", "frame_000009"))
    text = text.replace("<size>2</size>", "<size>2</size><source>walk.mp4</source>")
    (here / "task.xml").write_text(text)
    imported(here / "task.xml", "-o", tmp_path / "set", "--person", "car")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [(row["video"], row["frame"], row["label"]) for row in table] == [
        ("walk.mp4", "5", "walk"), ("walk.mp4", "5", ""), ("walk.mp4", "9", "sit"),
    ]  # fmt: skip


def test_coco_of_a_video(tmp_path: Path) -> None:
    """Pictures become a video, each at its number's time; a crowd is an area to ignore; faults are told one by one."""
    here = tmp_path / "coco"
    write_json(here / "annotations" / "street.json", coco_video())
    draw_pictures(here / "images", "street/000001.png", "street/000003.png")
    lines = imported(here, "-o", tmp_path / "set")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [(row["frame"], row["label"], row["track"], row["crowd"]) for row in table] == [
        ("0", "wave", "0", "0"), ("1", "wave", "0", "0"), ("1", "", "1", "1"),
    ]  # fmt: skip
    assert corners(table[1]) == pytest.approx([0.2, 0.1, 0.7, 0.6])
    (video,) = rows(tmp_path / "set" / "videos.csv")
    assert (video["video"], video["frames"], video["width"], video["height"]) == ("street.mp4", "2", "96", "64")
    with VideoReader(tmp_path / "set" / "videos" / "street.mp4", limits=Limits.unlimited()) as reader:
        frames = [(frame.pts_us, int(frame.rgb().mean())) for frame in reader]
    assert [pts for pts, _ in frames] == [0, 200_000]
    assert [grey for _, grey in frames] == pytest.approx([40, 100], abs=3)
    for told in (
        "pictures of a sequence are not found (first: street/gone.png)",
        "annotations name an image that is not listed (first: annotation 5)",
        "annotations name a category that is not listed (first: annotation 6)",
        "annotations have a box that is none (bbox 'wide' is no number) (first: annotation 7)",
        "annotations have no box (bbox) (first: annotation 8)",
        "boxes lie outside the picture, or have no area (first: street.mp4, frame 0)",
        "boxes are of frames that the video does not have (first: street.mp4, frame 3)",
    ):
        assert f"left out, 1 times: {told}" in lines


def test_coco_of_youtube_vis(tmp_path: Path) -> None:
    write_json(tmp_path / "in" / "instances.json", youtube_vis())
    draw_pictures(tmp_path / "in", "street/000001.png", "street/000003.png")
    lines = imported(tmp_path / "in", "-o", tmp_path / "set", "--fps", 5)
    (row,) = rows(tmp_path / "set" / "boxes.csv")
    assert (row["video"], row["frame"], row["label"], row["track"]) == ("street.mp4", "1", "jump", "0")
    assert not [line for line in lines if "pictures a second" in line]


def test_coco_of_pictures_and_of_sequences(tmp_path: Path) -> None:
    """Two files, whose names say the split; with --sequences numbered pictures are frames instead."""
    names = ["cam_001.png", "cam_002.png"]
    draw_pictures(tmp_path / "in", *names)
    for part, name in zip(("train", "val"), names, strict=True):
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 48, 32]}
        values = {"categories": [{"id": 1, "name": "walk"}], "images": [{"id": 1, "file_name": name}]}
        values |= {"annotations": [box]}
        write_json(tmp_path / "in" / "annotations" / f"instances_{part}2017.json", values)
    imported(tmp_path / "in", "-o", tmp_path / "stills")
    assert [(row["image"], row["split"]) for row in rows(tmp_path / "stills" / "images.csv")] == [
        ("cam_001.png", "train"), ("cam_002.png", "val"),
    ]  # fmt: skip
    assert [corners(row) for row in rows(tmp_path / "stills" / "boxes.csv")] == [[0, 0, 0.5, 0.5]] * 2
    for path in (tmp_path / "in" / "annotations").glob("*val*"):
        path.unlink()
    lines = imported(tmp_path / "in", "-o", tmp_path / "moving", "--sequences")
    (row,) = rows(tmp_path / "moving" / "boxes.csv")
    assert (row["video"], row["frame"]) == ("cam.mp4", "0")
    assert any("25 pictures a second (--fps says another)" in line for line in lines)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_via(here: Path, tmp_path: Path, form: str) -> None:
    """A moment is the frame that is shown then; a checkbox may say several labels."""
    if form == "json":
        write_json(here / "via.json", via_project())
    else:
        (here / "via.csv").write_text(via_csv())
    lines = imported(here / f"via.{form}", "-o", tmp_path / "set")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [(row["frame"], row["label"], row["track"]) for row in table] == [("15", "walk", "0"), ("15", "talk", "0")]
    assert corners(table[0]) == pytest.approx([0.1, 0.1, 0.2, 0.5])
    if form == "json":
        for told in (
            "regions of a video have no time (first: walk.mp4, 1_b)",
            "stretches of time have no box, so nothing says who it is (first: walk.mp4, 1_c)",
            "regions are no rectangles or polygons (first: walk.mp4, 1_d)",
            "boxes come after the video's end at 6.8 s (--start-s says with which second its file begins) "
            "(first: walk.mp4, second 90)",
        ):
            assert f"left out, 1 times: {told}" in lines


def test_yolo_of_pictures(tmp_path: Path) -> None:
    """Ultralytics' folders: val and train by data.yaml, a test split and pictures without boxes left out."""
    here = tmp_path / "yolo"
    draw_pictures(here / "images", "train/a.png", "train/bare.png", "val/b.png", "test/c.png")
    for name, text in {
        "train/a": "0 0.5 0.5 0.2 0.4\n1 0.2 0.2 0.2\n7 0.5 0.5 0.1 0.1\n",
        "val/b": "1 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n",
        "test/c": "0 0.5 0.5 0.2 0.4\n",
    }.items():
        path = here / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = "names:\n  0: walk\n  1: sit\n"
    (here / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\ntest: images/test\n{names}")
    lines = imported(here, "-o", tmp_path / "set")
    assert [(row["image"], row["split"]) for row in rows(tmp_path / "set" / "images.csv")] == [
        ("images/train/a.png", "train"), ("images/val/b.png", "val"),
    ]  # fmt: skip
    walker, sitter = rows(tmp_path / "set" / "boxes.csv")
    assert (walker["label"], corners(walker)) == ("walk", pytest.approx([0.4, 0.3, 0.6, 0.7]))
    assert (sitter["label"], corners(sitter)) == ("sit", pytest.approx([0.1, 0.1, 0.4, 0.5]))
    for told in (
        "lines are no boxes (fewer than five values) (first: a.txt:2)",
        "lines are no boxes (class 7 has no name) (first: a.txt:3)",
        "pictures are of a test split (first: c.png)",
        "pictures have no box (--nobody takes them for pictures in which nobody is) (first: images/train/bare.png)",
    ):
        assert f"left out, 1 times: {told}" in lines
    imported(here, "-o", tmp_path / "set", "--nobody", "--force")
    split = read_pictures(PictureSet(kind="pictures"), tmp_path / "set", "train", None)
    assert [video.name for video in split.videos] == ["images/train/a.png", "images/train/bare.png"]


@pytest.mark.parametrize(
    ("line", "box", "track"),
    [
        ("0 .1 .2 .9 .2 .9 .95 .1 1", [0.1, 0.2, 0.9, 1.0], ""),  # a last corner on the border
        ("0 .1 .2 .9 .2 .9 .95 .3 .9 0 .5", [0.0, 0.2, 0.9, 0.95], ""),
        ("0 .1 .2 .9 .2 .9 .95 .1 0", [0.1, 0.0, 0.9, 0.95], ""),
        ("0 .1 .2 .9 .2 .9 .95", [0.1, 0.2, 0.9, 0.95], ""),
        ("0 .1 .2 .9 .2 .9 .95 .77", [0.1, 0.2, 0.9, 0.95], ""),  # with a confidence
        ("0 .1 .2 .9 .2 .9 .95 7", [0.1, 0.2, 0.9, 0.95], "0"),  # with who it is
        ("0 .1 .2 .9 .2 .9 .95 .02 7", [0.1, 0.2, 0.9, 0.95], "0"),  # with both
        ("0 .1 .2 .9 .2 .9 .95 .1 .9 .02 7", [0.1, 0.2, 0.9, 0.95], "0"),
        ("0 .5 .5 .2 .4 .9", [0.4, 0.3, 0.6, 0.7], ""),
        ("0 .5 .5 .2 .4 .9 1", [0.4, 0.3, 0.6, 0.7], "0"),
    ],
)
def test_yolo_of_outlines(here: Path, tmp_path: Path, line: str, box: list[float], track: str) -> None:
    """A number on the border, a confidence or a track behind it make no box out of an outline."""
    (here / "classes.txt").write_text("walk\n")
    (here / "walk_1.txt").write_text(line)
    imported(here, "-o", tmp_path / "set")
    (row,) = rows(tmp_path / "set" / "boxes.csv")
    assert (corners(row), row["track"]) == (pytest.approx(box), track)


def test_yolo_of_keypoints(here: Path, tmp_path: Path) -> None:
    """They are no outline, also where a confidence or who it is follows."""
    (here / "data.yaml").write_text("names: [walk]\nkpt_shape: [2, 3]\n")
    (here / "walk_1.txt").write_text("0 .5 .5 .2 .4 .9 .9 2 .1 .1 2\n0 .5 .5 .2 .4 .9 .9 2 0 0 0 .8 7\n")
    imported(here, "-o", tmp_path / "set")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [corners(row) for row in table] == [pytest.approx([0.4, 0.3, 0.6, 0.7])] * 2
    assert [row["track"] for row in table] == ["", "0"]


def test_yolo_of_a_videos_frames(here: Path, tmp_path: Path) -> None:
    """Text files as a tracker writes them, a file a frame from 1 on, with confidence and who it is."""
    (here / "classes.txt").write_text("person\nwalk\n")
    (here / "labels").mkdir()
    (here / "labels" / "walk_1.txt").write_text("1 0.5 0.5 0.2 0.4 0.913 3\n")
    (here / "labels" / "walk_12.txt").write_text("0 0.5 0.5 0.2 0.4 0.8 4\n")
    (here / "labels" / "stray.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    lines = imported(here, "-o", tmp_path / "set", "--pseudo")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [(row["frame"], row["label"], row["track"], row["origin"]) for row in table] == [
        ("0", "walk", "0", "pseudo"), ("11", "", "1", "pseudo"),
    ]  # fmt: skip
    assert any(line.startswith("left out, 1 times: text files have no picture, and no number") for line in lines)


def test_avas_csv(here: Path, tmp_path: Path) -> None:
    """Seconds of the movie, with a list of labels of its own beside the table."""
    (here / "mine_val.csv").write_text(ava_rows())
    (here / "labels.pbtxt").write_text(AVA_LABELS)
    lines = imported(here / "mine_val.csv", "-o", tmp_path / "set", "--start-s", 902)
    assert [(row["frame"], row["label"], row["track"]) for row in rows(tmp_path / "set" / "boxes.csv")] == [
        ("0", "walk", "0"), ("0", "wave", "0"), ("45", "walk", ""),
    ]  # fmt: skip
    assert [row["split"] for row in rows(tmp_path / "set" / "videos.csv")] == ["val"]
    for told in (
        "boxes are of a second before the file begins (--start-s) (first: mine_val.csv:6)",
        "lines have a label that the list does not name (first: mine_val.csv:7)",
        "lines say that nobody is annotated at a second (first: mine_val.csv:4)",
    ):
        assert f"left out, 1 times: {told}" in lines


def test_where_the_videos_lie_and_which_are_for_validation(here: Path, tmp_path: Path) -> None:
    """Two tasks in a folder, videos in another; of two videos the last is for validation unless --val says another."""
    (tmp_path / "xml").mkdir()
    for name in ("walk.mp4", "fall.mp4"):
        (tmp_path / "xml" / f"{name}.xml").write_text(cvat_video(name))
    nowhere = call(tmp_path / "xml", "-o", tmp_path / "set")
    assert nowhere.exit_code == 2
    assert "videos are not found below" in nowhere.stderr
    assert "(--media names another folder) (first: fall.mp4)" in nowhere.stderr
    imported(tmp_path / "xml", "-o", tmp_path / "set", "--media", here)
    parts = {row["video"]: row["split"] for row in rows(tmp_path / "set" / "videos.csv")}
    assert parts == {"fall.mp4": "train", "walk.mp4": "val"}
    assert (tmp_path / "set" / "videos" / "walk.mp4").is_symlink()
    again = call(tmp_path / "xml", "-o", tmp_path / "set", "--media", here)
    assert again.exit_code == 2
    assert "perhaps corrected: name another folder, or add --force" in again.stderr
    imported(tmp_path / "xml", "-o", tmp_path / "set", "--media", here, "--force", "--val", "fall.mp4", "--copy")
    parts = {row["video"]: row["split"] for row in rows(tmp_path / "set" / "videos.csv")}
    assert parts == {"fall.mp4": "val", "walk.mp4": "train"}
    assert not (tmp_path / "set" / "videos" / "walk.mp4").is_symlink()


def test_an_attribute_that_is_ticked_or_not(here: Path, tmp_path: Path) -> None:
    text = cvat_video().replace('name="action">walk', 'name="waving">true')
    text = text.replace('name="action">stand', 'name="waving">false')
    (here / "a.xml").write_text(text)
    imported(here / "a.xml", "-o", tmp_path / "set", "--attribute", "waving")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [row["label"] for row in table if row["track"] == "0"] == ["waving"] * 10 + [""] * 2


def test_a_name_that_leads_outside_stays_inside(here: Path, tmp_path: Path) -> None:
    project = via_project()
    project["file"]["1"]["fname"] = "../../../walk.mp4"
    write_json(here / "via.json", project)
    imported(here / "via.json", "-o", tmp_path / "deep" / "set")
    assert [row["video"] for row in rows(tmp_path / "deep" / "set" / "videos.csv")] == ["walk.mp4"]
    assert (tmp_path / "deep" / "set" / "videos" / "walk.mp4").is_symlink()


def test_no_video_is_written_over(here: Path, tmp_path: Path) -> None:
    """One that lies where a link would go is another's, or the very one that is meant by a link elsewhere."""
    (here / "a.xml").write_text(cvat_video())
    own = tmp_path / "set" / "videos" / "walk.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    refused = call(here, "-o", tmp_path / "set")
    assert (refused.exit_code, own.read_bytes()) == (2, b"mine")
    assert "walk.mp4 lies there already; move it away, or add --force" in refused.stderr
    own.write_bytes((CLIPS / "walk.mp4").read_bytes())
    (here / "walk.mp4").unlink()
    (here / "walk.mp4").symlink_to(own)
    imported(here, "-o", tmp_path / "set")
    assert not own.is_symlink()
    assert own.stat().st_size == (CLIPS / "walk.mp4").stat().st_size


@pytest.mark.parametrize("how", ["link", "copy", "made"])
def test_a_video_without_a_row_is_taken_away(here: Path, tmp_path: Path, how: str) -> None:
    """However it came there, so that the next run finds room."""
    if how == "made":
        draw_pictures(here, "street/000001.png", "street/000003.png")
        values = coco_video()
        for annotation in values["annotations"]:
            annotation["image_id"] = 13  # a picture that is not there
        write_json(here / "a.json", values)
    else:
        (here / "classes.txt").write_text("walk\n")
        (here / "walk_999999.txt").write_text("0 .5 .5 .2 .4\n0 .5 .5 .2 .4 .9 3\n")
        (here / "walk_1.txt").write_text("")
    words = [here, "-o", tmp_path / "set", *(["--copy"] if how == "copy" else [])]
    for _ in range(2):
        result = call(*words)
        assert result.exit_code == 2
        assert "videos have no box on any of their frames" in result.stderr
        assert [path for path in (tmp_path / "set" / "videos").rglob("*") if not path.is_dir()] == []


def test_a_video_of_ones_own_is_not_taken_away(here: Path, tmp_path: Path) -> None:
    """It lay in the set's folder before, and the export names it by a link."""
    own = tmp_path / "set" / "videos" / "walk.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes((CLIPS / "walk.mp4").read_bytes())
    (here / "walk.mp4").unlink()
    (here / "walk.mp4").symlink_to(own)
    (here / "classes.txt").write_text("walk\n")
    (here / "walk_999999.txt").write_text("0 .5 .5 .2 .4\n")
    assert "no box on any of their frames" in call(here, "-o", tmp_path / "set").stderr
    assert own.stat().st_size == (CLIPS / "walk.mp4").stat().st_size


@pytest.mark.parametrize("copy", [True, False])
def test_a_video_that_is_not_finished_is_taken_away(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    """A folder that is full in the middle of it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if copy:
        (here / "a.xml").write_text(cvat_video())

        def copied_in_part(source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:1000])
            full()

        monkeypatch.setattr("shutil.copyfile", copied_in_part)
    else:
        draw_pictures(here, "street/000001.png", "street/000003.png")
        write_json(here / "a.json", coco_video())
        monkeypatch.setattr("stmixer.media.encode.Mp4Writer.write", full)
    refused = call(here, "-o", tmp_path / "set", *(["--copy"] if copy else []))
    assert (refused.exit_code, "No space left" in refused.stderr) == (2, True), refused.stderr
    assert [path for path in (tmp_path / "set" / "videos").rglob("*") if not path.is_dir()] == []


def test_coco_of_a_video_that_is_a_file(here: Path, tmp_path: Path) -> None:
    """Where the pictures are not there and the video is, their numbers are its frames."""
    values = coco_video()
    values["videos"][0]["name"] = "walk"
    write_json(here / "a.json", values)
    imported(here / "a.json", "-o", tmp_path / "set")
    table = rows(tmp_path / "set" / "boxes.csv")
    assert [(row["video"], row["frame"]) for row in table if row["label"]] == [("walk.mp4", "0"), ("walk.mp4", "2")]


Make = Callable[[Path], Path]


def _file(name: str, text: str | bytes) -> Make:
    def make(folder: Path) -> Path:
        data = text.encode() if isinstance(text, str) else text
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "task.zip", "w") as archive:
        archive.writestr("annotations.xml", "x")
    return folder / "task.zip"


def _both(folder: Path) -> Path:
    (folder / "a.xml").write_text(cvat_video())
    write_json(folder / "b.json", coco_video())
    return folder


WRONG: dict[str, tuple[Make, str]] = {
    "nothing": (lambda folder: folder / "no.xml", "no.xml does not exist"),
    "an empty folder": (lambda folder: folder, "holds none of what can be read: COCO"),
    "a zip": (_zip, "task.zip is a zip archive; unpack it, and name the folder"),
    "two forms": (_both, "these are of several forms, import one after the other"),
    "other XML": (_file("a.xml", "<html></html>"), "a.xml is none of what can be read"),
    "XML that is cut off": (_file("a.xml", cvat_video()[:900]), "a.xml is no XML, or is cut off"),
    "entities": (_file("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>'), "has a document type (<!DOCTYPE>)"),
    "a number": (_file("a.xml", cvat_video().replace('xtl="64.00"', 'xtl="left"')), "xtl 'left' is no number"),
    "no JSON": (_file("a.json", "{"), "a.json is no JSON"),
    "deep JSON": (_file("a.json", "[" * 100_000), "a.json is no JSON"),
    "other JSON": (_file("a.json", "{}"), "a.json is none of what can be read"),
    "VIA 2": (_file("a.json", '{"_via_img_metadata": {}}'), "is a project of VIA 2; open it in VIA 3"),
    "no UTF-8": (_file("a.json", b"\xff\xfe\xfa"), "it is no text in UTF-8"),
    "images": (_file("a.json", '{"images": 3, "annotations": []}'), "images is no list of objects"),
    "a csv": (_file("a.csv", "a,b\n1,2\n"), "a.csv is none of what can be read"),
    "keypoints": (_file("data.yaml", "names: [a]\nkpt_shape: 17\n"), "kpt_shape is not how many keypoints there are"),
    "no names": (_file("data.yaml", "names: 3\n"), "names is neither a list of classes nor their numbers and names"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, case: str) -> None:
    make, part = WRONG[case]
    folder = tmp_path / "in"
    folder.mkdir()
    result = call(make(folder), "-o", tmp_path / "set")
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.exit_code == 2
    assert len(lines) == 1, lines
    assert part in lines[0]
    assert not (tmp_path / "set" / "boxes.csv").exists()


def _broken(values: Any, chance: random.Random) -> Any:
    """The same with one value, anywhere in it, of another kind."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, below in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            walk(below)

    values = copy.deepcopy(values)
    walk(values)
    node, key = chance.choice(places)
    node[key] = chance.choice([None, "x", -1, 1e300, [], {}, [[]], True, float("nan"), {"a": 1}, [None] * 4])
    return values


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("made", [coco_video, youtube_vis, via_project])
def test_a_value_of_another_kind_is_no_traceback(tmp_path: Path, made: Callable[[], Any], seed: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    draw_pictures(folder, "street/000001.png", "street/000003.png")
    (folder / "walk.mp4").symlink_to(CLIPS / "walk.mp4")
    (folder / "a.json").write_text(json.dumps(_broken(made(), random.Random(seed))))
    assert call(folder / "a.json", "-o", tmp_path / "set").exit_code in (0, 2)


@pytest.mark.slow
def test_from_cvat_to_trained_weights(here: Path, tmp_path: Path) -> None:
    """The way round: two tasks, an import, two steps of training."""
    for name in ("walk.mp4", "fall.mp4"):
        (here / f"{name}.xml").write_text(cvat_video(name))
    lines = imported(here, "-o", tmp_path / "set")
    assert lines[-1] == f"look at previews/; a run has it with  sets: [{{kind: custom, root: {tmp_path / 'set'}}}]"
    config = {
        "run_dir": "run", "model": "tiny", "init": {"weights": None}, "sets": [{"kind": "custom", "root": "set"}],
        "accelerator": "cpu", "workers": 0, "batch_size": 1, "clips_per_epoch": 2, "epochs": 1,
        "augment": {"short_sides": [64]}, "evaluate": {"every_epochs": 0},
    }  # fmt: skip
    write_json(tmp_path / "run.yaml", config)
    done = CliRunner().invoke(main, ["fit", "-c", str(tmp_path / "run.yaml")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 10_000
