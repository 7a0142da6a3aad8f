"""Graphs and the weights file that they read from: that they belong together, and what is said where they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from stmixer.model.bundled import FOLDER, bundled
from stmixer.model.card import CheckpointError, ModelCard, read_header
from stmixer.model.checkpoint import halved, load, save, untrained
from stmixer.model.cli import main
from stmixer.model.config import ConfigError
from stmixer.model.export import ExportError, export_beside
from stmixer.model.onnx_files import BESIDE_KEY, graphs_of, header_of, stage_path, weights_beside
from stmixer.model.onnx_header import read_metadata
from stmixer.model.outputs import last_stage
from stmixer.model.runtimes import choose
from stmixer.model.runtimes.choose import open_runtime
from stmixer.model.runtimes.deviation import deviation
from stmixer.model.runtimes.host import HostArrays
from stmixer.model.runtimes.onnx import OnnxRuntime
from stmixer.model.runtimes.processor import CPU

LIMIT = 30e6
"""Bytes of all weights in the repository together."""


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_graphs_are_of_the_bundled_weights(name: str) -> None:
    """Where this fails, ``stmixer-weights export NAME --beside`` was left out after the weights were replaced."""
    weights = bundled()[name].file
    graphs = graphs_of(weights)
    assert graphs is not None, f"{name} has no graphs: stmixer-weights export {name} --beside"
    card, digest = read_header(weights)
    stages = ("whole", "frame", "clip") if card.config.backbone.per_frame else ("whole",)
    for stage in stages:
        assert header_of(stage_path(graphs, stage)) == (card, digest)


def test_weights_and_graphs_keep_to_their_size() -> None:
    files = [path for path in FOLDER.iterdir() if path.suffix in (".safetensors", ".onnx")]
    assert sum(path.stat().st_size for path in files) < LIMIT


def test_metadata_is_what_onnx_reads() -> None:
    graph = next(iter(FOLDER.glob("*.clip.onnx")))
    model = onnx.load(graph, load_external_data=False)
    assert read_metadata(graph) == {entry.key: entry.value for entry in model.metadata_props}


def small_pair(folder: Path) -> tuple[Path, Path]:
    """Of the bundled clip stage and the bundled weights' header, without the tensors."""
    graph = folder / "stmixer-rt.onnx"
    shutil.copy(FOLDER / "stmixer-rt.clip.onnx", graph)
    weights = folder / "stmixer-rt.safetensors"
    with (FOLDER / weights.name).open("rb") as file:
        length = file.read(8)
        weights.write_bytes(length + file.read(int.from_bytes(length, "little")))
    return graph, weights


def test_a_graph_of_other_weights_is_told(tmp_path: Path) -> None:
    graph, weights = small_pair(tmp_path)
    header_of(graph)
    whole = weights.read_bytes()
    for data in (whole.replace(b"trained", b"Trained", 1), whole[:-1] + b"\t", whole[:-9]):
        assert data != whole
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"other weights than stmixer-rt.safetensors has now; `stmixer-weigh"):
            header_of(graph)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"wants its weights, stmixer-rt.safetensors, beside it"):
        header_of(graph)


def test_weights_may_have_a_space_in_their_name_but_no_path(tmp_path: Path) -> None:
    graph, weights = small_pair(tmp_path)
    model = onnx.load(graph, load_external_data=False)
    (entry,) = [entry for entry in model.metadata_props if entry.key == BESIDE_KEY]
    digest = entry.value.rpartition(" ")[2]
    entry.value = f"my own.safetensors {digest}"
    graph.write_bytes(model.SerializeToString())
    weights.rename(tmp_path / "my own.safetensors")
    header_of(graph)
    assert weights_beside(graph) == "my own.safetensors"
    for name in ("../my own.safetensors", "", "/etc/passwd", "a\0b"):
        entry.value = f"{name} {digest}"
        graph.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match="no name of a file beside it"):
            header_of(graph)


def test_what_says_that_its_header_is_endless_is_other_weights(tmp_path: Path) -> None:
    graph, weights = small_pair(tmp_path)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="was made for other weights"):
        header_of(graph)


def test_where_graphs_fail_pytorch_runs_unless_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise CheckpointError("x.frame.onnx does not exist")

    monkeypatch.setattr(choose, "_onnx_runtime", broken)
    assert open_runtime(None, None, CPU).name == "eager"
    assert "x.frame.onnx does not exist; PyTorch runs instead" in caplog.text
    with pytest.raises(CheckpointError):
        open_runtime(None, None, CPU, runtime="onnx")
    monkeypatch.setattr(choose, "has_torch", lambda: False)
    with pytest.raises(CheckpointError):
        open_runtime(None, None, CPU)


def test_without_pytorch_a_wrong_name_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "has_torch", lambda: False)
    with pytest.raises(ConfigError, match="stmixer_rt"):
        open_runtime("stmixer_rt", None, CPU)
    monkeypatch.setattr(choose, "bundled", dict)
    with pytest.raises(CheckpointError, match="bundled weights stmixer-rt are not installed"):
        open_runtime(None, None, CPU)


def test_no_graphs_beside_a_link(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").symlink_to(FOLDER / "stmixer-rt.safetensors")
    with pytest.raises(ExportError, match="is a link, through which no graph may read"):
        export_beside(tmp_path / "x.safetensors")


@pytest.mark.parametrize("cut", [1, 40, 5000, 200_000])
def test_a_damaged_graph_is_told(tmp_path: Path, cut: int) -> None:
    graph, _ = small_pair(tmp_path)
    graph.write_bytes(graph.read_bytes()[:-cut])
    with pytest.raises(CheckpointError):
        header_of(graph)


def test_what_is_no_graph_is_told(tmp_path: Path) -> None:
    for data in (b"", b"no graph at all", b"\xff" * 64, b"PK\x03\x04", json.dumps({"a": 1}).encode()):
        (tmp_path / "x.onnx").write_bytes(data)
        with pytest.raises(CheckpointError):
            header_of(tmp_path / "x.onnx")


def test_beside_and_a_file_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--beside", "-o", "x.onnx"], []):
        with pytest.raises(SystemExit) as raised:
            main(["export", "tiny", *options])
        assert raised.value.code == 2
        assert "give either -o x.onnx, or --beside" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 64), (128, 96)], ids=str)
def test_bundled_graphs_compute_what_the_network_does(size: tuple[int, int], padded_clip) -> None:
    runtime = open_runtime(None, None, CPU, runtime="onnx")
    detector = load(Path(runtime.card.name)).detector
    clip, sizes = padded_clip(detector.config.clip.frames, [size, (size[0] - 9, size[1] - 3)])
    with torch.inference_mode():
        expected = last_stage(detector(clip, sizes))
    whole = runtime.detect(clip.numpy(), sizes.numpy())
    arrays = runtime.arrays
    maps = runtime.frame_stage(arrays.frames_of(clip.numpy()))
    staged = runtime.clip_stage([x.reshape(2, -1, *x.shape[1:]) for x in maps], sizes.numpy())
    for found in (whole, staged):
        assert deviation([torch.from_numpy(x) for x in last_stage(found)], expected) <= 1e-3


@pytest.mark.slow
def test_graphs_beside_halved_weights(tmp_path: Path, padded_clip) -> None:
    model = untrained("tiny")
    weights = tmp_path / "small.safetensors"
    save(weights, halved(model.detector.state_dict()), model.card)
    assert graphs_of(weights) is None
    with pytest.raises(SystemExit) as raised:
        main(["export", str(weights), "-o", str(tmp_path / "small.onnx")])
    assert raised.value.code == 0
    assert graphs_of(weights) == tmp_path / "small.onnx", "with numbers of its own, of this file all the same"
    with pytest.raises(SystemExit) as raised:
        main(["export", str(weights), "--beside"])
    assert raised.value.code == 0
    graphs = graphs_of(weights)
    assert graphs == tmp_path / "small.onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.onnx", "small.safetensors"]
    runtime = OnnxRuntime(graphs, HostArrays())
    assert runtime.card == ModelCard(**{k: getattr(model.card, k) for k in ModelCard.__slots__})
    clip, sizes = padded_clip(model.card.config.clip.frames, [(64, 96)])
    with torch.inference_mode():
        expected = last_stage(load(weights).detector(clip, sizes))
    found = last_stage(runtime.detect(clip.numpy(), sizes.numpy()))
    assert deviation([torch.from_numpy(x) for x in found], expected) <= 1e-3
    save(weights, halved({k: v + 1 for k, v in model.detector.state_dict().items()}), model.card)
    with pytest.raises(CheckpointError, match="was made for other weights"):
        graphs_of(weights)
