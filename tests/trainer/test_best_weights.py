"""The best weights of a run are kept, and a run ends that no longer gets better."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
from training import run_config

from stmixer.trainer.errors import TrainError
from stmixer.trainer.evaluate.report import Report
from stmixer.trainer.training.best_weights import BestWeights, finds_somebody, mean_map


def report(mean_ap: float | None, recall: float = 1.0, people: int = 4) -> Report:
    """As much of one as is read."""
    return cast(Report, SimpleNamespace(mean_ap=mean_ap, people=SimpleNamespace(recall=recall, people=people)))


class Run:
    """A run that is evaluated again and again; ``written``: what was best so far, in turn."""

    def __init__(self, patience: int | None = None, keep: bool = True) -> None:
        self.trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, should_stop=False)
        self.module = SimpleNamespace(reports=[])
        self.written: list[float] = []
        self.best = BestWeights(Path("best") if keep else None, self._write, patience)

    def _write(self, path: Path) -> None:
        assert path == Path("best")
        self.written.append(self.module.reports[0].mean_ap)

    def evaluate(self, *figures: float) -> bool:
        """Whether the run ends."""
        for figure in figures:
            self.module.reports = [report(figure)]
            self.best.on_validation_end(cast(L.Trainer, self.trainer), cast(L.LightningModule, self.module))
        return self.trainer.should_stop


def test_the_best_is_written_and_of_equal_ones_the_later() -> None:
    run = Run()
    assert not run.evaluate(0.2, 0.5, 0.4, 0.5, 0.1, 0.1, 0.1, 0.1)
    assert run.written == [0.2, 0.5, 0.5]


def test_a_run_ends_that_gets_no_better() -> None:
    run = Run(patience=2)
    assert not run.evaluate(0.2, 0.5, 0.5)
    assert run.evaluate(0.4)


def test_what_was_best_is_known_after_a_restart() -> None:
    before, after = Run(patience=2), Run(patience=2)
    before.evaluate(0.5, 0.4)
    after.best.load_state_dict(before.best.state_dict())
    assert after.evaluate(0.3)
    assert after.written == []


def test_a_run_that_keeps_the_last_writes_nothing_on_the_way() -> None:
    run = Run(keep=False)
    run.evaluate(0.2, 0.5)
    assert run.written == []


def test_the_figure_is_a_mean_over_sets_that_have_one() -> None:
    assert mean_map([report(0.2), report(None), report(0.4)]) == pytest.approx(0.3)
    assert mean_map([report(None)]) is None


def test_whether_anybody_is_found() -> None:
    assert not finds_somebody([report(0.0, recall=0.0), report(0.0, recall=0.0, people=0)])
    assert finds_somebody([report(0.0, recall=0.0), report(0.0, recall=0.1)])
    assert finds_somebody([report(None, people=0, recall=0.0)])
    assert finds_somebody([])


def test_averaged_weights_are_not_those_that_are_looked_at(tmp_path: Path) -> None:
    more: dict[str, Any] = {"evaluate": {"keep": "best"}, "optimiser": {"ema_decay": 0.9}}
    with pytest.raises(TrainError, match="keep: best and patience look at weights as they are; leave out ema_decay"):
        run_config(tmp_path, **more)
