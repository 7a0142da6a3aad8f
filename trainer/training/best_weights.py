"""The weights of a run's best evaluation, and an end to training that no longer makes them better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from stmixer.trainer.evaluate.report import Report


def mean_map(reports: Sequence[Report]) -> float | None:
    """mAP, the mean over the sets that have one; None where none has."""
    known = [report.mean_ap for report in reports if report.mean_ap is not None]
    return sum(known) / len(known) if known else None


def finds_somebody(reports: Sequence[Report]) -> bool:
    """Whether anybody is found, at the person score from which the service reports somebody; also where no set has
    people to find."""
    scores = [report.people for report in reports if report.people is not None and report.people.people]
    return not scores or any(score.recall > 0 for score in scores)


class BestWeights(Callback):
    """Has the weights of the best evaluation written as they come, and ends training when ``patience`` runs out.

    Goes on with a resumed run: what was best is in its checkpoint.

    Args:
        path: the file that ``write`` writes, complete or not at all; None: nothing is kept.
        write: is given the path on the first process; the module has the reports of that evaluation.
        patience: evaluations in a row without a higher mAP, None for any number.
    """

    def __init__(self, path: Path | None, write: Callable[[Path], None], patience: int | None) -> None:
        self.path = path
        self._write, self._patience = write, patience
        self._best = -math.inf
        self._waited = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's hook. Every process has the same reports, so all come to the same end."""
        if trainer.sanity_checking:
            return
        reports: list[Report] = pl_module.reports  # type: ignore[assignment]
        found = mean_map(reports)
        figure = 0.0 if found is None else found
        self._waited = 0 if figure > self._best else self._waited + 1
        if figure >= self._best:
            self._best = figure
            if self.path is not None and trainer.is_global_zero:
                self._write(self.path)
        if self._patience is not None and self._waited >= self._patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]
