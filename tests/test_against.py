"""`bench.against`: somebody else's callable takes turns with ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bench.against import Side, main, taking_turns
from bench.checkouts import OURS, compared
from bench.hardware import processor

WALK = Path(__file__).parent / "clips/walk.mp4"
PEER = """
from pathlib import Path

loaded = []
log = Path(__file__).with_name("log")


def note(clip, what):
    loaded.append(what)
    with log.open("a") as file:
        file.write(f"{what} {len(loaded)} {Path(clip).name}\\n")


def slow(clip, keyframe_hz):
    note(clip, "slow")
    return int(4 * keyframe_hz)


def quick(clip, keyframe_hz, weights):
    note(clip, weights)
    yield from range(int(6 * keyframe_hz))


def broken(clip, keyframe_hz):
    raise ValueError("no such model")


def blind(clip, keyframe_hz):
    return []
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """A folder with a made-up peer."""
    (tmp_path / "peer.py").write_text(PEER)
    return tmp_path


def test_both_sides_take_turns_and_the_first_call_of_each_is_not_counted(peer: Path) -> None:
    hz: dict[str, object] = {"keyframe_hz": 2.0}
    theirs, own = (Side("peer:slow", peer), hz), (Side("peer:quick", peer), hz | {"weights": "w"})
    turns = taking_turns(theirs, own, peer / "walk.mp4", 2)
    calls = ["slow 1 walk.mp4", "slow 2 walk.mp4", "w 1 walk.mp4", "w 2 walk.mp4"]
    assert (peer / "log").read_text().splitlines() == calls * 2
    assert [[turn["keyframes"] for turn in side] for side in turns] == [[8, 8], [12, 12]]
    rows = compared(*turns)
    assert rows["keyframes"] == {"other": 8, "ours": 12, "ratio": 1.5, "spread": [1.5, 1.5]}
    assert list(rows) == ["keyframes", "wall_ms_per_keyframe", "cpu_ms_per_keyframe"]


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_what_fails_is_told(peer: Path) -> None:
    walk = str(WALK)
    for failing in ("peer:broken", "peer:blind", "peer:absent", "absent:slow"):
        code, said = run(failing, walk, "--path", str(peer))
        assert code == 1
        assert "a turn failed with exit code 1" in said
    code, said = run("peer:slow", walk, "--path", str(peer), "--python", "no-python")
    assert code == 2
    assert "no-python does not start" in said
    for wrong in ("peer", "peer:", ":slow"):
        code, said = run(wrong, walk, "--path", str(peer))
        assert code == 2
        assert "is not module:function" in said


def test_what_lies_here_is_found_from_elsewhere(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns run in another folder. An environment's interpreter is a link, by which it is told from others."""
    monkeypatch.chdir(peer)
    (peer / "bin").mkdir()
    (peer / "bin/python").symlink_to(sys.executable)
    (peer / "blob").touch()
    (peer / "own.onnx").symlink_to("blob")
    taken = list[tuple[Side, dict[str, object]]]()

    def turns(theirs: Any, own: Any, clip: Path, rounds: int) -> Any:
        taken.extend((theirs, own))
        raise OSError(0, "enough")

    monkeypatch.setattr("bench.against.taking_turns", turns)
    for python, weights in (("bin/python", "own.onnx"), ("python3", "stmixer-rt")):
        run("peer:slow", str(WALK), "--python", python, "--weights", weights)
    assert [theirs.python for theirs, _ in taken[::2]] == [str(peer / "bin/python"), "python3"]
    assert [options["weights"] for _, options in taken[1::2]] == [str(peer / "own.onnx"), "stmixer-rt"]


def test_what_it_ran_on_is_told_without_pytorch() -> None:
    code = "import sys; sys.modules['torch'] = None; import bench.against as a; print(a.measured_on()['hardware'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=OURS, capture_output=True, text=True, check=True)
    assert done.stdout == processor() + "\n"


@pytest.mark.slow
def test_ours_against_a_made_up_callable(peer: Path) -> None:
    output = peer / "against.json"
    code, _ = run("peer:slow", str(WALK), "--path", str(peer), "-o", str(output), "--rounds", "1")
    assert code == 0
    result = json.loads(output.read_text())
    assert (result["other"], result["video"], result["rounds"]) == ("peer:slow", "walk.mp4", 1)
    keyframes = result["figures"]["keyframes"]
    assert keyframes["other"] == 8
    assert keyframes["ours"] > 8
    assert result["figures"]["cpu_ms_per_keyframe"]["ours"] > 0
