"""docs/train.md, command by command, on real clips."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OWN_CLIPS, SHARED
from exports import AVA_LABELS, ava_rows, coco_video, cvat_video, draw_pictures, via_project, write_json
from typer.testing import CliRunner

from stmixer.trainer.cli import main
from stmixer.trainer.config.file import load_phases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "train.md"
DETECTOR = SHARED / "weights" / "yolox_nano_416_coco.onnx"


def test_the_files_that_it_shows_are_read(tmp_path: Path) -> None:
    """They go on one from the other: phases, a phase more, sets."""
    phases, phase, sets, *public = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "run.yaml").write_text(f"preset: custom\n{phases}{phase}{sets}")
    runs = load_phases(tmp_path / "run.yaml")
    assert [run.run_dir.name for run in runs] == ["stills", "clips", "many_clips"]
    assert [run.frozen for run in runs] == [(), ("backbone.",), ("backbone.",)]
    assert [each.kind for each in runs[0].sets] == ["pictures", "custom", "custom"]
    found = []
    for text in public:
        (tmp_path / "public.yaml").write_text(text)
        (run,) = load_phases(tmp_path / "public.yaml")
        assert not run.says_no_start
        found.append((run.sets[0].kind, run.model))
    assert found == [("ava", "slowfast_r50"), ("jhmdb", "slowfast_r50"), ("ucf101_24", "slowfast_r50")]


def test_what_one_has_is_imported(tmp_path: Path) -> None:
    """The page's commands, on the exports of tests/exports.py."""
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "walk.mp4").symlink_to(OWN_CLIPS / "walk.mp4")
    (tmp_path / "cvat_task").mkdir()
    (tmp_path / "cvat_task" / "annotations.xml").write_text(cvat_video())
    (tmp_path / "cvat_task" / "walk.mp4").symlink_to(OWN_CLIPS / "walk.mp4")
    write_json(tmp_path / "via_project.json", via_project())
    write_json(tmp_path / "instances_val.json", coco_video())
    draw_pictures(tmp_path / "frames", "street/000001.png", "street/000003.png")
    draw_pictures(tmp_path / "yolo" / "images", "train/a.png")
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nnames: [walk, car]\n")
    (tmp_path / "yolo" / "images" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.4\n1 0.2 0.2 0.2 0.2\n")
    (tmp_path / "ava_val.csv").write_text(ava_rows())
    (tmp_path / "labels.pbtxt").write_text(AVA_LABELS)
    (block,) = [text for text in commands() if text.startswith("stmixer-train import")]
    assert len(block.splitlines()) == 5
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert program == "stmixer-train"
        places = {word: str(tmp_path / word) for word in words[1:] if (tmp_path / word).exists() or "from_" in word}
        done = CliRunner().invoke(main, [places.get(word, word) for word in words])
        assert done.exit_code == 0, done.output
        assert (tmp_path / words[words.index("-o") + 1] / "boxes.csv").exists()


def commands() -> list[str]:
    """The page's blocks of commands."""
    return re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)


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
    own = [text for text in commands() if not text.startswith("stmixer-train import")]
    assert len(own) == 7
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in own:
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
