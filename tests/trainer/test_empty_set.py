"""Clips without people: where nobody is, what a fixed camera sees behind its people, the set, and training on it."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from training import own_set, run_config
from typer.testing import CliRunner

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.encode import Mp4Writer
from stmixer.trainer.annotate.background import background
from stmixer.trainer.annotate.empty_set import EmptySetOptions, make_empty_set
from stmixer.trainer.annotate.free_space import CELL, covered, largest_rectangle
from stmixer.trainer.annotate.person_detector import People
from stmixer.trainer.cli import main
from stmixer.trainer.config.file import parse_config
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.check import check_split
from stmixer.trainer.data.clipset import ClipSource
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluate.predictions import KeyframePredictions, Predictions
from stmixer.trainer.evaluate.reports import main_figures, report_empty_sets, report_sets
from stmixer.trainer.training.fit import fit

WIDTH, HEIGHT, FRAMES = 320, 208, 40
WHITE = 250


class Blind:
    """In a detector's place: sees nobody, except whoever is under ``box`` of a whole picture."""

    def __init__(self, *box: float) -> None:
        self.boxes = np.array([box]).reshape(-1, 4)

    def find(self, rgb: np.ndarray) -> People:
        whole = rgb.shape[:2] == (HEIGHT, WIDTH)
        boxes = self.boxes if whole else self.boxes[:0]
        return People(boxes, np.full(len(boxes), 0.3))


def scene(seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """A picture with something in every corner, none of it white."""
    blocks = np.random.default_rng(seed).integers(20, 180, (HEIGHT // 16, width // 16, 3)).astype(np.uint8)
    return np.kron(blocks, np.ones((16, 16, 1), np.uint8))


def walker(frame: int) -> tuple[int, int, int, int]:
    """Somebody in the left half, who stands at 20 for most of the time and then walks to 100."""
    left = 20 + max(0, frame - 25) * 5
    return left, 40, left + 40, 160


def film(path: Path, *, pan: int = 0) -> list[tuple[int, tuple[float, ...]]]:
    """A video of a walker in white before a scene, the camera panning by so many px a frame; (frame, box 0-1)."""
    wide = scene(width=WIDTH + pan * FRAMES // 16 * 16 + 16)
    boxes = []
    with Mp4Writer(path, WIDTH, HEIGHT, 30, crf=4) as writer:
        for frame in range(FRAMES):
            picture = np.ascontiguousarray(wide[:, pan * frame : pan * frame + WIDTH])
            x1, y1, x2, y2 = walker(frame)
            picture[y1:y2, x1:x2] = WHITE
            writer.write(picture, round(frame * 1e6 / 30))
            boxes.append((frame, (x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT)))
    return boxes


def annotated_set(root: Path, splits: dict[str, str], *, pan: int = 0) -> Path:
    (root / "videos").mkdir(parents=True)
    lines = ["video,frame,x1,y1,x2,y2,label,track"]
    for name in splits:
        lines += [
            f"{name},{f},{','.join(f'{v:.4f}' for v in box)},walk,0" for f, box in film(root / "videos" / name, pan=pan)
        ]
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    (root / "videos.csv").write_text("\n".join(["video,split", *(f"{n},{part}" for n, part in splits.items())]) + "\n")
    return root


def pictures(path: Path) -> list[np.ndarray]:
    with VideoReader(path, limits=Limits.unlimited()) as reader:
        return [frame.rgb() for frame in reader]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "videos.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- where nobody is --


def test_the_largest_rectangle_is_the_one_of_trying_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        cells = rng.random((6, 5)) < 0.75
        free = np.kron(cells, np.ones((CELL, CELL), np.bool_))
        place = largest_rectangle(free, 1)
        areas = [
            (x2 - x1) * (y2 - y1)
            for x1, x2 in itertools.combinations(range(6), 2)
            for y1, y2 in itertools.combinations(range(7), 2)
            if cells[y1:y2, x1:x2].all() and max(x2 - x1, y2 - y1) <= 3 * min(x2 - x1, y2 - y1)
        ]
        assert place is not None
        x1, y1, x2, y2 = place
        assert free[y1:y2, x1:x2].all()
        # what is longer than 3:1 is cut, so that a smaller one that fits may be larger than what is left
        assert 0.5 * max(areas) <= (x2 - x1) * (y2 - y1) / CELL**2 <= max(areas)


def test_rectangles_keep_off_single_pixels_and_to_the_models_aspect() -> None:
    free = np.ones((101, 203), np.bool_)
    assert largest_rectangle(free, 96) == (0, 0, 200, 100)
    assert largest_rectangle(free, 104) is None
    free[50, 100] = False
    place = largest_rectangle(free, 40)
    assert place is not None
    assert free[place[1] : place[3], place[0] : place[2]].all()
    x1, y1, x2, y2 = largest_rectangle(np.ones((40, 400), np.bool_), 40) or (0, 0, 0, 0)
    assert (x2 - x1, y2 - y1) == (120, 40)
    assert x1 == pytest.approx(140, abs=CELL)
    assert largest_rectangle(np.zeros((40, 40), np.bool_), 1) is None


def test_boxes_cover_with_a_margin_of_their_own_size() -> None:
    mask = covered(np.array([[0.25, 0.5, 0.5, 1.0]]), 80, 40, 0.1)
    assert np.flatnonzero(mask.any(0)).tolist() == list(range(18, 42))
    assert np.flatnonzero(mask.any(1)).tolist() == list(range(18, 40))


# -- what is behind --


def shots(share: float, *, pan: int = 0, moments: int = 20) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A scene in which somebody stands at one place for a share of the moments and at another for the rest."""
    frames, hidden = [], []
    wide = scene(width=WIDTH + 16 * moments)
    for i in range(moments):
        picture = wide[:, i * pan : i * pan + WIDTH].copy()
        mask = np.zeros((HEIGHT, WIDTH), np.bool_)
        mask[40:160, 20:60] = i < share * moments
        mask[40:160, 200:240] = i >= share * moments
        picture[mask] = WHITE
        frames.append(picture)
        hidden.append(mask)
    return frames, hidden


def test_a_background_has_no_ghosts() -> None:
    found = background(*shots(0.3))
    assert found is not None
    assert found.trusted[100, 40]
    assert not found.trusted[100, 220], "covered 70 % of the time"
    assert np.array_equal(found.picture[found.trusted], scene(width=WIDTH + 16 * 20)[:, :WIDTH][found.trusted])


def test_a_moving_camera_has_no_background() -> None:
    assert background(*shots(0.3, pan=2)) is None
    assert background(*shots(0.3, moments=4)) is None, "too few moments"


def test_a_scene_that_changes_has_no_background() -> None:
    frames, hidden = shots(0.3)
    flicker = [frame if i % 2 else np.ascontiguousarray(255 - frame) for i, frame in enumerate(frames)]
    assert background(flicker, hidden) is None


# -- the set --


@pytest.fixture(scope="module")
def walking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotated_set(tmp_path_factory.mktemp("sets") / "walking", {"a.mp4": "train", "b.mp4": "val"})


def test_clips_hold_no_white_and_keep_their_split(walking: Path, tmp_path: Path) -> None:
    done = make_empty_set([walking], Blind(), tmp_path, EmptySetOptions())  # type: ignore[arg-type]
    table = rows(tmp_path)
    assert {row["split"] for row in table if row["video"].startswith("walking_a_")} == {"train"}
    assert {row["split"] for row in table if row["video"].startswith("walking_b_")} == {"val"}
    assert {made.clip.kind for made in done.clips} == {"median"}, "the corners that are free are the background's own"
    for row in table:
        frames = pictures(tmp_path / "videos" / row["video"])
        assert len(frames) == int(row["frames"])
        assert frames[0].shape == (int(row["height"]), int(row["width"]), 3)
        assert max(int(frame.min(-1).max()) for frame in frames) < WHITE - 40
        assert row["note"].startswith(f"median of walking/{row['video'][8]}.mp4 frames 0-39 at ")
    assert (tmp_path / "boxes.csv").read_text().count("\n") == 1
    assert {p.name for p in (tmp_path / "previews").iterdir()} == {"walking_train.png", "walking_val.png"}


def test_a_panning_camera_gives_crops_alone(tmp_path: Path) -> None:
    root = annotated_set(tmp_path / "pan", {"a.mp4": "train", "b.mp4": "val"}, pan=2)
    done = make_empty_set([root], Blind(), tmp_path / "out", EmptySetOptions())  # type: ignore[arg-type]
    assert [made.clip.kind for made in done.clips if made.video.part == "train"] == ["crop"]
    (crop,) = (made.clip for made in done.clips if made.video.part == "train")
    assert crop.place[0] >= 60 + 0.15 * 40
    assert max(int(rgb.min(-1).max()) for rgb in crop.pictures) < WHITE - 40
    assert crop.pts_us[:3] == pytest.approx((0, 33_333, 66_667), abs=1)


def test_what_the_detector_sees_is_left_out(walking: Path, tmp_path: Path) -> None:
    options = EmptySetOptions(train=0)
    done = make_empty_set([walking], Blind(0.8, 0.1, 1.0, 0.9), tmp_path, options)  # type: ignore[arg-type]
    assert all(made.clip.place[2] <= 0.8 * WIDTH for made in done.clips)
    with pytest.raises(TrainError, match="no place without people found"):
        make_empty_set([walking], Blind(0.0, 0.0, 1.0, 1.0), tmp_path / "none", options)  # type: ignore[arg-type]


def test_medians_only_and_numbers(walking: Path, tmp_path: Path) -> None:
    options = EmptySetOptions(train=1, val=0, medians_only=("a.mp4",))
    done = make_empty_set([walking], Blind(), tmp_path, options)  # type: ignore[arg-type]
    assert done.counts() == {("walking", "train", "median"): 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{set}", "--leave-out", "c.mp4"], "no set has a video c.mp4"),
        (["{set}", "{tmp}/again"], "two sets are called walking: rename a folder"),
        (["{set}", "-o", "{set}"], "holds a set: name another folder, or add --force"),
        (["{set}", "-o", "{set}", "--force"], "boxes.csv has boxes: it is not a set of empty clips, and is left alone"),
        (["nowhere"], "videos.csv cannot be read"),
    ],
)
def test_one_line_for_what_is_wrong(
    walking: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch
) -> None:
    monkeypatch.setattr("stmixer.trainer.annotate.person_detector.PersonDetector", lambda *_: Blind())
    (tmp_path / "again").symlink_to(walking)
    given = [argument.format(set=walking, tmp=tmp_path) for argument in arguments]
    given += ["-o", str(tmp_path / "out")] if "-o" not in given else []
    done = CliRunner().invoke(main, ["empties", *given, "--detector", "none.onnx"])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert (done.exit_code, len(lines)) == (2, 1), done.stderr
    assert message in lines[0]


# -- reading it --


def empty_set(root: Path, videos: str, boxes: str = "") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "videos.csv").write_text("video,split,frames\n" + videos)
    (root / "boxes.csv").write_text("video,frame,x1,y1,x2,y2,label\n" + boxes)
    return root


def test_keyframes_of_an_empty_set(tmp_path: Path) -> None:
    empty_set(tmp_path, "a.mp4,train,75\nb.mp4,train,5\nc.mp4,val,30\n")
    train = read_custom(CustomSet(kind="custom", empty=True), tmp_path, "train", ("walk",))
    assert [(train.videos[v].name, f) for v, f in zip(train.video, train.frame, strict=True)] == [
        *(("a.mp4", frame) for frame in (7, 22, 37, 52, 67)), ("b.mp4", 2)
    ]  # fmt: skip
    assert (train.labels, len(train.boxes_xyxy), train.starts.tolist()) == ((), 0, [0] * 7)
    val = read_custom(CustomSet(kind="custom", empty=True, keyframe_every=10), tmp_path, "val", None)
    assert val.frame.tolist() == [5, 15, 25]


@pytest.mark.parametrize(
    ("videos", "boxes", "message"),
    [
        ("a.mp4,train,5\n", "a.mp4,0,0,0,1,1,\n", "is said to be empty, but .*boxes.csv has 1 rows"),
        ("a.mp4,train,\n", "", "videos.csv:2: frames '' is no number of frames"),
    ],
)
def test_a_set_that_is_not_empty(tmp_path: Path, videos: str, boxes: str, message: str) -> None:
    empty_set(tmp_path, videos, boxes)
    with pytest.raises(TrainError, match=message):
        read_custom(CustomSet(kind="custom", empty=True), tmp_path, "train", None)


def test_an_empty_set_annotates_nothing() -> None:
    with pytest.raises(TrainError, match="an empty set has nobody to annotate"):
        parse_config({"run_dir": ".", "sets": [{"kind": "custom", "empty": True, "annotates": ["walk"]}]})


def test_false_people_are_counted_apart(tmp_path: Path) -> None:
    empty_set(tmp_path, "a.mp4,val,75\nb.mp4,val,5\n")
    config = CustomSet(kind="custom", name="bare", empty=True, keyframe_every=30)
    source = ClipSource.of(config, read_custom(config, tmp_path, "val", None), ["walk"])
    scores = {0: (0.7, 0.65, 0.1), 1: (0.6, 0.2), 2: (0.59, 0.3)}
    found = Predictions()
    for keyframe, people in scores.items():
        boxes = np.tile(np.array([[0.1, 0.1, 0.2, 0.2]], np.float32), (len(people), 1))
        person = np.array(people, np.float32)
        found.rows[0, keyframe] = KeyframePredictions(
            Draw(0, keyframe, (0,)), boxes[:0], np.zeros((0, 1), np.float32), boxes, person
        )
    (report,) = report_empty_sets([source], found, ())
    assert (report.keyframes, report.false_people, report.keyframes_with_people) == (3, 3, 2)
    assert report.false_per_keyframe == 1.0
    assert [(p.video, p.frame) for p in report.surest] == [("a.mp4", 15), ("a.mp4", 45), ("b.mp4", 2)]
    assert report.as_dict()["false_per_empty_keyframe"] == 1.0
    assert report_sets([source], found, ()) == []
    assert main_figures([], [report]) == {"bare/false_people_per_keyframe": 1.0}


@pytest.mark.slow
def test_a_run_learns_from_empty_clips(walking: Path, tmp_path: Path) -> None:
    make_empty_set([walking], Blind(), tmp_path / "bare", EmptySetOptions())  # type: ignore[arg-type]
    split = read_custom(CustomSet(kind="custom", empty=True), tmp_path / "bare", "train", None)
    assert len(check_split(split, "full")) == len(split)
    own_set(tmp_path / "learned", "train")
    own_set(tmp_path / "asked", "val")
    sets = [
        {"kind": "custom", "root": "learned", "parts": ["train"], "weight": 0.01},
        {"kind": "custom", "root": "asked", "parts": ["val"]},
        {"kind": "custom", "root": "bare", "empty": True, "weight": 1},
    ]
    sets[1]["weight"] = 1
    module = fit(run_config(tmp_path, sets=sets, epochs=1, clips_per_epoch=4, augment={"short_sides": [64]}))
    logged = {name: float(value) for name, value in module.trainer.logged_metrics.items()}
    assert logged["train/loss_bce"] == logged["train/loss_bbox"] == 0, "nobody there, nothing to say of actions"
    assert logged["train/loss_ce"] > 0
    assert "bare/false_people_per_keyframe" in logged
    assert "bare/frame_map" not in logged
    assert [report.subject.name for report in module.reports] == ["asked"]
