"""How far a run has come, for whoever shows it to a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

Progress = Callable[[str, int, int], None]
"""Is told what is being done (``features``: segments, or ``train``: steps), how many are done, and of how many."""


class StepProgress(Callback):
    """Tells ``train`` every step of a run, those of earlier starts included."""

    def __init__(self, tell: Progress) -> None:
        self._tell = tell

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        if trainer.is_global_zero:
            self._tell("train", trainer.global_step, int(trainer.estimated_stepping_batches))
