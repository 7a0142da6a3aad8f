"""Our own files describe themselves, are read strictly, and are written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import stmixer.model.checkpoint as checkpoint
from stmixer.model.card import CheckpointError, ModelCard, read_header
from stmixer.model.checkpoint import digest, load, read_tensors, save, untrained
from stmixer.model.detector import build
from stmixer.model.labels import AVA_LABELS, Label, default_labels
from stmixer.model.zoo import VARIANTS, variant

TINY = variant("tiny")
CARD = ModelCard(TINY, AVA_LABELS, trained=True, trained_on="two clips", licence="CC0", source="this test")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return build(TINY, seed=1).state_dict()


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    save(tmp_path / "tiny.safetensors", tensors, CARD)
    return tmp_path / "tiny.safetensors"


def rewrite(path: Path, header: Callable[[dict[str, Any]], object] | None = None, **changes: Tensor | None) -> None:
    """Alter a file: its header as JSON, or single tensors (dots as __), None to drop one."""
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
        tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    described = json.loads(metadata["stmixer"])
    if header is not None:
        header(described)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, path, {"stmixer": json.dumps(described)})


def test_round_trip_is_bit_equal(file: Path, tensors: dict[str, Tensor]) -> None:
    model = load(file)
    assert model.card == CARD
    assert model.card.name == "tiny"
    state = model.detector.state_dict()
    assert list(state) == list(tensors)
    assert all(torch.equal(state[k], v) and state[k].dtype == v.dtype for k, v in tensors.items())
    assert not model.detector.training
    assert all(p.requires_grad and not p.is_meta for p in model.detector.parameters())


def test_header_states_the_digest(file: Path, tensors: dict[str, Tensor]) -> None:
    card, stated = read_header(file)
    assert card == CARD
    assert stated == digest(tensors) == digest(read_tensors(file))


def test_digest_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.arange(4, dtype=torch.int32), "b": torch.tensor(1.0)}
    others = [
        {"a2": base["a"], "b": base["b"]},
        {"a": base["a"].view(2, 2), "b": base["b"]},
        {"a": base["a"].view(torch.float32), "b": base["b"]},
        {"a": base["a"] + 1, "b": base["b"]},
        {"a": base["b"], "b": base["a"]},
    ]
    digests = {digest(tensors) for tensors in [base, *others]}
    assert len(digests) == 6
    assert digest({"b": base["b"], "a": base["a"]}) == digest(base)
    assert digest({"a": torch.arange(8, dtype=torch.int32)[:4], "b": base["b"]}) == digest(base)


def test_readable_by_whoever_may_read_the_folder(file: Path) -> None:
    beside = file.with_name("beside")
    beside.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(beside.stat().st_mode)


def test_tensors_that_share_memory_are_written_each(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    total = torch.cat([t.flatten() for t in tensors.values() if t.is_floating_point()])
    parts = iter(total.split([t.numel() for t in tensors.values() if t.is_floating_point()]))
    views = {k: next(parts).view(t.shape) if t.is_floating_point() else t for k, t in tensors.items()}
    views["decoder.temporal_queries"] = views["decoder.spatial_queries"]
    save(tmp_path / "views.safetensors", views, CARD)
    tied = {**tensors, "decoder.temporal_queries": tensors["decoder.spatial_queries"]}
    assert digest(read_tensors(tmp_path / "views.safetensors")) == digest(tied)


def drop(*path: str) -> Callable[[dict[str, Any]], object]:
    def change(header: dict[str, Any]) -> None:
        for key in path[:-1]:
            header = header[key]
        del header[path[-1]]

    return change


def put(*path: object) -> Callable[[dict[str, Any]], object]:
    def change(header: dict[str, Any]) -> None:
        for key in path[:-2]:
            header = header[key]
        header[path[-2]] = path[-1]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", 2), "has format 2, this version reads 1"),
        (drop("format"), "damaged header"),
        (drop("digest"), "damaged header"),
        (drop("card"), "damaged header"),
        (put("card", "text"), "unknown entries"),
        (put("card", 7), "incomplete or wrong"),
        (drop("card", "config"), "incomplete or wrong"),
        (drop("card", "trained"), "incomplete or wrong"),
        (put("card", "author", "me"), "unknown entries: author"),
        (put("card", "trained", "yes"), "trained must be true or false"),
        (put("card", "licence", ["CC0"]), "are texts"),
        (put("card", "labels", 5), "incomplete or wrong"),
        (put("card", "labels", []), "0 labels for 80 classes"),
        (put("card", "labels", 3, {"id": 1, "name": "dance"}), "must be distinct"),
        (put("card", "labels", 3, {"id": "4", "name": "dance"}), "a number and a name"),
        (put("card", "labels", 3, {"id": 4}), "incomplete or wrong"),
        (put("card", "config", "colour", "red"), "config has unknown keys: colour"),
        (put("card", "config", "decoder", "depth", 3), "config.decoder has unknown keys: depth"),
        (put("card", "config", "decoder", "frames", 8), "decoder.frames is 8"),
        (put("card", "config", "backbone", "kind", "resnet"), "config.backbone.kind must be 'slowonly' or 'slowfast'"),
        (put("card", "config", "decoder", 3), "config.decoder must be a mapping"),
        (drop("card", "config", "decoder", "frames"), "config.decoder"),
    ],
)
def test_altered_header(file: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=message):
        load(file)


def test_a_header_that_is_no_object(file: Path, tensors: dict[str, Tensor]) -> None:
    for text in ("[]", "{", "3", "null", "[" * 100_000):
        save_file(tensors, file, {"stmixer": text})
        with pytest.raises(CheckpointError, match="damaged header"):
            read_header(file)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"decoder__spatial_queries": None}, "missing: decoder.spatial_queries [20, 32]"),
        ({"decoder__more": torch.zeros(2)}, "not used: decoder.more [2]"),
        ({"decoder__spatial_queries": torch.zeros(20, 16)}, "spatial_queries: shape [20, 16] instead of [20, 32]"),
        (
            {"decoder__spatial_queries": torch.zeros(20, 32, dtype=torch.float64)},
            "decoder.spatial_queries: torch.float64 instead of torch.float32",
        ),
    ],
)
def test_tensors_that_do_not_fit(file: Path, changes: dict[str, Tensor | None], line: str) -> None:
    rewrite(file, None, **changes)
    with pytest.raises(CheckpointError) as caught:
        load(file)
    first, *listed = str(caught.value).splitlines()
    assert first == "the weights do not fit the model:"
    assert len(listed) == 1
    assert line in listed[0]


def test_every_misfit_is_listed(file: Path) -> None:
    rewrite(file, None, decoder__spatial_queries=None, decoder__temporal_queries=None, extra=torch.zeros(1))
    with pytest.raises(CheckpointError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_bytes(b""), "not a safetensors file"),
        (lambda path: path.write_text("no weights"), "not a safetensors file"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "stmixer-weights convert"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "does not describe itself"),
    ],
)
def test_other_files(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "w.safetensors")


def test_a_cut_file(file: Path) -> None:
    whole = file.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load(file)


@pytest.mark.parametrize("error", [SafetensorError("I/O error: no space"), OSError(28, "No space left on device")])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(_tensors: object, path: Path, _metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"w.safetensors cannot be written: .*[Nn]o space"):
        save(tmp_path / "w.safetensors", tensors, CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(
    file: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(file, tensors, CARD)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert load(file).card == CARD


def test_a_folder_that_is_not_there(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save(tmp_path / folder / "w.safetensors", tensors, CARD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": AVA_LABELS[:79]}, "79 labels for 80 classes"),
        ({"labels": (*AVA_LABELS[:79], Label(1, "again"))}, "distinct"),
        ({"labels": (*AVA_LABELS[:79], Label(81, None))}, "a number and a name"),
        ({"trained": 1}, "trained must be"),
        ({"source": 3}, "are texts"),
    ],
)
def test_a_card_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        dataclasses.replace(CARD, **changes)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_card_is_json(name: str) -> None:
    card = dataclasses.replace(CARD, config=VARIANTS[name])
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_labels() -> None:
    assert [label.id for label in AVA_LABELS] == list(range(1, 81))
    assert (AVA_LABELS[11].name, AVA_LABELS[79].name) == ("stand", "watch (a person)")
    assert default_labels(3) == (Label(1, "class 1"), Label(2, "class 2"), Label(3, "class 3"))


def test_untrained_says_so_and_is_the_same_everywhere() -> None:
    state = torch.random.get_rng_state()
    first, second = untrained("tiny"), untrained("tiny")
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are untouched"
    assert not first.card.trained
    assert first.card.trained_on is None
    assert digest(first.detector.state_dict()) == digest(second.detector.state_dict())
    assert digest(first.detector.state_dict()) != digest(build(TINY, seed=1).state_dict())
