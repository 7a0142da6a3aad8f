"""`bench/results`: figures with the hardware and versions they were measured on, and nothing of a machine's folders."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import drills
import pytest

RESULTS = sorted(p for p in drills.RESULTS.rglob("*") if p.is_file())
PATH = re.compile(r"(?<![\w.>])(?:/(?:tmp|root|home|work|mnt|srv|data|Users)/|~/|[A-Z]:\\|file://)")


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_no_result_holds_a_path_of_a_machine(path: Path) -> None:
    assert not [line for line in path.read_text().splitlines() if PATH.search(line)]


def test_a_path_would_be_seen() -> None:
    for text in (
        '"/tmp/x"',
        '"clip": "/home/me/walk.mp4"',
        f"- JSON: {Path('/', 'root', 'a.json')}",
        "~/clips",
        "file:///srv",
    ):
        assert PATH.search(text), text
    for text in ("frames/s", "/v1/detect", "tests/clips/fall.mp4", "http://127.0.0.1:37823", "images/s/home/x"):
        assert not PATH.search(text), text


def test_reports_are_written_without_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "RESULTS", tmp_path)
    temporary = Path(tempfile.gettempdir())
    figures: dict[str, Any] = {
        "clip": str(drills.ROOT / "tests/clips/fall.mp4"),
        "said": (f"  - JSON: {temporary / 'pytest-0/one/report.json'}", "7856 passed"),
        "steps": [{"url": "http://127.0.0.1:1/v1/detect", "output": str(Path.home() / "a/soak.json"), "cores": 2}],
    }
    drills.write_report("some", figures)
    report = json.loads((tmp_path / "some.json").read_text())
    assert {name: report[name] for name in figures} == {
        "clip": "tests/clips/fall.mp4",
        "said": ["  - JSON: report.json", "7856 passed"],
        "steps": [{"url": "http://127.0.0.1:1/v1/detect", "output": "soak.json", "cores": 2}],
    }
    assert not PATH.search((tmp_path / "some.json").read_text())
