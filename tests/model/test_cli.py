"""``stmixer-weights``: convert, info, and one line with exit code 2 for what a user gets wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from stmixer.model.card import ModelCard, read_header
from stmixer.model.checkpoint import load, save, untrained
from stmixer.model.cli import main
from stmixer.model.foreign.published_names import published_name
from stmixer.model.labels import AVA_LABELS, Label
from stmixer.model.zoo import VARIANTS, variant


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    first = result.stderr.splitlines()[0]
    for part in parts:
        assert part in result.stderr
    assert first.strip()


def one_line(result: Result, part: str) -> None:
    refused(result, part)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.fixture
def published(tmp_path: Path, filled) -> Callable[..., Path]:
    """Writes a small file in the published layout."""

    def write(classes: int | None = None, **changes: Tensor) -> Path:
        state = filled(variant("tiny", classes=classes)).state_dict()
        tensors = {published_name(k): v for k, v in state.items()} | changes
        torch.save({"model": tensors}, tmp_path / "STMixer_tiny.pth")
        return tmp_path / "STMixer_tiny.pth"

    return write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = untrained("tiny")
    save(tmp_path / "tiny.safetensors", model.detector.state_dict(), model.card)
    return tmp_path / "tiny.safetensors"


def test_convert(published: Callable[..., Path], tmp_path: Path, filled) -> None:
    out = tmp_path / "out.safetensors"
    result = call("convert", published(), "-o", out)
    assert result.exit_code == 0, result.output
    model = load(out)
    assert model.card == ModelCard(
        variant("tiny"),
        AVA_LABELS,
        trained=True,
        trained_on="AVA v2.2 (as published by the authors)",
        licence="not stated by its authors",
        source="MCG-NJU/STMixer, STMixer_tiny.pth",
    )
    expected = filled(variant("tiny")).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.detector.state_dict().items())
    assert "tiny" in result.stdout
    assert str(len(expected)) in result.stdout
    assert call("verify", out).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["STMixer_tiny.pth", "out.safetensors"]


def test_convert_with_everything_said(published: Callable[..., Path], tmp_path: Path) -> None:
    out, labels = tmp_path / "out.safetensors", tmp_path / "labels.txt"
    labels.write_text("catch\n\nclimb stairs\n")
    args = ["--licence", "MIT", "--source", "here", "--trained-on", "JHMDB", "--variant", "tiny", "--labels", labels]
    assert call("convert", published(2), "-o", out, *args).exit_code == 0
    card, _ = read_header(out)
    assert card.labels == (Label(1, "catch"), Label(2, "climb stairs"))
    assert (card.licence, card.source, card.trained_on, card.trained) == ("MIT", "here", "JHMDB", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", "b"]', [Label(1, "a"), Label(2, "b")]),
        ('[{"id": 7, "name": "a"}, {"id": 3, "name": "b"}]', [Label(7, "a"), Label(3, "b")]),
        ('{"4": "a", "9": "b"}', [Label(4, "a"), Label(9, "b")]),
    ],
)
def test_labels_in_json(published: Callable[..., Path], tmp_path: Path, text: str, expected: list[Label]) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(text)
    assert call("convert", published(2), "-o", tmp_path / "o.safetensors", "--labels", labels).exit_code == 0
    assert list(read_header(tmp_path / "o.safetensors")[0].labels) == expected


def test_other_classes_claim_no_data_and_no_names(published: Callable[..., Path], tmp_path: Path) -> None:
    result = call("convert", published(3), "-o", tmp_path / "o.safetensors")
    card, _ = read_header(tmp_path / "o.safetensors")
    assert card.trained_on is None
    assert card.labels[2] == Label(3, "class 3")
    assert "placeholders" in result.stdout


def test_untrained(published: Callable[..., Path], tmp_path: Path) -> None:
    assert call("convert", published(), "-o", tmp_path / "o.safetensors", "--untrained").exit_code == 0
    card, _ = read_header(tmp_path / "o.safetensors")
    assert (card.trained, card.trained_on) == (False, None)
    assert "NO: initial weights" in call("info", tmp_path / "o.safetensors").stdout


@pytest.mark.parametrize("text", ["3", "[]", "[1]", '[{"id": 1}]', "{", '{"x": "y"}', '[{"id": "1", "name": "a"}]'])
def test_bad_labels(published: Callable[..., Path], tmp_path: Path, text: str) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(text)
    one_line(call("convert", published(2), "-o", tmp_path / "o", "--labels", labels), "is no list of labels")
    assert not (tmp_path / "o").exists()


def test_labels_that_do_not_fit(published: Callable[..., Path], tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    one_line(call("convert", published(2), "-o", tmp_path / "o", "--labels", labels), "3 labels for 2 classes")
    labels.write_text("\n")
    one_line(call("convert", published(2), "-o", tmp_path / "o", "--labels", labels), "holds no labels")
    labels.write_bytes(b"\xff\xfe\x00")
    one_line(call("convert", published(2), "-o", tmp_path / "o", "--labels", labels), "is no list of labels")
    one_line(call("convert", published(2), "-o", tmp_path / "o", "--labels", tmp_path / "none"), "does not exist")


def test_names_that_do_not_fit_are_listed(published: Callable[..., Path], tmp_path: Path) -> None:
    src = published(**{"backbone.s9.weight": torch.zeros(2), "evil\x1b[31m": torch.zeros(1)})
    result = call("convert", src, "-o", tmp_path / "o")
    refused(result, "does not fit the published layout of tiny", "not used: backbone.s9.weight [2]")
    assert len(result.stderr.splitlines()) == 3
    assert "\x1b" not in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == [src.name]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_text("hello\n"), "cannot be read as a PyTorch checkpoint"),
        (lambda p: p.write_bytes(b""), "cannot be read as a PyTorch checkpoint"),
        (lambda p: (torch.save({"a": torch.zeros(999)}, p), p.write_bytes(p.read_bytes()[:900])), "cannot be read"),
        (lambda p: torch.save({"a": torch.zeros(1)}, p), "none of the known variants"),
    ],
)
def test_bad_sources(tmp_path: Path, make: Callable[[Path], object], part: str) -> None:
    make(tmp_path / "src.pth")
    one_line(call("convert", tmp_path / "src.pth", "-o", tmp_path / "o"), part)
    assert not list(tmp_path.glob("o*"))


def test_bad_outputs(published: Callable[..., Path], file: Path, tmp_path: Path) -> None:
    src = published()
    one_line(call("convert", src, "-o", tmp_path / "nowhere" / "o"), "is not a folder; make it first")
    one_line(call("convert", src, "-o", src / "o"), "is not a folder; make it first")
    one_line(call("convert", src, "-o", tmp_path), "is not an ordinary file")
    one_line(call("convert", src, "-o", "/dev/null"), "is not an ordinary file")
    one_line(call("convert", src, "-o", src), "is the source itself")
    one_line(call("convert", file, "-o", tmp_path / "o"), "is a safetensors file already")
    one_line(call("convert", src, "-o", tmp_path / "o", "--untrained", "--trained-on", "x"), "contradict")
    one_line(call("convert", src, "-o", tmp_path / "o", "--variant", "huge"), "unknown model variant 'huge'")
    one_line(call("convert", src, "-o", tmp_path / ("o" * 300)), "File name too long")


def test_disk_error(published: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stmixer.model.checkpoint.save_file", full)
    one_line(call("convert", published(), "-o", tmp_path / "o"), "cannot be written: No space left on device")
    assert not list(tmp_path.glob("o*"))


def test_cost_after_the_name() -> None:
    lines = call("info", "slowonly_r50", "--cost").stdout.splitlines()
    assert lines[-1] == "total 44.4"
    assert any("backbone" in line and "27.26" in line for line in lines)


@pytest.mark.slow
def test_cost_in_a_pipe() -> None:
    """The command itself, as a script reads it, colours asked for or not."""
    done = subprocess.run(
        [sys.executable, "-c", "from stmixer.model.cli import main; main()", "info", "--cost", "slowonly_r50"],
        capture_output=True,
        text=True,
        check=True,
        env={"FORCE_COLOR": "1", "PATH": ""},
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.endswith("\ntotal 44.4\n")
    assert done.stderr == ""


def test_cost_of_a_file_and_a_size(file: Path) -> None:
    assert call("info", "--cost", file).stdout == call("info", "--cost", "tiny").stdout
    padded = call("info", "tiny", "--cost", "--size", "341x256")
    assert "352 x 256" in padded.stdout
    assert padded.stdout == call("info", "tiny", "--cost", "--size", "352x256").stdout


def test_info_of_a_file(file: Path) -> None:
    result = call("info", file)
    assert result.exit_code == 0
    _, digest = read_header(file)
    for part in ("tiny", digest, "initial weights, seed 0", "80: bend/bow", "decoder.queries", "preprocess.mean"):
        assert part in result.stdout
    parameters = sum(p.numel() for p in load(file).detector.parameters())
    assert f"{parameters:,}" in result.stdout


def test_info_of_a_variant_and_of_all() -> None:
    stdout = call("info", "slowfast_r50").stdout
    assert [line.split() for line in stdout.splitlines() if "clip.frames" in line] == [["clip.frames", "32"]]
    stdout = call("info").stdout
    assert all(name in stdout for name in VARIANTS)


def test_info_shows_no_control_characters(file: Path) -> None:
    model = load(file)
    card = ModelCard(model.card.config, AVA_LABELS, trained=True, source="\x1b[2Jgone [bold]kept[/bold]")
    save(file, model.detector.state_dict(), card)
    stdout = call("info", file).stdout
    assert "\x1b" not in stdout
    assert "gone [bold]kept[/bold]" in stdout


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (
            ["info", "nope"],
            "nope is neither a file nor bundled nor a variant; bundled: stmixer-rt, stmixer-rt-hd, stmixer-nano; "
            "variants: ",
        ),
        (["info", "--cost", "nope"], "neither a file nor bundled nor a variant"),
        (["info", "--cost"], "--cost wants a file or a variant"),
        (["info", "tiny", "--size", "256x256"], "--size goes with --cost"),
        (["info", "/"], "/ is not a file"),
        *((["info", "tiny", "--cost", "--size", s], "--size wants") for s in ("256", "0x256", "axb", "-1x2", "9x")),
        (["verify", "/"], "/ is not a file"),
        (["verify", "/none"], "does not exist"),
        (["verify", __file__], "is not a safetensors file"),
    ],
)
def test_user_errors(args: list[str], part: str) -> None:
    one_line(call(*args), part)


@pytest.mark.parametrize("args", [["info", "tiny", "slowonly_r50"], ["info", "--bogus"], ["convert"], ["frobnicate"]])
def test_wrong_usage(args: list[str]) -> None:
    refused(call(*args), "Error: ")
