"""``stmixer-train eval``: what is seen, at which precision, on sets with people and without, and the summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training import CLIPS, custom_set, filled, own_set, run_config
from typer.testing import CliRunner

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.encode import Mp4Writer
from stmixer.model.card import ModelCard
from stmixer.model.checkpoint import save
from stmixer.model.labels import Label
from stmixer.model.zoo import variant
from stmixer.trainer.cli import main
from stmixer.trainer.data.clips import View
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.evaluate.evaluation import EvaluationMode
from stmixer.trainer.evaluate.network import load_network, run_network

LABELS = ("fall", "stand", "walk")


@pytest.fixture(scope="module")
def weights(fill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with fill.py's weights and the labels of the repository's clips."""
    path = tmp_path_factory.mktemp("weights") / "three.safetensors"
    detector = filled(fill, "tiny", classes=3)
    labels = tuple(Label(i, name) for i, name in enumerate(LABELS, start=1))
    save(path, detector.state_dict(), ModelCard(detector.config, labels, trained=False))
    return path


def bare_set(root: Path) -> Path:
    """Two grey clips of ten frames, and one of the repository's."""
    (root / "videos").mkdir(parents=True)
    rows = ["video,split,frames"]
    for name in ("a.mp4", "b.mp4"):
        with Mp4Writer(root / "videos" / name, 160, 128, 30) as writer:
            for i in range(10):
                writer.write(np.full((128, 160, 3), 90, np.uint8), i * 33_333)
        rows.append(f"{name},val,10")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    (root / "boxes.csv").write_text("video,frame,x1,y1,x2,y2,label\n")
    return root


def evaluate(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["eval", *(str(a) for a in arguments), "--device", "cpu", "--set", "workers=0"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("frames", [(12, 37, 62, 87), (0, 24, 48, 72), (1, 2, 3, 5)])
def test_all_that_is_annotated_is_looked_at(weights: Path, tmp_path: Path, frames: tuple[int, ...]) -> None:
    """Once a second of 25 fps, every 24th, wherever: all keyframes count, with ``--every`` those that it leaves."""
    rows = "".join(f"walk.mp4,{frame},0.1,0.2,0.3,0.4,walk,7\n" for frame in frames)
    own = custom_set(tmp_path / "own", f"video,frame,x1,y1,x2,y2,label,track\n{rows}", {"walk.mp4": "val"})
    (tmp_path / "run.yaml").write_text("run_dir: r\nevaluate: {every: 3}\nsets: [{kind: custom, root: own}]\n")
    for options, step in (
        (("--custom", own), 1),
        (("--custom", own, "--every", 2), 2),
        (("--config", tmp_path / "run.yaml"), 3),
        (("--config", tmp_path / "run.yaml", "--every", 2), 2),
        (("--config", tmp_path / "run.yaml", "--set", "evaluate.every=1"), 1),
    ):
        code, printed = evaluate(weights, *options, "-o", tmp_path / "out")
        left = [frame for frame in frames if frame % step == 0]
        if not left:
            assert code == 2
            assert printed.endswith(f"is empty: no annotated frame has a multiple of {step} for its index\n")
            assert printed.count("\n") == 1
            continue
        assert code == 0, printed
        report = json.loads((tmp_path / "out" / "own.json").read_text())
        assert (report["protocol"], report["people"]["keyframes"]) == ("frames-custom", len(left))
        assert report["classes"][0]["boxes"] == len(left)
        note = f"keyframes: annotated frames whose index is a multiple of {step}"
        assert (note in report["notes"]) == (step > 1)


def test_sets_with_people_and_without_in_one_summary(weights: Path, tmp_path: Path) -> None:
    boxes = "video,frame,x1,y1,x2,y2,label,track,origin\nwalk.mp4,0,0.1,0.2,0.3,0.4,walk,7,true\n"
    boxes += "walk.mp4,10,0.1,0.2,0.3,0.4,walk,7,pseudo\n"
    own = custom_set(tmp_path / "own", boxes, {"walk.mp4": "val"})
    bare, out = bare_set(tmp_path / "bare"), tmp_path / "out"
    options = ("--custom", own, "--empty", bare, "-o", out, "--single-frame", "--precision", "bf16")
    code, printed = evaluate(weights, *options)
    assert code == 0, printed
    summary = json.loads((out / "summary.json").read_text())
    (with_people,), (without,) = summary["sets"], summary["empty"]
    report = json.loads((out / "own.json").read_text())
    assert with_people["set"] == "own"
    assert with_people["origin"] == "mixed"
    assert with_people["mean_ap"] == report["mean_ap"]
    assert with_people["person_recall"] == report["people"]["recall"]
    assert with_people["false_people_per_keyframe"] == report["people"]["false_per_keyframe"]
    assert [(c["name"], c["boxes"], c["tracks"], c["few_tracks"]) for c in with_people["classes"]] == [
        ("walk", 2, 1, True)
    ]  # fmt: skip
    assert (without["set"], without["empty_keyframes"]) == ("bare", 2)
    assert without["false_per_empty_keyframe"] == json.loads((out / "bare.json").read_text())["false_people"] / 2
    assert "single frame: the keyframe stands for the whole window" in summary["notes"]
    assert "precision: bf16" in report["notes"]
    assert {p.name for p in out.iterdir()} == {"own.json", "own.html", "own.csv", "bare.json", "summary.json"}
    for text in ("recall", "false people per keyframe", "false people per empty keyframe", "all sets"):
        assert text in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--single-frame", "--lookahead-ms", "100"), "--single-frame sees nothing ahead"),
        (("--single-frame", "--camera-motion"), "--single-frame has no window"),
        (("--empty", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_one_line_for_what_is_wrong(weights: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    own = own_set(tmp_path / "own", "val")
    code, printed = evaluate(weights, "--custom", own, "-o", tmp_path / "out", *options)
    assert code == 2
    assert message in printed


def test_turned_pictures_are_for_people_alone(weights: Path, tmp_path: Path) -> None:
    own, bare, out = own_set(tmp_path / "own", "val"), bare_set(tmp_path / "bare"), tmp_path / "out"
    code, printed = evaluate(weights, "--custom", own, "--empty", bare, "-o", out, "--turned")
    assert code == 0, printed
    report = json.loads((out / "own.json").read_text())
    assert (report["mean_ap"], report["classes"], report["video_map"]) == (None, [], {})
    assert report["action_reliability"] is None
    assert report["people"]["people"] == 19
    assert sum(each["people"] for each in report["people"]["served"]["by_height"][:4]) == 19
    assert "pictures turned by 90°, people alone; heights are the longer side" in report["notes"]
    (of_set,) = json.loads((out / "summary.json").read_text())["sets"]
    assert of_set["served"] == report["people"]["served"]
    assert {p.name for p in out.iterdir()} == {"own.json", "own.html", "bare.json", "summary.json"}
    assert "people alone" in printed
    assert "person AP" in (out / "own.html").read_text()


def test_turned_boxes_lie_on_turned_frames(tmp_path: Path) -> None:
    own_set(tmp_path, "val")
    data = load_data(run_config(tmp_path, sets=[{"kind": "custom", "parts": ["val"]}]), ("val",))
    (source,) = data.val
    upright, turned = (
        ClipSet([each], variant("tiny"), None, 1 << 28)[Draw(0, 5, (0,))] for each in (source, source.quarter_turned())
    )
    assert torch.equal(turned.frames, upright.frames.rot90(dims=(1, 2)))
    (x1, y1, x2, y2), width = upright.target.boxes_xyxy_px[0].tolist(), upright.frames.shape[2]
    assert turned.target.boxes_xyxy_px[0].tolist() == pytest.approx([y1, width - x2, y2, width - x1], abs=1e-3)
    assert source.quarter_turned().quarter_turned().turned is False


def frames(tmp_path: Path, view: View, keyframe: int = 5) -> torch.Tensor:
    own_set(tmp_path, "val")
    data = load_data(run_config(tmp_path, sets=[{"kind": "custom", "parts": ["val"]}]), ("val",))
    return ClipSet(data.val, variant("tiny"), None, 1 << 28, view=view)[Draw(0, keyframe, (0,))].frames


def test_what_of_its_window_a_clip_sees(tmp_path: Path) -> None:
    whole = frames(tmp_path, View())
    middle = len(whole) // 2
    assert not torch.equal(whole[middle], whole[-1])
    blind = frames(tmp_path, View(lookahead_ms=0))
    assert torch.equal(blind[: middle + 1], whole[: middle + 1])
    assert all(torch.equal(frame, whole[middle]) for frame in blind[middle:])
    still = frames(tmp_path, View(still=True))
    assert still.shape == whole.shape
    assert all(torch.equal(frame, whole[middle]) for frame in still)
    assert torch.equal(frames(tmp_path, View(lookahead_ms=1e6)), whole)
    moving = frames(tmp_path, View(moving=True))
    assert torch.equal(moving[middle], whole[middle])
    assert not torch.equal(moving[0], whole[0])
    assert torch.equal(moving, frames(tmp_path, View(moving=True))), "the same camera for all weights"
    assert not torch.equal(moving, frames(tmp_path, View(moving=True), keyframe=6))


def test_notes_say_how() -> None:
    assert EvaluationMode().notes() == ()
    assert EvaluationMode(turned=True).notes() == ("pictures turned by 90°, people alone; heights are the longer side",)
    assert EvaluationMode(View(lookahead_ms=150), "bf16").notes() == (
        "look-ahead at most 150 ms; later samples repeat the last one", "precision: bf16"
    )  # fmt: skip


def test_bf16_is_near_and_comes_as_float32(weights: Path, tmp_path: Path) -> None:
    own_set(tmp_path, "val")
    config = run_config(tmp_path, sets=[{"kind": "custom", "parts": ["val"]}], evaluate={"batch_size": 1})
    data, cpu = load_data(config, ("val",)), torch.device("cpu")
    full, half = (
        next(run_network(load_network(weights, cpu, precision), data.val, config, cpu)).output.stages[-1]
        for precision in ("fp32", "bf16")
    )  # fmt: skip
    for name in ("human_logits", "action_logits", "boxes_xyxy_px"):
        a, b = getattr(full, name), getattr(half, name)
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_every_keyframe_is_looked_at_once(weights: Path, tmp_path: Path) -> None:
    own_set(tmp_path, "val")
    config = run_config(tmp_path, sets=[{"kind": "custom", "parts": ["val"]}])
    data, cpu = load_data(config, ("val",)), torch.device("cpu")
    told: list[tuple[int, int]] = []
    network = load_network(weights, cpu)
    results = list(run_network(network, data.val, config, cpu, progress=lambda done, total: told.append((done, total))))
    assert [draw.keyframe for batch in results for draw in batch.batch.draws] == list(range(19))
    assert told[-1] == (len(told), len(told))
    assert results[0].output.stages[-1].human_logits.shape[0] == len(results[0].batch.frames)
    with VideoReader(CLIPS / "fall.mp4", limits=Limits.unlimited()) as reader:
        assert results[0].sizes_wh[0].tolist()[0] / results[0].sizes_wh[0].tolist()[1] == pytest.approx(
            reader.info.width / reader.info.height, rel=0.01
        )
