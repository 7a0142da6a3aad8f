"""`bench.gpu_day`: a step that fails or hangs costs no other its results, and what each makes of what it sees."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from bench.gpu import day
from bench.gpu.day import Day, Outcome, Step

PROGRAMS = {
    "finds": "note(n=1); note(n=2)",
    "raises": "note(n=1); raise RuntimeError('no such thing')",
    "dies": "note(n=1); os.kill(os.getpid(), 9)",
    "hangs": "note(n=1); child = subprocess.Popen(['sleep', '600']); note(child=child.pid); child.wait()",
    "leaves": "child = subprocess.Popen(['sleep', '600']); note(child=child.pid)",
    "last": "note(n=3)",
}
HEAD = "import json, os, subprocess, sys\ndef note(**row): print(json.dumps(row), file=open(sys.argv[1], 'a'))\n"


def made(folder: Path, *names: str, seconds: float = 60.0, write=lambda *_: None) -> Day:
    def command(step: Step, soft: float) -> list[str]:
        return [sys.executable, "-c", HEAD + PROGRAMS[step.name], str(folder / f"{step.name}.jsonl")]

    steps = [Step(name, name, 5.5 if name == "hangs" else seconds) for name in names]
    return Day(folder, steps, command, write)


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_what_fails_or_hangs_costs_nobody_anything(tmp_path: Path) -> None:
    written: list[tuple[int, str]] = []
    names = ("finds", "raises", "dies", "hangs", "leaves", "last")
    outcomes = made(tmp_path, *names, write=lambda so_far, last: written.append((len(so_far), last.step))).run(600)
    assert [(o.step, o.ended) for o in outcomes] == [
        ("finds", "done"), ("raises", "failed"), ("dies", "failed"), ("hangs", "killed"), ("leaves", "done"),
        ("last", "done"),
    ]  # fmt: skip
    assert [o.rows[0].get("n") for o in outcomes] == [1, 1, 1, 1, None, 3]
    assert outcomes[0].rows == [{"n": 1}, {"n": 2}]
    assert "RuntimeError: no such thing" in outcomes[1].said
    assert outcomes[5].said == ""
    assert written == [(n, name) for n, name in enumerate(names, 1)], "results stand there after each step"
    assert all(gone(row["child"]) for o in outcomes for row in o.rows if "child" in row), "what it started runs on"


def test_a_day_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    first = made(tmp_path, "finds", "raises").run(600)
    later = made(tmp_path, "finds", "raises", "last").run(600)
    assert later[0] == first[0]
    assert [o.ended for o in later] == ["done", "failed", "done"]
    (tmp_path / "finds.jsonl").unlink()
    again = made(tmp_path, "finds", "last").run(600, again=["finds"])
    assert (tmp_path / "finds.jsonl").exists()
    assert [o.rows for o in again] == [[{"n": 1}, {"n": 2}], [{"n": 3}]]


def test_a_day_that_left_nonsense_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "outcomes.json").write_text('[{"step": "finds"}]')
    (tmp_path / "finds.jsonl").write_text('{"n": 7}\n{"n": ')
    (outcome,) = made(tmp_path, "finds").run(600)
    assert outcome.rows == [{"n": 1}, {"n": 2}]


def test_without_time_a_step_is_not_begun(tmp_path: Path) -> None:
    outcomes = made(tmp_path, "finds", "last").run(day.LEAST_S / 2)
    assert outcomes == [Outcome(name, "no time", 0.0, [], "") for name in ("finds", "last")]
    assert json.loads((tmp_path / "outcomes.json").read_text())[0]["ended"] == "no time"
    assert not (tmp_path / "finds.log").exists()
    assert os.listdir(tmp_path) == ["outcomes.json"]
