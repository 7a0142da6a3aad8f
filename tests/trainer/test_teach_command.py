"""What ``stmixer teach`` says of what it cannot use: one line that says what to do, exit code 2, and no traceback."""

from __future__ import annotations

import io
import json
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from training import CLIPS
from typer.testing import CliRunner

from stmixer.cli import app
from stmixer.trainer.teach.command import run
from stmixer.trainer.teach.told import JsonTeller, Teller


def clips(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS / "fall.mp4", root / name)
    return root


def noise(path: Path) -> None:
    """A video of a second in which nobody is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (96, 64))
    rng = np.random.default_rng(0)
    for _ in range(25):
        video.write(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    video.release()


def said(capsys: pytest.CaptureFixture[str], folder: Path, output: Path, *settings: str, **more: Any) -> str:
    """The last words of a lesson that fails, in one line each."""
    given = {"weights": Path("stmixer-rt"), "negatives": [], "detector": None} | more
    assert run(folder, output, settings=settings, json_lines=True, **given) == 2
    captured = capsys.readouterr()
    last = json.loads(captured.out.splitlines()[-1])
    assert last["state"] == "failed"
    assert captured.err == ""
    return str(last["says"])


def test_the_command_is_stmixers() -> None:
    result = CliRunner().invoke(app, ["teach", "--help"])
    assert result.exit_code == 0
    assert "Teach it your own actions" in result.output


def test_what_is_no_folder_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mine.safetensors"
    assert "is no folder; put your clips into" in said(capsys, tmp_path / "gone", output)
    one = clips(tmp_path / "one", "fall/a.mp4")
    assert (
        said(capsys, one, output)
        == f"fall has one clip; add another one to {one / 'fall'}: one to learn from, one to check it by"
    )
    assert said(capsys, one, tmp_path / "mine.pt").endswith("mine.pt: the weights file's name must end in .safetensors")
    assert not (tmp_path / "mine.teach").exists()


def test_nobody_in_any_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows the clips all the same."""
    for name in ("fall/a", "fall/b", "walk/a", "walk/b"):
        noise(tmp_path / "clips" / f"{name}.mp4")
    told = said(capsys, tmp_path / "clips", tmp_path / "mine.safetensors")
    assert "holds no clip to learn from (4 were left out, the first since: nobody was found in it); put short" in told
    page = (tmp_path / "mine.teach" / "draft.html").read_text()
    assert page.count("left out: nobody was found in it") == 4


def test_weights_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clips(tmp_path / "clips", "fall/a.mp4", "fall/b.mp4", "none/c.mp4")
    told = said(capsys, folder, tmp_path / "mine.safetensors", weights=tmp_path / "gone.safetensors")
    assert told == f"{tmp_path / 'gone.safetensors'} does not exist"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows past a hundred bytes, as far as this process can write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_takes_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str], full_disk: None) -> None:
    for name in ("fall/a.mp4", "fall/b.mp4", "none/c.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).symlink_to(CLIPS / "fall.mp4")
    told = said(capsys, tmp_path / "clips", tmp_path / "mine.safetensors")
    assert told == f"{tmp_path / 'mine.teach' / 'drafts'} cannot be written: File too large"


def test_a_disk_without_room_is_told_before_hours_of_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clips(tmp_path / "clips", "fall/a.mp4", "fall/b.mp4", "none/c.mp4")
    told = said(capsys, folder, tmp_path / "mine.safetensors", "cached_features.segments=1000000000")
    assert "GB free and about 10485760.0 GB are needed while it learns; make room, or name a file on another" in told


def test_a_wrong_key_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clips(tmp_path / "clips", "fall/a.mp4", "fall/b.mp4", "none/c.mp4")
    assert said(capsys, folder, tmp_path / "mine.safetensors", "epoch=3").endswith("run.yaml: unknown key epoch")
    assert said(capsys, folder, tmp_path / "mine.safetensors", "epochs") == "--set wants KEY=VALUE, got 'epochs'"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    screen = Screen()
    tell = Teller(screen)
    with tell.doing("features", "seeing the clips"):
        tell.progress(3, 12)
        tell.next("learn", "learning from them")
        tell.progress(1, 2)
        tell.done("it is learned")
    shown = screen.getvalue()
    assert "features  seeing the clips" in shown
    assert "learn     learning from them" in shown
    assert "learn     it is learned" in shown


def test_phases_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    tell = Teller(out)
    with tell.doing("look", "reading the clips"):
        tell.progress(1, 2)
        tell.done("2 clips")
    tell.note("one [is] left out")
    tell.ended("done", "stmixer serve")
    tell.ended("failed", "no room\nno clips")
    assert capsys.readouterr().err.splitlines() == ["stmixer: no room", "stmixer: no clips"]
    assert out.getvalue().splitlines() == [
        "look      reading the clips ...",
        "look      2 clips",
        "  one [is] left out",
        "stmixer serve",
    ]


def test_phases_as_json_lines() -> None:
    out = io.StringIO()
    now = iter((10.0, 12.0, 14.0))
    tell = JsonTeller(out, clock=lambda: next(now))
    with tell.doing("features", "seeing the clips"):
        for done in (3, 5, 9):
            tell.progress(done, 11)
        tell.next("learn", "learning from them")
        tell.done("it is learned")
    tell.ended("failed", "no room")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["state"] for line in lines] == [
        *("start", "progress", "progress", "progress", "start", "end", "failed")
    ]
    assert [line["left_s"] for line in lines[1:4]] == [None, 6.0, 1.3]
    assert [line["phase"] for line in lines] == ["features"] * 4 + ["learn"] * 3
    assert lines[-1]["says"] == "no room"
