"""The long-term classifier (paper §3.5): by hand, masks, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from narrow import narrow
from torch import Tensor

from stmixer.model.card import CheckpointError, ModelCard
from stmixer.model.classifiers import BankWindow, LongTermClassifier
from stmixer.model.detector import Detector, build
from stmixer.model.labels import default_labels
from stmixer.model.query_bank import OnlineBank, second_of
from stmixer.model.zoo import variant


def by_hand(x: list[float], bank: list[list[float]]) -> list[float]:
    """One head, every matrix the identity: softmax(x . b / sqrt(3)) over the bank, added to x, normalised."""
    scores = [math.exp(sum(p * q for p, q in zip(x, b, strict=True)) / math.sqrt(3)) for b in bank]
    seen = [sum(s * b[i] for s, b in zip(scores, bank, strict=True)) / sum(scores) for i in range(3)]
    y = [p + q for p, q in zip(x, seen, strict=True)]
    mean = sum(y) / 3
    deviation = math.sqrt(sum((v - mean) ** 2 for v in y) / 3 + 1e-5)
    return [(v - mean) / deviation for v in y]


def identity(layers: int) -> LongTermClassifier:
    classifier = LongTermClassifier(3, 1, layers, 2).double()
    for layer in classifier.layers:
        for linear, copies in ((layer.q, 1), (layer.kv, 2), (layer.out_proj, 1)):
            torch.nn.init.zeros_(linear.bias)
            linear.weight.data = torch.eye(3, dtype=torch.float64).repeat(copies, 1)
    return classifier


@pytest.mark.parametrize("layers", [1, 3])
def test_by_hand(layers: int) -> None:
    bank = [[2.0, 0.0, 1.0], [0.0, -1.0, 0.5], [9.0, 9.0, 9.0]]
    queries = [[1.0, 0.0, 0.0], [0.5, -2.0, 1.0]]
    window = BankWindow(torch.tensor([bank], dtype=torch.float64), torch.tensor([[True, True, False]]))
    actual = identity(layers).look_back(torch.tensor([queries], dtype=torch.float64), window)
    for row, x in zip(actual[0], queries, strict=True):
        for _ in range(layers):
            x = by_hand(x, bank[:2])  # the third is masked
        torch.testing.assert_close(row, torch.tensor(x, dtype=torch.float64), atol=1e-9, rtol=0)


def test_three_layers_and_both_beside_each_other() -> None:
    """The head sees S and S' channel by channel: its first layer is 2 x 2D wide."""
    detector = build(narrow("offline"))
    dim = detector.config.decoder.dim
    *early, last = detector.decoder.stages
    assert isinstance(last.action_head, LongTermClassifier)
    assert len(last.action_head.layers) == 3
    assert last.action_head.head[0].in_features == 4 * dim
    assert all(stage.action_head[0].in_features == 2 * dim for stage in early)


def run(detector: Detector, bank: Tensor, mask: Tensor) -> Tensor:
    clip = torch.randn(len(bank), 3, 4, 64, 96, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[96.0, 64.0]] * len(bank))
    with torch.inference_mode():
        return detector(clip, sizes, bank, mask).stages[-1].action_logits


@pytest.fixture(params=["offline", "online"])
def model(filled, request) -> tuple[Detector, Tensor]:
    """A long-term model, and a bank for two clips."""
    detector = filled(narrow(request.param))
    entries = detector.config.long_term.entries
    draw = torch.Generator().manual_seed(1)
    return detector, torch.randn(2, entries, 2 * detector.config.decoder.dim, generator=draw)


def test_an_all_masked_bank_gives_zero(model) -> None:
    detector, bank = model
    classifier = detector.decoder.stages[-1].action_head
    seen: list[Tensor] = []
    handle = classifier.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    mask = torch.zeros(bank.shape[:2], dtype=torch.bool)
    mask[1, 0] = True
    run(detector, bank, mask)
    handle.remove()
    dim = 2 * detector.config.decoder.dim
    assert not seen[0][0, :, dim:].any(), "S' of the clip without a bank"
    assert seen[0][0, :, :dim].any()
    assert seen[0][1, :, dim:].any(), "S' of its batch mate"


@pytest.mark.parametrize("junk", [7.0, -1e30, math.inf, math.nan])
def test_masked_entries_do_not_matter(model, junk: float) -> None:
    """Bit-equal, whatever is in them; with every entry masked, too."""
    detector, bank = model
    mask = torch.rand(bank.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.5
    mask[1] = False
    before = run(detector, bank, mask)
    changed = torch.where(mask.unsqueeze(-1), bank, junk)
    assert torch.equal(run(detector, changed, mask), before)
    assert before.isfinite().all()


def test_visible_entries_do_matter(model) -> None:
    detector, bank = model
    mask = torch.ones(bank.shape[:2], dtype=torch.bool)
    before = run(detector, bank, mask)
    changed = bank.clone()
    changed[0, 0] += 1
    after = run(detector, changed, mask)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    fewer = mask.clone()
    fewer[0, 0] = False
    assert not torch.equal(run(detector, bank, fewer)[0], before[0])


def test_the_order_of_entries_does_not_matter(model) -> None:
    detector, bank = model
    mask = torch.ones(bank.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(run(detector, bank.flip(1), mask), run(detector, bank, mask), atol=1e-4, rtol=1e-4)


def test_the_bank_takes_no_gradient(model) -> None:
    detector, bank = model
    given = bank.clone().requires_grad_()
    mask = torch.ones(bank.shape[:2], dtype=torch.bool)
    clip, sizes = torch.randn(2, 3, 4, 64, 64), torch.tensor([[64.0, 64.0]] * 2)
    detector(clip, sizes, given, mask).stages[-1].action_logits.sum().backward()
    assert given.grad is None


def test_only_a_long_term_model_takes_a_bank(model) -> None:
    detector, bank = model
    clip, sizes = torch.zeros(2, 3, 4, 64, 64), torch.tensor([[64.0, 64.0]] * 2)
    with pytest.raises(ValueError, match="wants a bank"):
        detector(clip, sizes)
    with pytest.raises(ValueError, match="takes no bank"):
        build(variant("tiny"))(clip, sizes, bank, torch.ones(bank.shape[:2], dtype=torch.bool))


def test_a_trained_model_states_its_bank() -> None:
    labels = default_labels(80)
    with pytest.raises(CheckpointError, match="states its bank_digest"):
        ModelCard(narrow("offline"), labels, trained=True)
    for name in ("online", "slowonly"):
        with pytest.raises(CheckpointError, match="no other does"):
            ModelCard(narrow(name), labels, trained=True, bank_digest="0" * 64)
    card = ModelCard(narrow("offline"), labels, trained=True, bank_digest="0" * 64)
    assert ModelCard.from_dict(card.to_dict()) == card


# -- the online bank


def entry(value: int) -> np.ndarray:
    return np.full((2, 4), value, np.float16)


def test_a_stream_fills_its_bank() -> None:
    bank = OnlineBank(3, 2, 4)
    queries, mask = bank.window(0)
    assert queries.shape == (6, 4)
    assert not mask.any()
    for second in range(1, 6):
        assert bank.add(second, entry(second))
    queries, mask = bank.window(6)
    assert mask.all()
    assert queries[:, 0].tolist() == [3, 3, 4, 4, 5, 5], "the three before, oldest first"
    queries, mask = bank.window(8)
    assert mask.tolist() == [True, True, False, False, False, False]
    assert queries[:, 0].tolist() == [5, 5, 0, 0, 0, 0]
    assert not bank.window(60)[1].any()


def test_only_the_past_is_in_a_window() -> None:
    bank = OnlineBank(3, 2, 4)
    for second in (1, 2):
        bank.add(second, entry(second))
    queries, mask = bank.window(2)
    assert mask.tolist() == [False, False, False, False, True, True]
    assert queries[-1, 0] == 1


def test_one_entry_a_second() -> None:
    bank = OnlineBank(3, 2, 4)
    assert bank.add(1, entry(1))
    assert not bank.add(1, entry(9))
    assert not bank.add(0, entry(9))
    assert bank.window(2)[0][-1, 0] == 1
    assert [second_of(us) for us in (0, 499_999, 500_000, 1_499_999, 1_500_000)] == [0, 0, 1, 1, 2]
