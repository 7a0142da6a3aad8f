"""`stmixer serve` that cannot start says why in one line and ends with 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

STMIXER = [sys.executable, "-m", "stmixer.service.cli", "serve"]


def serve(*options: str, **settings: str) -> str:
    """Its one line, after the check that it is one and that nothing else was said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STMIXER_")}
    environment |= {f"STMIXER_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [*STMIXER, *options], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("stmixer: ")
    return lines[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_a_taken_port(taken_port: int) -> None:
    line = serve("--port", str(taken_port))
    assert f"127.0.0.1:{taken_port}" in line
    assert "--port" in line


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_cuda_that_is_not_there() -> None:
    assert "--device cuda" in serve("--port", "0", "--device", "cuda")


@pytest.mark.slow
def test_a_device_that_is_none() -> None:
    assert "'toaster'" in serve("--port", "0", "--device", "toaster")


@pytest.mark.slow
def test_weights_that_are_missing(tmp_path: Path) -> None:
    assert "none.safetensors" in serve("--port", "0", "--weights", str(tmp_path / "none.safetensors"))


@pytest.mark.slow
def test_weights_that_are_broken(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0notjson!" + bytes(100))
    assert "broken.safetensors" in serve("--port", "0", "--weights", str(broken))


@pytest.mark.slow
def test_a_model_that_is_none() -> None:
    assert "slowonly_r50" in serve("--port", "0", "--model", "resnet")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_open_door_has_to_be_asked_for(host: str) -> None:
    line = serve("--port", "0", "--host", host)
    assert "--allow-anonymous" in line
    assert host in line


def test_an_address_that_is_not_ours() -> None:
    assert "192.0.2.1" in serve("--port", "0", "--host", "192.0.2.1", "--allow-anonymous")
    assert "no.such.host.invalid" in serve("--port", "0", "--host", "no.such.host.invalid", "--allow-anonymous")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"), ("PORT", "70000"), ("MAX_BATCH", "0"), ("MAX_UPLOAD_MB", "lots"), ("LOG_LEVEL", "loud"),
        ("ALLOW_ANONYMOUS", "perhaps"), ("MAX_DURATION_S", "-1"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_named(name: str, value: str) -> None:
    options = [] if name == "PORT" else ["--port", "0"]
    assert f"STMIXER_{name}" in serve(*options, **{name: value})


def test_keys_are_not_taken_for_a_lock_before_there_is_one() -> None:
    line = serve("--port", "0", "--host", "0.0.0.0", "--allow-anonymous", API_KEYS="secret-1,secret-2")
    assert "STMIXER_API_KEYS" in line
    assert "secret" not in line
