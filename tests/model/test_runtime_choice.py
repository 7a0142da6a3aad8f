"""What a user may ask for: chosen, or refused in one sentence that says what to do. Never something else silently."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
from typer.testing import CliRunner, Result

from stmixer.model.card import CheckpointError, ModelCard
from stmixer.model.checkpoint import Model, save, untrained
from stmixer.model.cli import main
from stmixer.model.export import ExportError, export
from stmixer.model.labels import AVA_LABELS
from stmixer.model.runtimes.choose import open_runtime, torch_runtime
from stmixer.model.runtimes.host import HostArrays
from stmixer.model.runtimes.onnx import OnnxRuntime
from stmixer.model.runtimes.precision import pick_precision
from stmixer.model.runtimes.runtime import RuntimeUnavailable
from stmixer.model.runtimes.tensors import TensorArrays

CPU = torch.device("cpu")

pytestmark = pytest.mark.slow  # exporting takes half a minute


@pytest.fixture(scope="module")
def tiny() -> Model:
    return untrained("tiny")


@pytest.fixture
def tiny_onnx(onnx_file) -> Path:
    return onnx_file("tiny")


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_auto(tiny: Model, tiny_onnx: Path) -> None:
    eager, onnx = torch_runtime(tiny, CPU), open_runtime(None, tiny_onnx, CPU)
    assert (eager.name, eager.precision) == ("eager", "fp32")
    assert (onnx.name, onnx.precision) == ("onnx", "fp32")
    assert onnx.card == ModelCard(tiny.card.config, AVA_LABELS, trained=False)


def test_an_emulated_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert pick_precision("auto", CPU) == "fp32"
    for precision in ("bf16", "fp16"):
        with pytest.raises(RuntimeUnavailable, match=r"only emulates it.*use --precision fp32"):
            pick_precision(precision, CPU)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "onnx"}, "wants an .onnx file"),
        ({"runtime": "cudagraph"}, "needs CUDA"),
        ({"runtime": "tensorrt"}, "is none; use auto, eager"),
        ({"precision": "int8"}, "is none; use auto, fp32"),
    ],
)
def test_refused_for_weights_of_torch(options: dict[str, str], words: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=words):
        open_runtime("tiny", None, CPU, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"runtime": "eager"}, "give it the .safetensors"), ({"precision": "bf16"}, "is fp32; leave")],
)
def test_refused_for_onnx_files(tiny_onnx: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=words):
        open_runtime(None, tiny_onnx, CPU, **options)
    with pytest.raises(CheckpointError, match="holds tiny, not rt_lite0"):
        open_runtime("rt_lite0", tiny_onnx, CPU)


def test_no_compiler(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"needs a C\+\+ compiler"):
        torch_runtime(tiny, CPU, runtime="compile")


def test_onnx_runtime_that_fell_back_is_an_error(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where its CUDA libraries do not load: a session on the CPU, and no exception."""

    class FellBack(onnxruntime.InferenceSession):
        def __init__(self, path, options, providers) -> None:
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match="fell back to CPUExecutionProvider where cuda was asked for"):
        OnnxRuntime(tiny_onnx, TensorArrays(torch.device("cuda"), cells=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_onnx_runtime_on_cuda_that_is_not_there(tiny_onnx: Path) -> None:
    with pytest.raises((RuntimeUnavailable, CheckpointError)):
        OnnxRuntime(tiny_onnx, TensorArrays(torch.device("cuda"), cells=False))


def test_bad_files(tmp_path: Path, tiny_onnx: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        OnnxRuntime(tmp_path / "no.onnx", HostArrays())
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="cannot be opened by ONNX Runtime"):
        OnnxRuntime(tmp_path / "bad.onnx", HostArrays())


def test_too_large(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stmixer.model.export.MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="an ONNX file holds less than 2"):
        export(tiny, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_deviates_is_not_kept(
    tiny: Model, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: the graph of other weights."""
    monkeypatch.setattr("stmixer.model.export._write", lambda graph, path, header: shutil.copy(tiny_onnx, path))
    with pytest.raises(ExportError, match="does not compute what the model does"):
        export(tiny, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_opset_and_card(tiny_onnx: Path, tiny: Model) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(tiny_onnx)
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] <= 18
    sampled = [node for node in graph.graph.node if node.op_type == "GridSample"]
    assert len(sampled) == 4 * tiny.card.config.decoder.stages
    dims = [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims[1:3] == [3, 4]
    assert all(isinstance(dims[i], str) for i in (0, 3, 4)), "batch, height and width are free"


def test_verify_prints_the_deviation(tiny: Model, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    save(file, tiny.detector.state_dict(), tiny.card)
    done = call("verify", file, "--runtime", "eager", "--precision", "fp32")
    assert done.exit_code == 0, done.output
    assert "eager in fp32 on cpu deviates from the network in fp32 by" in done.stdout.splitlines()[-1]
    refused = call("verify", file, "--runtime", "cudagraph")
    assert refused.exit_code == 2
    assert "needs CUDA" in refused.stderr


def test_export_command_refuses(tmp_path: Path) -> None:
    for args, words in (
        (("export", "tiny", "-o", tmp_path / "x.pt"), "must end in .onnx"),
        (("export", "no_such", "-o", tmp_path / "x.onnx"), "neither a file nor bundled nor a variant"),
        (("export", "tiny", "-o", tmp_path / "no" / "x.onnx"), "is not a folder"),
    ):
        done = call(*args)
        assert done.exit_code == 2
        assert words in done.stderr
