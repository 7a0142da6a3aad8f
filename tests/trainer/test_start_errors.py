"""Whatever is wrong is said before training starts: a clear line for each fault, on stderr, and exit code 2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training import CLIPS, custom_set, run_config
from typer.testing import CliRunner

from stmixer.trainer.cli import main

HEAD = "video,frame,x1,y1,x2,y2,label,track\n"
GOOD = HEAD + "walk.mp4,0,0.1,0.2,0.3,0.4,walk,0\nfall.mp4,0,0.1,0.2,0.3,0.4,fall,0\n"
SPLITS = {"walk.mp4": "train", "fall.mp4": "val"}

Break = Callable[[Path, dict[str, Any]], None]


def boxes(text: str) -> Break:
    return lambda root, config: custom_set(root, text, SPLITS) and None


def row(text: str) -> Break:
    return boxes(f"{GOOD}{text}\n")


def _foreign_label(root: Path, config: dict[str, Any]) -> None:
    row("walk.mp4,5,0.1,0.2,0.3,0.4,fly,0")(root, config)
    config["labels"] = ["fall", "walk"]


def _missing_video(root: Path, config: dict[str, Any]) -> None:
    (root / "videos" / "walk.mp4").unlink()


def _broken_video(root: Path, config: dict[str, Any]) -> None:
    (root / "videos" / "walk.mp4").unlink()
    (root / "videos" / "walk.mp4").write_bytes(b"no film at all" * 100)


def _cut_video(root: Path, config: dict[str, Any]) -> None:
    """Half a film."""
    (root / "videos" / "walk.mp4").unlink()
    (root / "videos" / "walk.mp4").write_bytes((CLIPS / "walk.mp4").read_bytes()[:50_000])


def _empty_split(root: Path, config: dict[str, Any]) -> None:
    custom_set(root, GOOD, {"walk.mp4": "train", "fall.mp4": "train"})


def _wrong_path(root: Path, config: dict[str, Any]) -> None:
    config["sets"] = [{"kind": "custom", "root": "nowhere"}]


def _unwritable(root: Path, config: dict[str, Any]) -> None:
    (root / "file").write_text("")
    config["run_dir"] = str(root / "file" / "run")


def _run_there(root: Path, config: dict[str, Any]) -> None:
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text("{}")


def _set(**values: Any) -> Break:
    return lambda root, config: config.update(values)


CASES: dict[str, tuple[Break, list[str]]] = {
    "set folder": (_wrong_path, ["nowhere is not a folder"]),
    "missing video": (_missing_video, ["custom, train: {root}/videos/walk.mp4: ", "cannot be opened"]),
    "broken video": (_broken_video, ["custom, train: {root}/videos/walk.mp4: "]),
    "cut video": (_cut_video, ["custom, train: {root}/videos/walk.mp4: the file is cut off: it holds "]),
    "empty split": (_empty_split, ["custom, val: the split is empty"]),
    "run folder": (_unwritable, ["run folder {root}/file/run cannot be written"]),
    "run there": (_run_there, ["run folder {root}/run holds a run already: add --resume"]),
    "label": (_foreign_label, ["boxes.csv:4: label 'fly' is not in the list: fall, walk"]),
    "box outside": (row("walk.mp4,5,0.1,0.2,1.3,0.4,walk,0"), ["boxes.csv:4: box 0.1 0.2 1.3 0.4 lies outside 0–1"]),
    "box empty": (row("walk.mp4,5,0.3,0.2,0.3,0.4,walk,0"), ["boxes.csv:4: box 0.3 0.2 0.3 0.4 has no area"]),
    "box nan": (row("walk.mp4,5,nan,0.2,0.3,0.4,walk,0"), ["boxes.csv:4: box nan 0.2 0.3 0.4 is not finite"]),
    "number": (row("walk.mp4,five,0.1,0.2,0.3,0.4,walk,0"), ["boxes.csv:4: ", "'five'"]),
    "frame": (row("walk.mp4,999,0.1,0.2,0.3,0.4,walk,0"), ["walk.mp4 has 205 frames, its annotation names frame 999"]),
    "unlisted video": (row("run.mp4,0,0.1,0.2,0.3,0.4,walk,0"), ["boxes.csv:4: video 'run.mp4' is not in videos.csv"]),
    "column": (boxes("video,frame,x1,y1,x2,y2\n"), ["boxes.csv: no column label"]),
    "model": (_set(model="tinny"), ["model 'tinny' is unknown; known: "]),
    "unknown key": (_set(epoch=3), ["unknown key epoch"]),
    "nested key": (_set(loss={"normalizer": "rank"}), ["unknown key loss.normalizer"]),
    "value": (_set(batch_size=0), ["batch_size: Input should be greater than or equal to 1, got 0"]),
    "preset": (_set(preset="kinetics"), ["preset 'kinetics' is unknown; known: ava_v21, "]),
    "weights": (_set(init={"weights": "nothing.safetensors"}), ["nothing.safetensors does not exist"]),
    "no start": (_set(init={"seed": 3}), ["does not say what tiny starts from: name init.weights or init.backbone"]),
    "a preset without": (_set(init={}, preset="ava_v22"), ["ask for training from nothing with init: "]),
}  # fmt: skip


def start(tmp_path: Path, broken: Break, *options: str) -> tuple[int, list[str]]:
    root = custom_set(tmp_path / "custom", GOOD, SPLITS)
    config = run_config(root, init={"weights": None}).model_dump(mode="json", exclude_unset=True)
    broken(root, config)
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(main, ["fit", "-c", str(path), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, [line for line in done.stderr.splitlines() if line]


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(tmp_path: Path, case: str) -> None:
    broken, parts = CASES[case]
    code, lines = start(tmp_path, broken)
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("stmixer-train: ")
    for part in parts:
        assert part.format(root=tmp_path / "custom") in lines[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom").chmod(0o500)
    code, lines = start(tmp_path, lambda root, config: None)
    assert (code, len(lines)) == (2, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path: Path) -> None:
    code, lines = start(tmp_path, _set(accelerator="gpu"))
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("stmixer-train: accelerator: gpu, but no CUDA device is usable here")
    assert not (tmp_path / "custom" / "run").exists(), "the next try needs no --resume"


@pytest.mark.parametrize("device", ["cuda", "cuda:63", "mps", "gpu", "0x"])
@pytest.mark.parametrize("command", ["eval", "calibrate", "bank"])
def test_a_device_that_is_not_there(tmp_path: Path, tiny_weights: Path, command: str, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    root = custom_set(tmp_path / "custom", GOOD, SPLITS)
    given = ["--weights", str(tiny_weights)] if command == "bank" else [str(tiny_weights)]
    options = ["--custom", str(root), "-o", str(tmp_path / "out"), "--device", device]
    done = CliRunner().invoke(main, [command, *given, *options])
    assert done.exit_code == 2, done.exception
    assert done.stderr.startswith("stmixer-train: --device")
    assert repr(device) in done.stderr or f"--device {device}: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = (
        GOOD + "walk.mp4,5,0.1,0.2,1.3,0.4,walk,0\nwalk.mp4,x,0.1,0.2,0.3,0.4,walk,0\nno.mp4,0,0.1,0.2,0.3,0.4,walk,0\n"
    )
    code, lines = start(tmp_path, boxes(text))
    assert code == 2
    assert len(lines) == 3


def test_missing_config(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["fit", "-c", str(tmp_path / "no.yaml")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "no.yaml cannot be read" in done.stderr


def test_nothing_to_resume(tmp_path: Path) -> None:
    code, lines = start(tmp_path, lambda root, config: None, "--resume")
    assert code == 2
    assert lines[0].endswith("holds no last.ckpt to go on from")


@pytest.mark.parametrize(
    ("setting", "message"),
    [("epochs", "wants KEY=VALUE"), ("epochs=[", "is not YAML"), ("lr=3", "unknown key lr")],
)
def test_settings_on_the_command_line(tmp_path: Path, setting: str, message: str) -> None:
    code, lines = start(tmp_path, lambda root, config: None, "--set", setting)
    assert (code, len(lines)) == (2, 1)
    assert message in lines[0]


def test_eval_of_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["eval", str(tmp_path / "no.safetensors")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    root = custom_set(tmp_path / "custom", GOOD, SPLITS)
    done = CliRunner().invoke(main, ["eval", "no.safetensors", "--custom", str(root), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "no.safetensors does not exist" in done.stderr
