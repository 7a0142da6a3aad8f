"""The published layout: every name used exactly once, anything else listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stmixer.model.card import CheckpointError
from stmixer.model.detector import skeleton
from stmixer.model.foreign.published import LOSS_BUFFER, from_published, guess_config
from stmixer.model.foreign.published_names import published_name
from stmixer.model.zoo import VARIANTS, variant

FULL = ["slowonly_r50", "slowfast_r50", "slowfast_r101_nl", "vit_b"]
"""Published by the authors: their names and shapes are in the reference."""


@pytest.fixture
def tiny_published(filled) -> dict[str, Tensor]:
    """A complete small file in the published layout."""
    state = filled(variant("tiny")).state_dict()
    return {published_name(name): t for name, t in state.items()} | {LOSS_BUFFER: torch.tensor([1.0, 0.1])}


def meta(reference: Path, name: str) -> dict[str, Tensor]:
    """The published names and shapes of a variant, without numbers, but for the loss buffer."""
    shapes = json.loads((reference / f"{name}.keys.json").read_text())
    tensors = {
        k: torch.empty(s, device="meta", dtype=torch.int64 if k.endswith("num_batches_tracked") else torch.float32)
        for k, s in shapes.items()
    }
    return tensors | {LOSS_BUFFER: torch.tensor([1.0, 0.1])}


@pytest.mark.parametrize("name", FULL)
def test_names_are_a_bijection(reference, name: str) -> None:
    shapes = json.loads((reference / f"{name}.keys.json").read_text())
    ours = {n: list(t.shape) for n, t in skeleton(variant(name)).state_dict().items()}
    theirs = [published_name(n) for n in ours]
    assert len(set(theirs)) == len(theirs)
    assert set(theirs) | {LOSS_BUFFER} == set(shapes)
    assert {published_name(n): shape for n, shape in ours.items()} | {LOSS_BUFFER: [2]} == shapes


def own_meta(name: str) -> dict[str, Tensor]:
    """A variant that was never published, in the published layout's terms."""
    return {published_name(k): t for k, t in skeleton(variant(name)).state_dict().items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_guess_finds_the_variant(reference, name: str) -> None:
    assert guess_config(meta(reference, name) if name in FULL else own_meta(name), None) == variant(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_two_names_meet(name: str) -> None:
    assert len(own_meta(name)) == len(skeleton(variant(name)).state_dict())


@pytest.mark.parametrize("name", FULL)
def test_published_layouts_convert(reference, name: str) -> None:
    """Every tensor arrives, with our shape; every name of the file is used."""
    published = meta(reference, name)
    ours = from_published(published, variant(name))
    assert {k: t.shape for k, t in ours.items()} == {
        k: t.shape for k, t in skeleton(variant(name)).state_dict().items()
    }
    assert len(ours) == len(published) - 1  # but for the loss buffer
    lost = next(k for k in published if "lateral" in k)
    with pytest.raises(CheckpointError, match=f"missing: {lost}"):
        from_published({k: t for k, t in published.items() if k != lost}, variant(name))


@pytest.mark.parametrize("classes", [1, 21, 24, 60])
def test_other_numbers_of_classes(filled, classes: int) -> None:
    config = variant("tiny", classes=classes)
    state = filled(config).state_dict()
    published = {published_name(k): v for k, v in state.items()}
    assert guess_config(published, None) == config
    back = from_published(published, config)
    assert all(torch.equal(back[k], v) for k, v in state.items())
    assert set(back) == set(state)


def test_values_arrive_under_our_names(tiny_published) -> None:
    ours = from_published(tiny_published, variant("tiny"))
    for name, tensor in ours.items():
        assert torch.equal(tensor, tiny_published[published_name(name)]), name
    del tiny_published[LOSS_BUFFER]  # the loss buffer may be absent
    assert set(from_published(tiny_published, variant("tiny"))) == set(ours)


QUERY = "stm_head.init_spatial_queries.weight"


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ({QUERY: None}, ["missing: " + QUERY]),
        ({QUERY: None, "backbone.s9.extra": torch.zeros(3)}, ["missing: " + QUERY, "not used: backbone.s9.extra [3]"]),
        ({QUERY: torch.zeros(7, 32)}, [QUERY + ": shape [7, 32] instead of [20, 32]"]),
        ({QUERY: torch.zeros(20, 32, dtype=torch.complex64)}, [QUERY + ": torch.complex64 instead of real numbers"]),
        ({QUERY: torch.zeros(20, 32, dtype=torch.int64)}, [QUERY + ": torch.int64 instead of real numbers"]),
        ({LOSS_BUFFER: torch.tensor([1.0, 0.2])}, [LOSS_BUFFER + ": [1.0, 0.2"]),
        ({LOSS_BUFFER: torch.tensor([1.0])}, [LOSS_BUFFER + ": [1.0]"]),
        ({LOSS_BUFFER: None, "criterion.empty_weight": torch.zeros(2)}, ["not used: criterion.empty_weight [2]"]),
        (
            {"stm_head.decoder_stages.1.fc_action.bias": torch.zeros(9)},
            ["stm_head.decoder_stages.1.fc_action.bias: shape [9] instead of [80]"],
        ),
    ],
)
def test_what_does_not_fit_is_listed(tiny_published, change: dict[str, Tensor | None], listed: list[str]) -> None:
    for name, tensor in change.items():
        if tensor is None:
            del tiny_published[name]
        else:
            tiny_published[name] = tensor
    with pytest.raises(CheckpointError) as caught:
        from_published(tiny_published, guess_config(tiny_published, None))
    assert len(str(caught.value).splitlines()) == 1 + len(listed)
    for line in listed:
        assert line in str(caught.value)


def test_unknown_layout_names_the_variants() -> None:
    with pytest.raises(CheckpointError, match="slowonly_r50, slowfast_r50"):
        guess_config({"conv1.weight": torch.zeros(3)}, None)


def test_a_named_variant_decides(reference) -> None:
    with pytest.raises(CheckpointError, match="does not fit the published layout of slowonly_r50"):
        from_published(meta(reference, "slowfast_r50"), guess_config(meta(reference, "slowfast_r50"), "slowonly_r50"))
