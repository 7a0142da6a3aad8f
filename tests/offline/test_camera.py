"""`stmixer detect` of a camera: what waits and what gives way, how it ends, where results go; webcams and RTSP."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cameras import make_film, running_camera
from conftest import OWN_CLIPS
from numpy.typing import NDArray
from ws_client import numbered

import stmixer
from stmixer.media.decode import Limits, VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.webcam import webcam
from stmixer.service.offline import camera as cameras_of
from stmixer.service.offline.camera import MOST, CameraCommand, CameraPicture, Recent
from stmixer.service.offline.inputs import Input, inputs_of
from stmixer.service.offline.told import at_once
from stmixer.service.schemas import DetectOptions, Result

OPTIONS = DetectOptions(keyframe_hz=2, score_threshold=0.0, top_k=2)
DOOR = Input("rtsp://door/1", "camera", "rtsp://me:secret@door/1")


@dataclass
class Numbered:
    """Picture k of 30 a second; ``looked`` is released when it is looked at."""

    k: int
    looked: threading.Semaphore

    @property
    def pts_us(self) -> int:
        return 5_000_000 + self.k * 1_000_000 // 30

    def rgb(self) -> NDArray[np.uint8]:
        self.looked.release()
        return numbered(self.k)


def film(frames: int, error: MediaError | None = None) -> Iterator[CameraPicture]:
    """Pictures that come no faster than they are looked at: none gives way."""
    looked = threading.Semaphore(MOST)
    for k in range(frames):
        looked.acquire()
        yield Numbered(k, looked)
    if error is not None:
        raise error


def all_of(recent: Recent) -> list[CameraPicture]:
    return list(iter(recent.take, None))


def test_a_seconds_worth_waits_and_the_oldest_gives_way() -> None:
    read, looked = threading.Event(), threading.Semaphore(0)

    def pictures() -> Iterator[CameraPicture]:
        yield from (Numbered(k, looked) for k in range(MOST + 12))
        read.set()

    with Recent(pictures()) as recent:
        assert read.wait(60)
        taken = all_of(recent)
        assert [picture.k for picture in taken if isinstance(picture, Numbered)] == list(range(12, MOST + 12))
        assert recent.displaced == 12


def test_what_came_is_taken_before_it_is_said_that_the_camera_is_lost() -> None:
    taken = []
    with Recent(film(3, MediaError("connection_lost", "it is gone"))) as recent:
        with pytest.raises(MediaError, match="it is gone"):
            taken += iter(recent.take, None)
        for _ in range(2):
            with pytest.raises(MediaError):
                recent.take()


def test_who_wants_no_more_gets_none_and_nothing_is_read_on() -> None:
    endless = (Numbered(k, threading.Semaphore()) for k in itertools.count())
    with Recent(endless) as recent:
        assert recent.take() is not None
        recent.end()
        assert recent.take() is None
    assert not recent._thread.is_alive()


@pytest.fixture(scope="module")
def runner(tiny_weights: Path) -> Any:
    from stmixer.service.worker.runner import Runner, pick_device, start_runtime

    return Runner(start_runtime(None, tiny_weights, pick_device("cpu")[0], "auto", "auto"))


def watched(
    runner: Any, pictures: Iterator[CameraPicture], *outputs: Path, seconds: float | None = None, on_result: Any = None
) -> tuple[Any, list[Result]]:
    """What it counts, and what it told."""
    told: list[Result] = []

    def tell(result: Result) -> None:
        told.append(result)
        if on_result is not None:
            on_result()

    command = CameraCommand(
        runner, OPTIONS, outputs, seconds=seconds, on_result=tell, pictures=lambda item: pictures
    )  # fmt: skip
    return command.run(DOOR), told


def test_results_are_those_of_its_pictures_and_go_where_they_should(
    runner: Any, tiny_weights: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / name for name in ("out.jsonl", "out.csv", "out.json")]
    summary, told = watched(runner, film(61), *outputs)
    with stmixer.load(tiny_weights, "cpu").stream(keyframe_hz=2, score_threshold=0.0, top_k=2) as stream:
        fed = [result for k in range(61) for result in stream.feed(numbered(k), 5_000_000 + k * 1_000_000 // 30)]
        fed += stream.end()
    assert [(result.pts_us, result.actors) for result in told] == [(result.pts_us, result.actors) for result in fed]
    assert [result.pts_us for result in told] == [0, 500_000, 1_000_000, 1_500_000, 2_000_000]
    assert (summary.received, summary.ok, summary.dropped) == (61, 5, {})
    lines = [json.loads(line) for line in outputs[0].read_text().splitlines()]
    assert [(line["source"], line["pts_us"]) for line in lines] == [("rtsp://door/1", result.pts_us) for result in told]
    with outputs[1].open(newline="") as table:
        assert {float(row["time_s"]) for row in csv.DictReader(table)} == {0, 0.5, 1, 1.5, 2}
    whole = json.loads(outputs[2].read_text())
    assert (len(whole["keyframes"]), whole["summary"]["received"]) == (5, 61)
    assert whole["frame"] == {"width": 320, "height": 240}
    assert not any("secret" in output.read_text() for output in outputs)


def test_it_ends_after_the_time_that_was_given(runner: Any) -> None:
    summary, told = watched(runner, film(60), seconds=1.0)
    assert [result.pts_us for result in told] == [0, 500_000, 1_000_000]
    assert summary.received == 31


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_all_is_written(runner: Any, tmp_path: Path, number: signal.Signals) -> None:
    """What was fed by then is looked at to its end; the handler that was there before is there again."""
    before, pressed = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)], []

    def press() -> None:
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), number)

    summary, told = watched(runner, film(42), tmp_path / "out.json", on_result=press)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert summary.received < 42
    assert len(json.loads((tmp_path / "out.json").read_text())["keyframes"]) == len(told) == summary.ok >= 1


@pytest.mark.parametrize("first", [0, 31])
def test_a_camera_that_sends_nothing_ends_by_our_clock(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """An error where it never sent anything; else the time that was given is over."""
    monkeypatch.setattr(cameras_of, "LEAVE_S", 0.0)
    over = threading.Event()

    def silent() -> Iterator[CameraPicture]:
        yield from film(first)
        over.wait(120)

    try:
        if first:
            summary, _ = watched(runner, silent(), tmp_path / "out.json", seconds=2)
            assert summary.received == 31
            assert len(json.loads((tmp_path / "out.json").read_text())["keyframes"]) == 3
        else:
            monkeypatch.setattr(cameras_of, "LATE_S", 0.0)
            with pytest.raises(MediaError, match=r"no picture within 0\.1 s") as nothing:
                watched(runner, silent(), seconds=0.1)
            assert nothing.value.code == "silent"
        assert not over.is_set()
    finally:
        over.set()


def test_a_camera_that_is_lost_leaves_what_was_found(runner: Any, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="it is gone"):
        watched(runner, film(31, MediaError("connection_lost", "it is gone")), tmp_path / "out.json")
    assert len(json.loads((tmp_path / "out.json").read_text())["keyframes"]) == 3
    with pytest.raises(MediaError, match="nobody"):
        watched(runner, film(0, MediaError("silent", "nobody")), tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_what_goes_on_in_words(runner: Any) -> None:
    _, (result, *_) = watched(runner, film(1))
    assert at_once(result).startswith("person 1")
    assert at_once(result.model_copy(update={"actors": ()})) == "nobody"


# -- cameras


def test_a_webcams_pictures_are_the_right_way_round() -> None:
    """A file in a webcam's place, which OpenCV reads just so."""
    pictures = webcam(OWN_CLIPS / "walk.mp4", cv2.CAP_FFMPEG)
    first, second = next(pictures), next(pictures)
    assert first.pts_us < second.pts_us
    with VideoReader(OWN_CLIPS / "walk.mp4", limits=Limits.unlimited()) as reader:
        wanted = next(iter(reader)).rgb().astype(int)
    assert np.abs(first.rgb().astype(int) - wanted).mean() < 3
    assert np.abs(first.rgb()[..., ::-1].astype(int) - wanted).mean() > 6
    with pytest.raises(MediaError, match="no more pictures") as lost:
        for _ in pictures:
            pass
    assert lost.value.code == "connection_lost"


def test_no_webcam(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="gives no picture") as none:
        next(webcam(tmp_path / "video0", cv2.CAP_FFMPEG))
    assert none.value.code == "no_frames"


@pytest.mark.slow
def test_an_rtsp_camera_by_its_address_with_a_password(tiny_weights: Path, tmp_path: Path) -> None:
    """The command as it is typed: lines as they come, on stdout and in a table; the password stands nowhere."""
    with running_camera(make_film(tmp_path, "h264"), "h264", "basic", "me", "hunter2") as camera:
        command = [
            sys.executable, "-m", "stmixer.cli", "detect", camera.url("me:hunter2"), "--seconds", "2",
            "--keyframe-hz", "2", "--score-threshold", "0", "--weights", str(tiny_weights), "--device", "cpu",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["pts_us"] for line in lines] == [0, 500_000, 1_000_000, 1_500_000, 2_000_000]
        assert {(line["frame"]["width"], line["frame"]["height"]) for line in lines} == {(320, 240)}
        assert "5 keyframes" in done.stderr
        refused = subprocess.run(
            [word.replace("hunter2", "hunter3") for word in command], capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "the camera does not take this user and password" in refused.stderr
    assert not any("hunter" in text for text in (done.stdout, done.stderr, refused.stderr))


def test_seconds_are_for_cameras(tmp_path: Path) -> None:
    assert inputs_of(["rtsp://door/1"])[0].kind == "camera"
    done = subprocess.run(
        [sys.executable, "-m", "stmixer.cli", "detect", str(OWN_CLIPS / "walk.mp4"), "--seconds", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--seconds is for a camera" in done.stderr
