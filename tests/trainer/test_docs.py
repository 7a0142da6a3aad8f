"""docs/train.md, command by command, on real clips."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OWN_CLIPS, SHARED

from stmixer.trainer.config.file import load_phases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "train.md"
DETECTOR = SHARED / "weights" / "yolox_nano_416_coco.onnx"


def test_the_files_that_it_shows_are_read(tmp_path: Path) -> None:
    """They go on one from the other: phases, a phase more, sets."""
    phases, phase, sets = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "run.yaml").write_text(f"preset: custom\n{phases}{phase}{sets}")
    runs = load_phases(tmp_path / "run.yaml")
    assert [run.run_dir.name for run in runs] == ["stills", "clips", "many_clips"]
    assert [run.frozen for run in runs] == [(), ("backbone.",), ("backbone.",)]
    assert [each.kind for each in runs[0].sets] == ["pictures", "custom", "custom"]


@pytest.mark.slow
@pytest.mark.skipif(not DETECTOR.exists(), reason="no shared weights here")
def test_the_page_runs_from_start_to_end(tmp_path: Path) -> None:
    videos = tmp_path / "phone"
    videos.mkdir()
    data = SHARED / "data"
    for name, source in {
        "fall.mp4": data / "fall" / "videos" / "gm_s3_fall_20.mp4",
        "fall_at_home.mp4": OWN_CLIPS / "fall.mp4",
        "walk.mp4": OWN_CLIPS / "walk.mp4",
        "walk_again.mp4": data / "human_walking" / "videos" / "walk1.mp4",
    }.items():
        (videos / name).symlink_to(source)
    (tmp_path / "detector.onnx").symlink_to(DETECTOR)
    commands = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(commands) == 7
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    labels = {row.split(",")[6] for row in (tmp_path / "my_set" / "boxes.csv").read_text().splitlines()[1:]}
    assert labels == {"walk", "fall"}
    answer = json.loads((tmp_path / "out.json").read_text())
    assert answer["trained"] is True
    assert answer["keyframes"]
    assert (tmp_path / "out.mp4").stat().st_size > 10_000
    assert json.loads((tmp_path / "report" / "my_set.json").read_text())
    assert "boxes" in (tmp_path / "report" / "my_set.html").read_text()
    summary = json.loads((tmp_path / "report_live" / "summary.json").read_text())
    assert [part["set"] for part in (*summary["sets"], *summary["empty"])] == ["my_set", "empty"]
    assert any(text.startswith("look-ahead at most 0 ms") for text in summary["notes"])
