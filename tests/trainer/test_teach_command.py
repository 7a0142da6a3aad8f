"""What ``stmixer teach`` says of what it cannot use: one line that says what to do, exit code 2, and no traceback."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from blocks import ROOT
from training import CLIPS
from typer.testing import CliRunner

from stmixer.commands import app
from stmixer.media.source import SeekableByteSource
from stmixer.model.bundled import bundled
from stmixer.model.card import read_header
from stmixer.model.checkpoint import read_tensors, save, untrained
from stmixer.trainer.data.sets import label_list
from stmixer.trainer.teach.asked import Lesson, check_asked
from stmixer.trainer.teach.command import _ctrl_c_between_reads, run
from stmixer.trainer.teach.done import Done
from stmixer.trainer.teach.figures import Figures
from stmixer.trainer.teach.lesson import _configured, _forget_others
from stmixer.trainer.teach.outcome import beside, write_outcome
from stmixer.trainer.teach.taught_set import write_sets
from stmixer.trainer.teach.told import JsonTeller, Teller
from stmixer.trainer.training.weights import initial_detector


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


def test_ctrl_c_while_modules_are_imported(tmp_path: Path) -> None:
    code = """
import os, signal, sys

class Stops:
    def find_spec(self, name, path=None, target=None):
        if name == "stmixer.service.cli":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background is started without it
sys.meta_path.insert(0, Stops())
from stmixer.cli import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "stmixer: stopped\n")


def test_ctrl_c_waits_for_a_read_of_ffmpegs() -> None:
    """Raised in there it would be printed by PyAV, and the file be taken for broken."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done: list[str] = []

    class Pressed(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # many chances to be stopped in here
                done.append("step")
            done.append("sought")
            return super().seek(offset, whence)

    def read() -> None:
        with _ctrl_c_between_reads():
            SeekableByteSource(Pressed(b"film"), owned=False).seek(0)
            done.append("back")
            signal.sigtimedwait([], 60)  # until it comes again

    def press() -> None:
        with _ctrl_c_between_reads():
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 60)

    try:
        with pytest.raises(KeyboardInterrupt):
            read()
        assert done[-2:] == ["sought", "back"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            press()
    finally:
        signal.signal(signal.SIGINT, before)


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
    output = tmp_path / "mine.safetensors"
    assert said(capsys, folder, output, "epoch=3") == "--set: unknown key epoch"
    assert said(capsys, folder, output, "epochs") == "--set wants KEY=VALUE, got 'epochs'"
    told = said(capsys, folder, output, "epochs=1", "epochs.more=2")
    assert told == "--set epochs.more: epochs was given a value of its own before"
    told = said(capsys, folder, output, detector=tmp_path / "gone.onnx")
    assert told == f"{tmp_path / 'gone.onnx'} does not exist; --detector wants a YOLOX file"
    told = said(capsys, folder, output, negatives=[tmp_path / "gone"])
    assert told.startswith(f"{tmp_path / 'gone' / 'videos.csv'} cannot be read: No such file")
    assert not (tmp_path / "mine.teach").exists(), "all is told before a clip is read"


@pytest.mark.parametrize(
    "setting",
    ["run_dir={0}", "data_root={0}", "sets=[]", "labels=[a]", "phases=[]", "model=rt_lite0", "init.weights=a"],
)
def test_what_a_lesson_sets_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    """The run's folder above all: beside it were folders that were deleted."""
    folder = clips(tmp_path / "clips", "fall/a.mp4", "fall/b.mp4", "none/c.mp4")
    mine = clips(tmp_path / "home", "mine/film.mp4")
    told = said(capsys, folder, tmp_path / "mine.safetensors", setting.format(mine / "run"))
    assert told.startswith(f"--set {setting.partition('=')[0]}: ")
    assert (mine / "mine" / "film.mp4").exists()


def test_only_earlier_runs_of_the_lesson_are_deleted(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("0123456789ab", "ba9876543210", "mine", "0123456789abc"):
        (runs / name).mkdir(parents=True)
    (tmp_path / "film").mkdir()
    (runs / "aaaaaaaaaaaa").symlink_to(tmp_path / "film")
    _forget_others(runs, "ba9876543210")
    assert {path.name for path in runs.iterdir()} == {"ba9876543210", "mine", "0123456789abc", "aaaaaaaaaaaa"}
    assert (tmp_path / "film").is_dir()


def test_what_no_lesson_made_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clips(tmp_path / "clips", "fall/a.mp4", "fall/b.mp4", "none/c.mp4")
    output = tmp_path / "mine.safetensors"
    assert {path.suffix for path in beside(output)} == {".md", ".onnx"}
    for path in beside(output):
        path.write_text("somebody's")
        told = said(capsys, folder, output)
        assert told.startswith(f"{path} exists and is not what `stmixer teach` made; name another weights file with -o")
        path.unlink()
    shutil.copy(bundled()["stmixer-rt"].file, output)
    assert said(capsys, folder, output).startswith(
        f"{output} exists and is not what `stmixer teach` made; name another"
    )
    assert said(capsys, folder, output, weights=output).startswith(f"{output} is what the lesson starts from; name ano")
    assert output.read_bytes() == bundled()["stmixer-rt"].file.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(output)
    assert "is a link or no file; name another" in said(capsys, folder, tmp_path / "link.safetensors")
    folder.rename(tmp_path / "own.teach")
    told = said(capsys, tmp_path / "own.teach", tmp_path / "own.safetensors")
    assert told == f"{tmp_path / 'own.teach'} is where the lesson's own files go; name another weights file with -o"


def test_what_a_lesson_made_may_be_written_over(tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    card = replace(read_header(Path("stmixer-rt"))[0], source="stmixer teach, from stmixer-rt")
    save(output, read_tensors(Path("stmixer-rt")), card)
    output.with_suffix(".md").write_text("an earlier lesson's")
    base = check_asked(Lesson(tmp_path, output))
    assert (base.digest, base.model) == (read_header(Path("stmixer-rt"))[1], "rt_nano")


@pytest.mark.parametrize(("name", "frozen"), [("rt_lite0", ("backbone.",)), ("rt_nano", ("backbone.", "person_head."))])
def test_it_starts_from_weights_of_any_realtime_variant(tmp_path: Path, name: str, frozen: tuple[str, ...]) -> None:
    """Whatever they are called: what was taught has the name of its file."""
    model = untrained(name)
    weights = tmp_path / "other.safetensors"
    save(weights, model.detector.state_dict(), replace(model.card, config=replace(model.card.config, name="other")))
    lesson, labels = Lesson(tmp_path, tmp_path / "mine.safetensors", weights), ("fall", "walk")
    config = _configured(lesson, write_sets(lesson.work, [], {}, labels, []), labels, check_asked(lesson))
    assert (config.model, config.frozen) == (name, frozen)
    initial_detector(config, label_list(labels))


def test_weights_of_no_realtime_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = untrained("tiny")
    save(tmp_path / "tiny.safetensors", model.detector.state_dict(), model.card)
    folder = clips(tmp_path / "clips", "fall/a.mp4", "fall/b.mp4", "none/c.mp4")
    told = said(capsys, folder, tmp_path / "mine.safetensors", weights=tmp_path / "tiny.safetensors")
    assert told == (
        f"{tmp_path / 'tiny.safetensors'} (tiny) is of no realtime variant; teach starts from weights of rt_lite0, "
        "rt_resnet18, rt_nano"
    )


def test_names_that_are_no_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clips(tmp_path / "clips", "fall/a.mp4", "none/c.mp4", os.fsdecode(b"fall/caf\xe9.mp4"))
    told = said(capsys, folder, tmp_path / "mine.safetensors")
    assert told == f"{folder / 'fall'}/caf\ufffd.mp4: its name is no UTF-8; rename it"
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    assert said(capsys, latin, tmp_path / "mine.safetensors").endswith("caf\ufffd: its name is no UTF-8; rename it")
    Teller().ended("failed", f"{latin} is no folder")
    assert capsys.readouterr().err == f"stmixer: {tmp_path}/caf? is no folder\n"


def test_what_was_done_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    figures = Figures(0.5, 0.75, 0.25, 8, None)
    assert Done.read(tmp_path) is None
    Done("abc", figures).write(tmp_path)
    assert Done.read(tmp_path) == Done("abc", figures)
    (tmp_path / "done.json").write_text("")
    assert Done.read(tmp_path) is None


def test_what_an_earlier_lesson_made_stays_whole_until_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "mine.safetensors"
    for path in (output, *beside(output)):
        path.write_text("earlier")

    def stopped(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stmixer.trainer.teach.outcome.export_beside", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_outcome(bundled()["stmixer-rt"].file, output, Path("stmixer-rt"), "x", Figures(0.5, 1.0, 0.0, 8, None))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: "earlier" for path in (output, *beside(output))
    }


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
