"""``stmixer teach`` from a folder to served weights at toy length, stopped on the way, and on what it cannot use."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import ROOT
from conftest import OWN_CLIPS
from training import cut_clip

import stmixer
from stmixer.model.card import read_header
from stmixer.trainer.teach.outcome import is_whole

TOY = {"cached_features.segments": 4, "clips_per_epoch": 4, "batch_size": 2, "epochs": 1, "evaluate.every": 15}
TEACH = [sys.executable, "-m", "stmixer.cli", "teach"]


@pytest.fixture(scope="module")
def moves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of two clips each, names with blanks and accents, one that is broken, and two clips of neither."""
    root = tmp_path_factory.mktemp("clips") / "mes gestes"
    walk, fall = OWN_CLIPS / "walk.mp4", OWN_CLIPS / "fall.mp4"
    for number in (0, 1):
        cut_clip(walk, root / "aller à pied" / f"clip {number}.mp4", 1.5 * number, 1.2)
        cut_clip(fall, root / "stand" / f"{number}.mp4", 0.4 * number, 1.6)
        cut_clip(walk, root / "none" / f"{number}.mp4", 3.0 + number, 1.0)
    (root / "stand" / "broken.mp4").write_bytes(b"\0" * 4000)
    return root


def command(*arguments: object) -> list[str]:
    return [*TEACH, *map(str, arguments), "--json", *(f"--set={key}={value}" for key, value in TOY.items())]


def told(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The lines of a lesson as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def stopped_during(phase: str, *arguments: object) -> dict[str, Any]:
    """The last line of a lesson that is stopped by Ctrl-C at its first progress in a phase."""
    # a job in a shell's background is started deaf to Ctrl-C, and so are its children
    heeding = ["env", "--default-signal=INT", *command(*arguments)]
    with subprocess.Popen(heeding, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        last: dict[str, Any] = {}
        for last in told(process):
            if last["state"] == "progress" and last["phase"] == phase:
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    return last


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_a_folder_to_served_weights(moves: Path, tmp_path: Path) -> None:
    """Stopped in three phases, and again: what was done is not done again, and the end is a model."""
    output = tmp_path / "mine.safetensors"
    for phase in ("draft", "features", "learn"):
        last = stopped_during(phase, moves, "-o", output)
        assert (last["state"], last["phase"]) == ("stopped", phase)
        assert last["says"] == f"stopped during {phase}; what is done is kept, the same command goes on"
    (run,) = (tmp_path / "mine.teach" / "runs").iterdir()
    assert len(list((run / "features").glob("*.npz"))) == TOY["cached_features.segments"]

    done = subprocess.run(command(moves, "-o", output), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ends = {line["phase"]: line["says"] for line in lines if line["state"] == "end"}
    assert list(ends) == ["look", "draft", "features", "learn", "calibrate", "evaluate", "write"]
    assert ends["look"] == "4 clips of aller à pied, stand and 2 of none of them"
    assert ends["draft"] == "somebody in 4 of 4 clips"
    notes = [line["says"] for line in lines if line["state"] == "note"]
    assert any("broken.mp4 is left out: " in note for note in notes)
    last = lines[-1]
    assert (last["state"], last["next"]) == ("done", f"stmixer serve --weights {output}")
    assert last["figures"]["recall"] > 0.5

    card, _ = read_header(output)
    assert [label.name for label in card.labels] == ["aller à pied", "stand"]
    assert (card.name, card.trained, card.trained_on) == ("mine", True, "3 clips of mes gestes (stmixer teach)")
    assert card.licence == read_header(Path("stmixer-rt"))[0].licence
    assert is_whole(output)
    assert "aller à pied, stand" in output.with_suffix(".md").read_text()
    assert (tmp_path / "mine.teach" / "draft.html").read_text().count("<figure>") == 6
    assert not (run / "features").exists()
    detector = stmixer.load(output)
    results = list(detector.detect(OWN_CLIPS / "walk.mp4"))
    assert {action.name for result in results for actor in result.actors for action in actor.actions} <= {
        label.name for label in card.labels
    }
    assert any(result.actors for result in results)

    again = subprocess.run(command(moves, "-o", output), capture_output=True, text=True, cwd=ROOT, check=True)
    phases = {json.loads(line)["phase"] for line in again.stdout.splitlines()}
    assert phases == {"look", "draft"}
    assert json.loads(again.stdout.splitlines()[-1])["figures"] == last["figures"]
