"""What runs without PyTorch: serving and detecting with ONNX graphs; and what is said where it is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from conftest import OWN_CLIPS
from posting import post, same_actors
from serving import running_server

import stmixer
from stmixer.model.runtimes.processor import CPU
from stmixer.service.errors import StartError
from stmixer.service.worker.runner import start_runtime
from stmixer.trainer.command import main as train

ROOT = Path(__file__).resolve().parents[1]
WALK = OWN_CLIPS / "walk.mp4"
ABSENT = ("torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "lightning", "scipy", "tensorboard")
"""What the package's own dependencies do not bring (pyproject.toml)."""
BLOCKS = f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n"
KEYFRAMES, OPTIONS = 3, {"keyframe_hz": 2, "score_threshold": 0.3}


def test_every_process_and_a_result_without_torch() -> None:
    """Of the API, of decoders and of a worker that warms up; and the same people as PyTorch finds."""
    code = (
        BLOCKS
        + f"""
import itertools, json
import stmixer, stmixer.service.api.server, stmixer.service.decoder.process, stmixer.service.decoder.nursery
import stmixer.service.worker.process as worker
from stmixer.service.ipc.messages import WorkerOptions
runner, ready = worker.open_runner(WorkerOptions(None, None, "cpu", "auto", "auto", 2, 1))
results = itertools.islice(stmixer.load(device="cpu").detect({str(WALK)!r}, **{OPTIONS}), {KEYFRAMES})
print(json.dumps([[ready.runtime, ready.precision, ready.chosen], [r.model_dump(mode="json") for r in results]]))
assert not {{name.partition(".")[0] for name, module in sys.modules.items() if module}} & set({ABSENT})
"""
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runtime, found = json.loads(done.stdout)
    assert runtime == ["onnx", "fp32", "since its graphs lie ready"]
    eager = stmixer.load(device="cpu", runtime="eager")
    expected = [r.model_dump(mode="json") for r in islice(eager.detect(WALK, **OPTIONS), KEYFRAMES)]
    assert [r["pts_us"] for r in found] == [r["pts_us"] for r in expected]
    assert sum(len(r["actors"]) for r in expected) >= KEYFRAMES - 1
    for ours, theirs in zip(found, expected, strict=True):
        same_actors(ours["actors"], theirs["actors"])


@pytest.mark.slow
def test_it_serves_without_torch(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKS)
    with running_server(environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, device="cpu") as server:
        keyframes = post(server, WALK, score_threshold=0.3).json()["keyframes"]
        assert any("(onnx, fp32)" in line for line in server.log)
    assert len(keyframes) == 7
    assert any(keyframe["actors"] for keyframe in keyframes)


@pytest.mark.parametrize(
    ("model", "runtime", "precision", "says"),
    [
        ("tiny", "auto", "auto", "--model tiny has no ONNX graphs"),
        ("rt_nano", "auto", "fp32", "--model rt_nano has no ONNX graphs"),
        (None, "eager", "auto", "--runtime eager is PyTorch's"),
        (None, "compile", "fp32", "--runtime compile is PyTorch's"),
        (None, "auto", "bf16", "--precision bf16 is PyTorch's"),
    ],
)
def test_what_only_torch_does_is_said_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, model: str | None, runtime: str, precision: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(StartError) as raised:
        start_runtime(model, None, CPU, runtime, precision)
    assert says in str(raised.value)
    assert "pip install 'stmixer[torch]'" in str(raised.value)
    assert raised.value.code == "runtime_unavailable"


def test_the_trainer_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("lightning", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as raised:
        train()
    assert raised.value.code == 2
    assert capsys.readouterr().err == (
        "stmixer-train: torch, lightning not installed; pip install 'stmixer[train]' brings what is missing\n"
    )


@pytest.mark.parametrize("command", [["export", "tiny", "-o", "x.onnx"], ["verify", "stmixer-rt"]], ids=lambda c: c[0])
def test_the_weights_command_says_what_it_lacks(command: list[str], tmp_path: Path) -> None:
    code = BLOCKS + f"sys.argv[1:] = {command}\nfrom stmixer.model.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "stmixer-weights: torch not installed; pip install 'stmixer[torch]' brings what is missing\n"
    )
