"""``last.ckpt``, complete or not at all: the one before stays where the disk does not take the next."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints for Lightning.

    A process that raises while others wait for it would leave them waiting, so what the disk said is kept in
    ``failure`` until `trainer.training.fit` has told it to all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Lightning's hook. Raises nothing for what the disk refuses."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            with partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # some disks say only now that they are full
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            self.failure = error.strerror or str(error)
