"""What a report shows besides its figures: who is taken for what, errors, clips, how the run went, the split."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training import custom_set, run_config

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.draw import DrawnActor, draw_actors
from stmixer.trainer.config.run import CustomSet, TubeSet
from stmixer.trainer.data.records import FrameFolder, Picture
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.data.told_split import told_split
from stmixer.trainer.evaluate.clip_videos import make_clips
from stmixer.trainer.evaluate.faults import find_faults
from stmixer.trainer.evaluate.history import History, read_history
from stmixer.trainer.evaluate.moments import ErrorMoments, clock, worst
from stmixer.trainer.evaluate.page import page
from stmixer.trainer.evaluate.pictures import MANY, Pick, draw
from stmixer.trainer.evaluate.predictions import Tables
from stmixer.trainer.evaluate.report import Subject, report_frames
from stmixer.trainer.evaluate.sections import Evidence
from stmixer.trainer.evaluators.confusion import confusion
from stmixer.trainer.evaluators.frames import FRAMES_CUSTOM, evaluate_frames
from stmixer.trainer.evaluators.tables import Detections, GroundTruth, IgnoreAreas, Keyframes, PersonDetections

Truth = Callable[..., GroundTruth]
Found = Callable[..., Detections]
People = Callable[..., PersonDetections]
Box = tuple[float, float, float, float]
LABELS = {1: "walk", 2: "sit", 3: "<fall>"}
A, B, C = (0.0, 0.0, 0.2, 0.5), (0.5, 0.0, 0.7, 0.5), (0.8, 0.5, 1.0, 1.0)


@pytest.fixture
def crowd(truth_of: Truth, found_of: Found, people_of: People) -> tuple[GroundTruth, Detections, PersonDetections]:
    """Five pictures of walk.mp4: right, taken for another, nothing said, not found, and somebody where nobody is."""
    truth = truth_of([
        ("walk.mp4", 0, A, 1, 0), ("walk.mp4", 0, A, 2, 0),  # walks and sits: said to sit
        ("walk.mp4", 10, A, 1, 0),  # said to sit
        ("walk.mp4", 20, A, 1, 0),  # nothing likely enough is said
        ("walk.mp4", 30, A, 1, 0),  # not found: a person score of 0.4
        ("walk.mp4", 40, A, -1, 0), ("walk.mp4", 40, B, 2, 1),
    ])  # fmt: skip
    people = people_of([
        ("walk.mp4", 0, A, 0.9), ("walk.mp4", 10, A, 0.9), ("walk.mp4", 20, A, 0.9), ("walk.mp4", 30, A, 0.4),
        ("walk.mp4", 40, A, 0.9), ("walk.mp4", 40, B, 0.9), ("walk.mp4", 40, C, 0.9),
    ])  # fmt: skip
    found = found_of([
        ("walk.mp4", 0, A, 2, 0.9), ("walk.mp4", 0, A, 1, 0.6),
        ("walk.mp4", 10, A, 2, 0.8), ("walk.mp4", 20, A, 1, 0.4), ("walk.mp4", 30, A, 1, 0.9),
        ("walk.mp4", 40, A, 3, 0.9), ("walk.mp4", 40, B, 2, 0.7), ("walk.mp4", 40, C, 1, 0.55),
    ])  # fmt: skip
    return truth, found, people


Crowd = tuple[GroundTruth, Detections, PersonDetections]


def test_who_is_taken_for_what(crowd: Crowd) -> None:
    truth, found, people = crowd
    table = confusion(truth, found, people, LABELS, FRAMES_CUSTOM)
    assert table.columns == ("walk", "sit", "<fall>", "nothing said", "not found")
    assert dict(zip(table.rows, table.counts.tolist(), strict=True)) == {
        "walk": [1, 1, 0, 1, 1],
        "sit": [0, 2, 0, 0, 0],
        "nobody there": [1, 0, 0, 0, 0],
    }
    area = IgnoreAreas(np.array(["walk.mp4"]), np.array([40]), np.array([C]))
    table = confusion(truth, found, people, LABELS, FRAMES_CUSTOM, ignored=area)
    assert table.counts[-1].sum() == 0


def _report(crowd: Crowd) -> Any:
    truth, found, people = crowd
    subject = Subject("home", "val", "true")
    return report_frames(subject, truth, found, LABELS, FRAMES_CUSTOM, people=people, with_tubes=False)


def test_the_report_has_it_for_machines_and_people(crowd: Crowd) -> None:
    report = _report(crowd)
    out = report.as_dict()["confusion"]
    assert (out["true"], out["counts"][0]) == (["walk", "sit", "nobody there"], [1, 1, 0, 1, 1])
    assert (out["person_score"], out["said_from"]) == (0.6, 0.5)
    text = page(report)
    assert 'title="walk: sit, 1 of 4">1</td>' in text
    assert '<td class="own" style="background: color-mix(in srgb, #3b8fcf 100%, transparent)"' in text
    assert "&lt;fall&gt;" not in text.split("Who is taken for what")[1].split("</table>")[0], "a column of noughts"
    assert "Who is taken for what" not in page(report_frames(
        Subject("home", "val", "true"), crowd[0], crowd[1], LABELS, FRAMES_CUSTOM, with_tubes=False
    ))  # fmt: skip


def test_errors_one_by_one(crowd: Crowd) -> None:
    truth, found, _ = crowd
    score = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM)
    faults = find_faults(truth, found, score, LABELS, FRAMES_CUSTOM)
    assert [(f.pick.kind, f.label, f.pick.frame, f.instead) for f in faults.listed] == [
        ("wrong", "sit", 10, "walk"),
        ("wrong", "walk", 40, "nobody is there"),
        ("missed", "walk", 10, "sit 0.80"),
    ]
    assert (faults.wrong, faults.missed) == (2, 1)


def test_many_errors_are_counted_and_some_listed(truth_of: Truth, found_of: Found) -> None:
    truth = truth_of([("v", f, A, 1, 0) for f in range(150)])
    found = found_of([("v", f, A, 2, 0.5 + f / 1000) for f in range(150)])
    score = evaluate_frames(truth, found, LABELS, FRAMES_CUSTOM)
    faults = find_faults(truth, found, score, LABELS, FRAMES_CUSTOM)
    kinds = [fault.pick.kind for fault in faults.listed]
    assert (faults.wrong, faults.missed, kinds.count("wrong"), kinds.count("missed")) == (150, 150, 100, 100)
    assert faults.listed[0].pick.frame == 149


@pytest.fixture
def source(tmp_path: Path) -> Any:
    rows = "".join(f"walk.mp4,{frame},0,0,0.2,0.5,walk,0\n" for frame in (0, 10, 20, 30, 40))
    rows += "walk.mp4,40,0.5,0,0.7,0.5,sit,1\n"
    custom_set(tmp_path / "a b", f"video,frame,x1,y1,x2,y2,label,track\n{rows}", {"walk.mp4": "val"})
    config = run_config(tmp_path, sets=[{"kind": "custom", "root": "a b", "parts": ["val"]}])
    return load_data(config, ("val",)).val[0]


def test_a_link_leads_to_the_moment(source: Any, tmp_path: Path) -> None:
    moment = ErrorMoments(source, tmp_path / "report").of("walk.mp4", 40)
    assert moment.seconds == pytest.approx(40 / 30, abs=1e-3)
    assert moment.link == "../a%20b/videos/walk.mp4#t=1.333"
    assert [clock(seconds) for seconds in (0, 62.44, 3599.97)] == ["0:00.0", "1:02.4", "60:00.0"]


def test_links_of_pictures(source: Any, tmp_path: Path) -> None:
    folder = FrameFolder(tmp_path / "frames", "f_", 4, ".jpg", 1, 100, Fraction(30))
    moments = ErrorMoments(source, tmp_path)
    moments._videos["walk.mp4"] = folder
    assert moments.of("walk.mp4", 40).link == "frames/f_0041.jpg"
    moments._videos["walk.mp4"] = Picture(tmp_path / "a.png")
    assert (moments.of("walk.mp4", 0).link, moments.of("walk.mp4", 0).seconds) == ("a.png", None)


def _pick(video: str, frame: int, score: float | None, box: Box = A) -> Pick:
    return Pick("missed" if score is None else "wrong", video, frame, 1, score, np.array(box))


def test_the_worst_of_the_videos_with_the_most_errors() -> None:
    picks = [_pick("a", 1, 0.9), _pick("b", 1, 0.5), _pick("b", 2, 0.7), _pick("c", 1, 0.4)]
    chosen = worst(picks, 2, lambda one: one.score or 0.0)
    assert [(one.video, one.frame) for one in chosen] == [("b", 2), ("a", 1)]


def _tables(crowd: Crowd) -> Tables:
    truth, found, people = crowd
    nothing = Keyframes(truth.video[:0], truth.frame[:0])
    ignored = IgnoreAreas(truth.video[:0], truth.frame[:0], truth.boxes[:0])
    return Tables(LABELS, truth, Keyframes(truth.video, truth.frame), nothing, ignored, None, found, people)


def test_a_clip_shows_what_comes_before_and_after(crowd: Crowd, source: Any, tmp_path: Path) -> None:
    """Found left, true right, at most 12.5 pictures a second, from the beginning to 1.5 s after the error."""
    (clip,) = make_clips([_pick("walk.mp4", 40, 0.55, C)], source, ErrorMoments(source, tmp_path), _tables(crowd))
    with VideoReader(io.BytesIO(clip.mp4), limits=Limits.unlimited()) as reader:
        frames = [(frame.pts_us, frame.rgb()) for frame in reader]
    assert frames[0][1].shape == (180, 644, 3)
    assert len(frames) == 29
    assert frames[-1][0] == pytest.approx(2_800_000, abs=60_000)

    def apart(rgb: np.ndarray) -> float:
        """Of the halves, where somebody is found who is not there."""
        wide = rgb.astype(int)
        return float(np.abs(wide[92:178, 258:318] - wide[92:178, 582:642]).mean())

    at_error = min(frames, key=lambda each: abs(each[0] - 1_333_000))[1]
    assert apart(at_error) > 2 * apart(frames[-1][1]), "no keyframe is near the last one"
    assert clip.jpeg.startswith(b"\xff\xd8")


def test_the_page_has_it_all(crowd: Crowd, source: Any, tmp_path: Path) -> None:
    truth, found, people = crowd
    report, tables = _report(crowd), _tables(crowd)
    faults = find_faults(truth, found, report.actions, LABELS, FRAMES_CUSTOM)
    moments = ErrorMoments(source, tmp_path / "report")
    clips = make_clips([faults.listed[0].pick], source, moments, tables)
    picks = [fault.pick for fault in faults.listed]
    pictures = draw(picks, truth, found, LABELS, lambda video, frame: np.zeros((90, 160, 3), np.uint8), people=people)
    history = History([(0.0, 5.0), (10.0, 1.0)], {"home": [(5.0, 0.2), (10.0, 0.6)], "other": [(5.0, 0.9)]})
    text = page(report, Evidence(pictures, clips, faults, moments, history))
    assert text.count(' playsinline preload="metadata" poster="data:image/jpeg;base64,/9j/') == 1
    assert 'src="data:video/mp4;base64,' in text
    assert "mAP %, best 60.0 at step 10" in text
    assert "training loss" in text
    assert "2 times something is said that is not true, 1 times it is not said of somebody who does it. A link" in text
    link = '<a href="../a%20b/videos/walk.mp4#t=0.333" target="_blank" rel="noopener">frame 10, 0:00.3</a>'
    assert text.count(link) == 5  # the clip, two pictures, two lines
    assert f"<td>wrong</td><td>sit 0.80</td><td>walk</td><td>walk.mp4</td><td>{link}</td>" in text
    assert not re.search(r"https?:|url\(|@import|<script", text)


def test_how_a_run_went(tmp_path: Path) -> None:
    """Two starts, of which the second repeats a step of the first; what is half written, and another set's column."""
    for number, text in enumerate((
        "epoch,lr,own/frame_map,step,train/loss\n0,1,,4,3.5\n0,1,,9,3.0\n0,,0.25,9,\n0,1,,14,9.9\n",
        "epoch,lr,own/frame_map,own/person_ap,step,train/loss\n1,1,,,14,2.0\n1,,0.5,0.9,19,\n1,1,,,24,nan\n1,1,,,2",
    )):  # fmt: skip
        (tmp_path / "metrics" / f"start_{number}").mkdir(parents=True)
        (tmp_path / "metrics" / f"start_{number}" / "metrics.csv").write_text(text)
    history = read_history(tmp_path)
    assert history == History([(4.0, 3.5), (9.0, 3.0), (14.0, 2.0)], {"own": [(9.0, 0.25), (19.0, 0.5)]})
    assert read_history(tmp_path / "metrics") is None


VIDEOS = "video,split,scene,person\na,train,kitchen,anna\nb,train,hall,bert\nc,val,hall,carl; anna\nd,val,,\n"


def test_how_the_split_was_made(tmp_path: Path) -> None:
    chosen = CustomSet(kind="custom")
    (tmp_path / "videos.csv").write_text(VIDEOS)
    assert told_split(chosen, tmp_path, "val", {"c", "d"}) == (
        "split by scene: no, 1 of 1 scenes are on both sides (hall), so figures are kinder than for new scenes",
        "split by person: no, 1 of 2 people are on both sides (anna), so figures are kinder than for new people",
    )
    (tmp_path / "videos.csv").write_text(VIDEOS.replace("c,val,hall", "c,val,yard").replace(",person", ",who"))
    assert told_split(chosen, tmp_path, "val", {"c", "d"}) == (
        "split by scene: yes, none of 1 scenes is on the other side",
        "split by person: not said (videos.csv has no column person), so the same people may be on both sides",
    )
    (tmp_path / "videos.csv").write_text("video,split\nc,val\n")
    assert told_split(chosen, tmp_path, "val", {"c"}) == ()
    assert told_split(TubeSet(kind="jhmdb"), tmp_path, "val", set()) == ("split: the data set's own",)


def test_in_a_crowd_only_those_have_text_whom_it_is_about() -> None:
    """Nine people, each in a cell; the error is in the middle one."""
    cells = [(x / 3 + 0.02, y / 3 + 0.12, x / 3 + 0.3, y / 3 + 0.3) for y in range(3) for x in range(3)]
    n = len(cells)
    assert n > MANY
    video, frame = np.array(["v"] * n), np.zeros(n, np.int64)
    found = Detections(video, frame, np.array(cells), np.ones(n, np.int64), np.full(n, 0.9))
    truth = GroundTruth(video, frame, np.array(cells), np.full(n, 2), np.arange(n))

    def plates(picks: list[Pick]) -> list[int]:
        """How much of the space above each box is covered."""
        taken: list[np.ndarray] = []

        def read(name: str, number: int) -> np.ndarray:
            return np.zeros((600, 900, 3), np.uint8)

        (picture,) = draw(picks, truth, found, LABELS, read)
        with Image.open(io.BytesIO(picture.jpeg)) as image:
            rgb = np.asarray(image.convert("RGB"))[:, :900]
        for x1, y1, x2, _ in cells:
            taken.append(rgb[int(600 * y1) - 30 : int(600 * y1) - 6, int(900 * x1) : int(900 * x2)].max(2) > 60)
        return [int(each.mean() > 0.2) for each in taken]

    assert plates([_pick("v", 0, 0.9, cells[4])]) == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_an_outline_alone_has_no_plate() -> None:
    black = np.zeros((100, 100, 3), np.uint8)
    plain = draw_actors(black, [DrawnActor((40, 40, 80, 80), 0.9, [("walk", 0.8)], outline_only=True)])
    full = draw_actors(black, [DrawnActor((40, 40, 80, 80), 0.9, [("walk", 0.8)])])
    assert not plain[:38].any()
    assert full[:38].any()
    assert plain[40:81, 40:81].any()
