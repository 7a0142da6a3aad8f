"""How long a training step waits for its data: the figure that says whether decoding keeps up."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class DataWait(Callback):
    """Logs ``data_wait``: the share of each step's time, 0..1, that passed before its batch was there.

    A step lasts from the end of the one before to its own end; an epoch's first, which starts the workers, is left out.
    A GPU still computes while the next batch is fetched, so there the figure is an upper bound.
    """

    def __init__(self) -> None:
        self._ended: float | None = None
        self._waited = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's hook."""
        self._ended = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        self._waited = 0.0 if self._ended is None else time.perf_counter() - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        if self._ended is not None:
            pl_module.log("data_wait", self._waited / (time.perf_counter() - self._ended))
        self._ended = time.perf_counter()
