"""``stmixer-weights verify``: what is whole says ok, what is damaged says how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from stmixer.model.card import read_header
from stmixer.model.checkpoint import save, untrained
from stmixer.model.cli import main


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = untrained("tiny")
    save(tmp_path / "tiny.safetensors", model.detector.state_dict(), model.card)
    return tmp_path / "tiny.safetensors"


def test_verify(file: Path) -> None:
    result = call("verify", file)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line[:4] for line in lines] == ["ok  "] * 4
    assert read_header(file)[1] in lines[1]


@pytest.mark.parametrize("device", ["cuda", "cuda:63", "mps", "gpu"])
def test_a_device_that_is_not_there_is_one_line(file: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = call("verify", file, "--runtime", "eager", "--device", device)
    refused(result, "--device", device)
    assert result.stderr.count("\n") == 1


def damage(file: Path, name: str, value: float, keep_digest: bool) -> None:
    card, digest = read_header(file)
    tensors = load_file(file)
    tensors[name].view(-1)[0] = value
    if keep_digest:
        header = {"format": 1, "card": card.to_dict(), "digest": digest}
        save_file(tensors, file, {"stmixer": json.dumps(header)})
    else:
        save(file, tensors, card)


@pytest.mark.parametrize(
    ("name", "value", "keep_digest", "parts"),
    [
        ("decoder.spatial_queries", 7.0, True, ["the digest of the tensors is", "damaged file"]),
        ("decoder.spatial_queries", float("nan"), False, ["numbers that are none:", "  decoder.spatial_queries"]),
        ("decoder.stages.0.box_head.3.bias", float("inf"), False, ["  decoder.stages.0.box_head.3.bias"]),
        ("decoder.stages.1.box_head.3.bias", 3e38, False, ["a small clip gives infinities"]),
        ("backbone.slow.stem_norm.running_var", -1.0, False, ["a small clip gives infinities"]),
    ],
)
def test_verify_finds_damage(file: Path, name: str, value: float, keep_digest: bool, parts: list[str]) -> None:
    damage(file, name, value, keep_digest)
    refused(call("verify", file), *parts)


def test_verify_lists_what_does_not_fit(file: Path) -> None:
    card, _ = read_header(file)
    tensors = load_file(file)
    del tensors["decoder.temporal_queries"]
    save(file, tensors, card)
    refused(call("verify", file), "the weights do not fit the model:", "missing: decoder.temporal_queries [20, 32]")
