"""Files that people take for a checkpoint are named as what they are; of what wraps one, what was taken is told."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from stmixer.model.card import CheckpointError
from stmixer.model.checkpoint import load, save, untrained
from stmixer.model.cli import main
from stmixer.model.foreign.pretrained import read_pretrained
from stmixer.model.foreign.published_names import published_name
from stmixer.model.zoo import variant


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {published_name(name): value for name, value in untrained("tiny").detector.state_dict().items()}


def convert(path: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["convert", str(path), "-o", str(path.with_name("out.safetensors"))])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def lines(printed: str) -> list[str]:
    return [" ".join(line.split()) for line in printed.splitlines()]


def _zipped(path: Path, plain: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/plain.pth", plain)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 212345678\n"
PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body></body></html>\n"

KINDS: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "lfs": (lambda path, plain: path.write_text(POINTER), "a pointer that Git LFS leaves, not the file; run `git lfs"),
    "html": (lambda path, plain: path.write_text(PAGE), "a web page"),
    "html after a comment": (lambda path, plain: path.write_text("\n<!-- x --><HTML>"), "a web page"),
    "xml": (lambda path, plain: path.write_text('<?xml version="1.0"?><Error/>'), "XML (a storage service's error?)"),
    "json": (lambda path, plain: path.write_text('{"message": "Not Found"}'), "JSON (a service's answer?)"),
    "text": (lambda path, plain: path.write_text("rate limit exceeded\n"), "text: 'rate limit exceeded'"),
    "empty": (lambda path, plain: path.write_bytes(b""), "empty (0 bytes)"),
    "zeros": (lambda path, plain: path.write_bytes(bytes(9000)), "nothing but zeros"),
    "gzip": (lambda path, plain: path.write_bytes(gzip.compress(plain)), "compressed with gzip"),
    "xz": (lambda path, plain: path.write_bytes(lzma.compress(plain)), "compressed with xz"),
    "bzip2": (lambda path, plain: path.write_bytes(bz2.compress(plain)), "compressed with bzip2"),
    "zip in zip": (_zipped, "a zip archive of weights/plain.pth; unpack it first"),
    "cut off": (lambda path, plain: path.write_bytes(plain[:-1000]), "of a zip archive without its end; download it"),
    "a video": (lambda path, plain: path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(99)), "a video (MP4)"),
    "numpy": (lambda path, plain: np.save(path.open("wb"), np.zeros(3)), "an array of NumPy"),
    "npz": (lambda path, plain: np.savez(path.open("wb"), a=np.zeros(3)), "a zip archive of a.npy"),
    "safetensors": (lambda path, plain: save_file({"a": torch.zeros(3)}, path), "a safetensors file, under another"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_no_checkpoint_is_named(tmp_path: Path, tensors: dict[str, Tensor], kind: str) -> None:
    make, said = KINDS[kind]
    plain = io.BytesIO()
    torch.save(tensors, plain)
    make(tmp_path / "a.pth", plain.getvalue())
    code, _, error = convert(tmp_path / "a.pth")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(f"stmixer-weights: {tmp_path}/a.pth cannot be read as a PyTorch checkpoint: it is ")
    assert said in error
    if kind == "safetensors":
        return
    (tmp_path / "a.pth").rename(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.safetensors")
    assert str(caught.value).startswith(f"{tmp_path}/a.safetensors is not a safetensors file: it is ")
    assert said in str(caught.value)


def test_a_pointer_instead_of_an_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "yolox.onnx").write_text(POINTER)
    with pytest.raises(CheckpointError, match="as an ONNX file with weights: it is a pointer that Git LFS leaves"):
        read_pretrained(tmp_path / "yolox.onnx", variant("rt_nano"))


def test_an_onnx_file_instead_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x062.15.0:" + bytes(2000))
    code, _, error = convert(tmp_path / "w.pth")
    assert (code, error) == (2, f"stmixer-weights: {tmp_path}/w.pth is an ONNX model, not a checkpoint\n")


def _in_the_middle(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """torch.compile of the backbone alone."""
    return {k.replace("backbone.", "backbone._orig_mod.", 1): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("wrap", "prefixes"),
    [
        (lambda t: {"model": {f"_orig_mod.{k}": v for k, v in t.items()}}, "_orig_mod."),
        (lambda t: {"state_dict": {f"model.{k}": v for k, v in t.items()}, "epoch": 1, "global_step": 2}, "model."),
        (lambda t: {f"module._orig_mod.{k}": v for k, v in t.items()}, "_orig_mod. module."),
        (lambda t: {"state_dict": {f"model.module.{k}": v for k, v in t.items()}}, "model. module."),
        (_in_the_middle, "_orig_mod."),
    ],
)
def test_prefixes_of_wrappers_are_taken_off(
    tmp_path: Path, tensors: dict[str, Tensor], wrap: Callable[[dict[str, Tensor]], object], prefixes: str
) -> None:
    torch.save(wrap(tensors), tmp_path / "w.pth")
    code, printed, error = convert(tmp_path / "w.pth")
    assert code == 0, error
    assert f"note 1 taken off the names: {prefixes}" in lines(printed)
    state = load(tmp_path / "out.safetensors").detector.state_dict()
    assert all(torch.equal(state[name], value) for name, value in untrained("tiny").detector.state_dict().items())


def test_names_that_fit_nothing_say_what_they_begin_with(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save({f"net.{k}": v for k, v in tensors.items()}, tmp_path / "w.pth")
    assert "; all of its names begin with net.; " in convert(tmp_path / "w.pth")[2]
    torch.save({"state_dict": {f"detector.{k}": v for k, v in tensors.items()}}, tmp_path / "last.ckpt")
    assert "the weights are weights.safetensors in its run folder" in convert(tmp_path / "last.ckpt")[2]


@pytest.mark.parametrize(
    ("tables", "taken", "note"),
    [
        (("model", "model_ema"), 0, "taken: model; the file holds model_ema too"),
        (("model_ema", "model"), 1, "taken: model; the file holds model_ema too"),
        (("state_dict", "ema", "teacher"), 0, "taken: state_dict; the file holds ema, teacher too"),
        (("model_ema",), 0, "taken: model_ema"),
    ],
)
def test_which_of_several_tables_was_taken_is_told(
    tmp_path: Path, tensors: dict[str, Tensor], tables: tuple[str, ...], taken: int, note: str
) -> None:
    content = {name: {k: v + i for k, v in tensors.items()} for i, name in enumerate(tables)}
    torch.save({**content, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}, "epoch": 3}, tmp_path / "w.pth")
    code, printed, error = convert(tmp_path / "w.pth")
    assert code == 0, error
    assert f"note 1 {note}" in lines(printed)
    name, value = next(iter(untrained("tiny").detector.state_dict().items()))
    assert torch.equal(load(tmp_path / "out.safetensors").detector.state_dict()[name], value + taken)


def test_several_tables_of_which_none_is_meant(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save({"student": tensors, "teacher": tensors}, tmp_path / "w.pth")
    code, _, error = convert(tmp_path / "w.pth")
    assert (code, error) == (
        2,
        f"stmixer-weights: {tmp_path}/w.pth holds several tables of tensors (student, teacher) and none called model\n",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor], value: float) -> None:
    name = "stm_head.decoder_stages.0.fc_action.weight"
    spoilt = {k: v.clone() for k, v in tensors.items()}
    spoilt[name].view(-1)[:2] = value
    torch.save(spoilt, tmp_path / "w.pth")
    code, _, error = convert(tmp_path / "w.pth")
    assert code == 2
    assert f"  {name}: 2 of {spoilt[name].numel()} numbers are not finite\n" in error
    assert not (tmp_path / "out.safetensors").exists()
    model = untrained("tiny")
    state = {k: v.clone() for k, v in model.detector.state_dict().items()}
    state["decoder.temporal_queries"].view(-1)[3] = value
    save(tmp_path / "ours.safetensors", state, model.card)
    with pytest.raises(CheckpointError, match=r"numbers that are none:\n  decoder\.temporal_queries: 1 of \d+ "):
        load(tmp_path / "ours.safetensors")
