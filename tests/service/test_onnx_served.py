"""`stmixer serve --weights x.onnx` answers what eager does, at the sizes that clips bring; so does `detect`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from posting import made_video, post, same_actors
from serving import running_server


def command(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tiny", marks=pytest.mark.slow),
        *(
            pytest.param(n, marks=pytest.mark.drill)
            for n in ("rt_lite0", "rt_resnet18", "slowonly_r50", "slowfast_r50")
        ),
    ],
)
def test_served_as_onnx(name: str, tmp_path: Path) -> None:
    file, clip, answer = tmp_path / "x.onnx", tmp_path / "clip.mp4", tmp_path / "eager.json"
    done = command("stmixer.model.cli", "export", name, "-o", file)
    assert done.returncode == 0, done.stderr
    assert "deviates from eager by" in done.stdout
    clip.write_bytes(made_video(320, 240, 50))
    with running_server(weights=file) as server:
        served = post(server, clip, timeout=250, score_threshold=0).json()
        assert any("(onnx, fp32)" in line for line in server.log)
    options = ("--model", name, "--score-threshold", 0)
    assert command("stmixer.service.cli", "detect", clip, "-o", answer, *options).returncode == 0
    explained = command("stmixer.service.cli", "detect", clip, "--weights", file, "--explain", tmp_path / "out")
    assert explained.returncode == 2
    assert "--explain shows every stage" in explained.stderr
    eager = json.loads(answer.read_text())
    assert served["model"] == eager["model"] == name
    assert len(served["keyframes"]) == len(eager["keyframes"]) > 1
    for ours, theirs in zip(served["keyframes"], eager["keyframes"], strict=True):
        assert len(theirs["actors"]) > 1
        same_actors(ours["actors"], theirs["actors"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"runtime": "cudagraph", "device": "cpu"}, "needs CUDA", marks=pytest.mark.slow),
        ({"precision": "int8"}, "STMIXER_PRECISION"),
    ],
)
def test_serve_refuses_in_one_line(options: dict[str, str], says: str) -> None:
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = command("stmixer.service.cli", "serve", "--model=tiny", "--port=0", *arguments)
    assert done.returncode == 2
    assert says in done.stderr or "not one of" in done.stderr
    assert "Traceback" not in done.stderr
