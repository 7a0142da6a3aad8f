"""Long-term models in training: against a bank, and against their own past; what is refused; ablations in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import own_set, run_config
from typer.testing import CliRunner

from stmixer.model.card import read_header
from stmixer.model.checkpoint import load
from stmixer.model.query_bank import second_of
from stmixer.model.stage import best_queries
from stmixer.trainer.cli import main
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.sets import load_data
from stmixer.trainer.errors import TrainError
from stmixer.trainer.long_term.bank import BankMaker, QueryBank
from stmixer.trainer.long_term.windows import OwnWindows, make_windows
from stmixer.trainer.training.fit import fit

SMALL = {"clips": 4, "best": 2}


def run(root: Path, **more: Any):
    """One short epoch on the repository's two clips, evaluated on them."""
    for part in ("train", "val"):
        own_set(root / part, part)
    sets = [{"kind": "custom", "root": part, "parts": [part]} for part in ("train", "val")]
    plain = {"sets": sets, "augment": {"short_sides": [64], "flip": 0.0}, "clips_per_epoch": 8, "epochs": 1}
    return run_config(root, **(plain | more))


@pytest.fixture(scope="module")
def bank(tmp_path_factory, tiny_weights: Path) -> Path:
    root = own_set(tmp_path_factory.mktemp("own"), "train")
    path = root / "bank.safetensors"
    BankMaker(run_config(root), tiny_weights, torch.device("cpu"), k=2).run(path)
    return path


def test_offline(bank: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Trains against the bank; the weights state whose it is; an evaluation with another's is refused."""
    fit(run(tmp_path, long_term={"kind": "offline", "bank": str(bank), **SMALL}))
    weights = tmp_path / "run" / "weights.safetensors"
    card = load(weights).card
    assert card.bank_digest == QueryBank(bank).card.digest == read_header(tiny_weights)[1]
    assert card.config.long_term.kind == "offline"

    fit(run(tmp_path / "short"))
    own = tmp_path / "short" / "run" / "weights.safetensors"
    other = tmp_path / "other.safetensors"
    BankMaker(run_config(own_set(tmp_path / "set", "train")), own, torch.device("cpu"), k=2).run(other)

    def evaluate(path: Path | None):
        settings = [f"long_term={{kind: offline, bank: {path}, clips: 4, best: 2}}"] if path else []
        chosen = [word for setting in settings for word in ("--set", setting)]
        command = ["eval", str(weights), "--custom", str(tmp_path / "val"), "-o", str(tmp_path / "out")]
        return CliRunner().invoke(main, [*command, "--device", "cpu", "--set", "workers=0", *chosen])

    assert evaluate(bank).exit_code == 0, evaluate(bank).output
    refused = evaluate(other)
    assert refused.exit_code == 2
    assert "is a bank of another model" in refused.output
    assert "name its bank" in evaluate(None).output


def test_online(tmp_path: Path) -> None:
    """Trains and is evaluated on its own past; states no bank."""
    module = fit(run(tmp_path, long_term={"kind": "online", **SMALL}))
    card = load(tmp_path / "run" / "weights.safetensors").card
    assert card.bank_digest is None
    assert card.config.long_term.clips_before == card.config.long_term.clips == 4
    train, val = module._windows
    assert isinstance(train, OwnWindows)
    assert isinstance(val, OwnWindows)
    assert train._entries
    assert all(not entry.requires_grad and entry.dtype == torch.float16 for entry in train._entries.values())


def test_own_windows_hold_the_past_alone(filled_online, tmp_path: Path) -> None:
    """Second by second: what was noted before, detached, nothing of the clip's own second or of another video."""
    config = run(tmp_path, long_term={"kind": "online", **SMALL})
    sources = load_data(config).train
    split = sources[0].split
    first = [int(k) for k in (split.video == 0).nonzero()[0]]
    moments = {second_of(int(split.pts_us[k])): Draw(0, k, (0,)) for k in first}
    windows = make_windows(filled_online.config, None, None, sources)
    dim = 2 * filled_online.config.decoder.dim
    clip, sizes = torch.randn(1, 3, 4, 64, 64), torch.tensor([[64.0, 64.0]])
    noted: dict[int, torch.Tensor] = {}
    for second, draw in sorted(moments.items()):
        queries, mask = windows.of([draw])
        entries = queries.view(4, 2, dim)
        for row, past in enumerate(range(second - 4, second)):
            assert mask.view(4, 2)[row].all() == (past in noted)
            if past in noted:
                assert torch.equal(entries[row], noted[past].float())
        output = filled_online(clip + second, sizes, queries, mask)
        windows.note([draw], output)
        noted[second] = best_queries(output, 2)[0][0].detach().half()
    assert len(noted) > 2
    elsewhere = next(Draw(0, k, (0,)) for k in range(len(split)) if split.video[k] != 0)
    assert not windows.of([elsewhere])[1].any()


@pytest.fixture
def filled_online(fill):
    from dataclasses import replace

    from narrow import narrow

    from stmixer.model.config import LongTermConfig
    from stmixer.model.detector import skeleton
    from stmixer.model.foreign.published_names import published_name

    detector = skeleton(replace(narrow("online"), long_term=LongTermConfig("online", 4, 2)))
    state = {k: torch.as_tensor(fill.fill(published_name(k), v.shape)) for k, v in detector.state_dict().items()}
    detector.load_state_dict(state, strict=True, assign=True)
    return detector.eval()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"long_term": {"kind": "offline"}}, "name its bank"),
        ({"long_term": {"kind": "offline", "bank": "BANK", "best": 3}}, "has 2 queries of 64, wanted 3 of 64"),
    ],
)
def test_banks_that_do_not_go_with_the_model(bank: Path, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    if "bank" in more["long_term"]:
        more = {"long_term": more["long_term"] | {"bank": str(bank)}}
    with pytest.raises(TrainError, match=message):
        fit(run(tmp_path, **more))


def test_a_bank_is_of_a_short_term_model(tmp_path: Path) -> None:
    fit(run(tmp_path, long_term={"kind": "online", **SMALL}))
    weights = tmp_path / "run" / "weights.safetensors"
    with pytest.raises(TrainError, match="is a long-term model"):
        BankMaker(run_config(tmp_path / "train"), weights, torch.device("cpu"), k=2).run(tmp_path / "b.safetensors")


def test_ablations_are_keys_of_a_run(tmp_path: Path) -> None:
    config = run_config(tmp_path, variant={"mixing": "coupled", "feature_space": "fpn", "queries": 7})
    detector = config.detector(3)
    assert (detector.decoder.mixing, detector.feature_space, detector.decoder.queries) == ("coupled", "fpn", 7)
    assert detector.decoder.classes == 3
    with pytest.raises(TrainError, match="must be a square for a fixed grid"):
        run_config(tmp_path, variant={"sampling": "grid"})
    with pytest.raises(TrainError, match="unknown key"):
        run_config(tmp_path, variant={"depth": 3})
