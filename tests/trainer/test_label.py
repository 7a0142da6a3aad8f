"""``stmixer-train label``: the detector's rows, linking, the draft as a custom set, and what can go wrong."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from training import CLIPS
from typer.testing import CliRunner

from stmixer.media.decode import Limits, VideoReader
from stmixer.trainer.annotate.draft import LabelOptions
from stmixer.trainer.annotate.label import find_videos, label
from stmixer.trainer.annotate.person_detector import People, PersonDetector, decode, letterbox
from stmixer.trainer.annotate.tracks import Tracker
from stmixer.trainer.cli import main
from stmixer.trainer.config.run import CustomSet
from stmixer.trainer.data.check import check_split
from stmixer.trainer.data.custom import read_custom
from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluators.overlap import iou

YOLOX = SHARED / "weights" / "yolox_nano_416_coco.onnx"
WALKING = SHARED / "data" / "human_walking"


class Walker:
    """In a detector's place: one person who moves right, missed on the third picture, and a flicker on the fifth."""

    def __init__(self) -> None:
        self.seen = 0

    def find(self, rgb: np.ndarray) -> People:
        step, self.seen = self.seen, self.seen + 1
        boxes = [] if step == 2 else [(0.1 + 0.01 * step, 0.2, 0.3 + 0.01 * step, 0.9)]
        boxes += [(0.7, 0.1, 0.8, 0.3)] if step == 4 else []
        return people(*boxes)


def people(*boxes: tuple[float, float, float, float]) -> People:
    return People(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.full(len(boxes), 0.8))


def draft(out: Path, *sources: Path, **options: object) -> list[str]:
    """Runs ``label`` on each video with a walker of its own start; the reasons of what was skipped."""
    done = label(sources, Walker(), out, LabelOptions(**options))  # type: ignore[arg-type]
    return [reason for _, reason in done.skipped]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- the detector --


def raw_row(raw: np.ndarray, at: int, box: tuple[float, ...], objectness: float, person: float, car: float = 0) -> None:
    raw[at, :5] = (*box, objectness)
    raw[at, 5], raw[at, 7] = person, car


def test_rows_decoded_by_hand() -> None:
    raw = np.zeros((52**2 + 26**2 + 13**2, 85), dtype=np.float32)
    # stride 16, cell x 3, y 2: centre (3.5, 2.25) * 16, sides 2 and 3 cells
    raw_row(raw, 52**2 + 2 * 26 + 3, (0.5, 0.25, math.log(2), math.log(3)), 0.9, 0.8)
    # stride 8, cell x 7, y 4: nearly the same box, less sure
    raw_row(raw, 4 * 52 + 7, (0.0, 0.5, math.log(4), math.log(6)), 0.9, 0.7)
    # stride 32, the last cell: centre (12.5, 12.5) * 32, one cell
    raw_row(raw, len(raw) - 1, (0.5, 0.5, 0.0, 0.0), 1.0, 0.6)
    raw_row(raw, 0, (0.5, 0.5, 0.0, 0.0), 0.9, 0.0, car=0.9)
    raw_row(raw, 30, (0.5, 0.5, 0.0, 0.0), 0.9, 0.5)
    boxes, scores = decode(raw, 416, 0.5)
    np.testing.assert_allclose(boxes, [(40, 12, 72, 60), (384, 384, 416, 416)], atol=1e-4)
    np.testing.assert_allclose(scores, [0.72, 0.6], atol=1e-6)


def test_nobody() -> None:
    boxes, scores = decode(np.zeros((52**2 + 26**2 + 13**2, 85), dtype=np.float32), 416, 0.5)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_letterbox_fills_right_and_below() -> None:
    canvas, scale = letterbox(np.full((90, 160, 3), 7, np.uint8), 416)
    assert scale == 2.6
    assert (canvas[:234] == 7).all()
    assert (canvas[234:] == 114).all()


def test_recall_of_true_boxes() -> None:
    """Measured on every 25th frame of walk1, 2 and 4: 67 of 67 (large walkers); walk5 and 6, tiny ones: 2 of 47."""
    if not (YOLOX.exists() and WALKING.is_dir()):
        pytest.skip("no shared weights or no shared data/human_walking")
    true: dict[int, list[list[float]]] = defaultdict(list)
    for row in rows(WALKING / "boxes.csv"):
        if row["video"] == "walk1.mp4":
            true[int(row["frame"])].append([float(row[c]) for c in ("x1", "y1", "x2", "y2")])
    detector = PersonDetector(YOLOX, threads=1)
    best = []
    with VideoReader(WALKING / "videos" / "walk1.mp4", limits=Limits.unlimited(), threads=1) as reader:
        for frame in reader:
            if frame.index % 25 == 0:
                found = detector.find(frame.rgb()).boxes_xyxy
                for box in true[frame.index]:
                    best.append(max(iou(np.tile(box, (len(found), 1)), found, "normalised"), default=0.0))
    recall = float(np.mean(np.array(best) >= 0.5))
    print(f"recall at IoU 0.5: {recall:.3f} of {len(best)}, median IoU {np.median(best):.2f}")
    assert len(best) == 7
    assert recall >= 0.85


# -- linking --


def test_short_gaps_are_filled_and_long_ones_end_a_track() -> None:
    tracker = Tracker(max_gap=2)
    for step in range(12):
        there = step not in (2, 3, 7, 8, 9)
        tracker.feed(step, people((0.1 + 0.02 * step, 0.2, 0.3 + 0.02 * step, 0.8)) if there else people())
    first, second = tracker.tracks
    assert (first.steps, first.filled) == ([0, 1, 2, 3, 4, 5, 6], {2, 3})
    np.testing.assert_allclose([box[0] for box in first.boxes], 0.1 + 0.02 * np.arange(7))
    assert (second.steps, second.filled) == ([10, 11], set())


def test_people_who_cross_stay_themselves() -> None:
    tracker = Tracker(max_gap=2)
    for step in range(20):
        left, right = 0.1 + 0.03 * step, 0.7 - 0.03 * step
        tracker.feed(step, people((right, 0.25, right + 0.15, 0.85), (left, 0.2, left + 0.1, 0.8)))
    assert [len(track.steps) for track in tracker.tracks] == [20, 20]
    one, other = tracker.tracks
    assert (one.boxes[-1][0], other.boxes[-1][0]) == pytest.approx((0.13, 0.67))


# -- the set --


def test_the_draft_is_a_custom_set(tmp_path: Path) -> None:
    assert draft(tmp_path / "out", CLIPS) == []
    for part, name in (("train", "fall.mp4"), ("val", "walk.mp4")):
        split = check_split(read_custom(CustomSet(kind="custom"), tmp_path / "out", part, None), "quick")
        assert [video.name for video in split.videos] == [name]
        assert split.origin == "pseudo"
        assert split.labels == ()
        assert (split.frame % 5 == 0).all()
    found = rows(tmp_path / "out" / "boxes.csv")
    fall = [row for row in found if row["video"] == "fall.mp4"]
    # 81 frames: 17 are looked at, one gap is filled, the flicker is gone
    assert [int(row["frame"]) for row in fall] == list(range(0, 81, 5))
    assert {(row["label"], row["track"], row["origin"]) for row in found} == {("", "0", "pseudo")}
    assert fall[2]["x1"] == "0.1200"
    assert rows(tmp_path / "out" / "videos.csv")[0] == {
        "video": "fall.mp4", "split": "train", "fps": "15", "frames": "81", "width": "640", "height": "360",
        "note": "draft: boxes to be checked",
    }  # fmt: skip
    with Image.open(tmp_path / "out" / "previews" / "walk.mp4.png") as picture:
        assert picture.size == (3 * 480, 2 * 270)


def test_tracks_and_frames_as_asked(tmp_path: Path) -> None:
    draft(tmp_path / "out", CLIPS / "fall.mp4", every=10, min_length_s=0.0, max_gap_s=0.0)
    found = rows(tmp_path / "out" / "boxes.csv")
    assert [(row["frame"], row["track"]) for row in found[:5]] == [
        ("0", "0"), ("10", "0"), ("30", "1"), ("40", "1"), ("40", "2")
    ]  # fmt: skip
    assert rows(tmp_path / "out" / "videos.csv")[0]["split"] == "train"


def test_unreadable_videos_are_listed_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a_broken.mp4").write_bytes(b"no film at all" * 100)
    (tmp_path / "in" / "b_cut.mp4").write_bytes((CLIPS / "walk.mp4").read_bytes()[:50_000])
    with pytest.raises(TrainError, match="no video can be read") as raised:
        draft(tmp_path / "none", tmp_path / "in")
    assert len(raised.value.lines) == 3
    (tmp_path / "in" / "good.mp4").symlink_to(CLIPS / "fall.mp4")
    skipped = draft(tmp_path / "out", tmp_path / "in")
    assert len(skipped) == 2
    assert [row["video"] for row in rows(tmp_path / "out" / "videos.csv")] == ["good.mp4"]


def test_corrections_are_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    draft(out, CLIPS / "fall.mp4")
    (out / "boxes.csv").write_text("corrected")
    with pytest.raises(TrainError, match="perhaps corrected: name another folder, or add --force"):
        draft(out, CLIPS / "fall.mp4")
    assert (out / "boxes.csv").read_text() == "corrected"
    draft(out, CLIPS / "fall.mp4", force=True)
    assert len(rows(out / "boxes.csv")) == 17


def test_copies_links_and_videos_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    draft(out, CLIPS / "fall.mp4", copy=True)
    video = out / "videos" / "fall.mp4"
    assert not video.is_symlink()
    # the set's own videos, and the same name elsewhere
    draft(out, out / "videos", force=True)
    assert rows(out / "videos.csv")[0]["video"] == "fall.mp4"
    video.write_bytes(b"another")
    with pytest.raises(TrainError, match=r"videos/fall.mp4 is another video than .*: move it away"):
        draft(out, CLIPS / "fall.mp4", force=True)
    assert video.read_bytes() == b"another"


def test_names_in_folders(tmp_path: Path) -> None:
    for folder in ("day1", "day2"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "a.MOV").write_bytes(folder.encode())
    (tmp_path / "in" / "notes.txt").write_text("")
    out = tmp_path / "in" / "out"
    (out / "videos").mkdir(parents=True)
    (out / "videos" / "a.mp4").write_bytes(b"")
    assert list(find_videos([tmp_path / "in", tmp_path / "in" / "day1"], out)) == ["day1/a.MOV", "day2/a.MOV"]
    with pytest.raises(TrainError, match=r"day1/a.MOV and .*day2/a.MOV would both be a.MOV: rename one"):
        find_videos([tmp_path / "in" / "day1", tmp_path / "in" / "day2"], out)


# -- the command --


def command(tmp_path: Path, source: Path, detector: Path, out: str = "out") -> tuple[int, list[str]]:
    arguments = ["label", str(source), "--detector", str(detector), "-o", str(tmp_path / out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, [line for line in done.stderr.splitlines() if line.strip()]


def one_line(result: tuple[int, list[str]], part: str) -> None:
    code, lines = result
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("stmixer-train: ")
    assert part in lines[0]


def test_no_detector(tmp_path: Path) -> None:
    one_line(command(tmp_path, CLIPS, tmp_path / "no.onnx"), "no.onnx does not exist")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    one_line(command(tmp_path, CLIPS, tmp_path / "bad.onnx"), "bad.onnx cannot be loaded: ")


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 64, 64), "it should give (1, 84, 85), it gives (1, 3, 64, 64)"), ((1, 3, 64, 48), "it takes in [1, 3, 6")],
)
def test_a_network_of_another_shape(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    onnx = pytest.importorskip("onnx")
    value, out = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("in", "out"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["in"], ["out"])], "same", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "same.onnx").write_bytes(model.SerializeToString())
    one_line(command(tmp_path, CLIPS, tmp_path / "same.onnx"), message)


def test_the_command(tmp_path: Path) -> None:
    if not YOLOX.exists():
        pytest.skip("no shared weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    one_line(command(tmp_path, tmp_path / "empty", YOLOX), "empty holds no video (.")
    one_line(command(tmp_path, tmp_path / "nowhere", YOLOX), "nowhere does not exist")
    one_line(command(tmp_path, CLIPS, YOLOX, "file/out"), "file/out cannot be written: ")
    code, _ = command(tmp_path, CLIPS / "fall.mp4", YOLOX)
    assert code == 0
    assert rows(tmp_path / "out" / "boxes.csv")
    one_line(command(tmp_path, CLIPS / "fall.mp4", YOLOX), "holds boxes.csv and videos.csv, perhaps corrected")
