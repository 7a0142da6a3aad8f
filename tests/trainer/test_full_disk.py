"""A disk that takes no more: one line, and the checkpoint before stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as L
import pytest
import torch

from stmixer.trainer.errors import TrainError
from stmixer.trainer.training.checkpoint_files import CheckpointFiles
from stmixer.trainer.training.fit import ResumeCheckpoint


def run(files: CheckpointFiles, content: dict[str, Any]) -> L.Trainer:
    """As much of a trainer as saves a checkpoint, in one process."""
    trainer = SimpleNamespace(
        save_checkpoint=lambda path: files.save_checkpoint(content, path),
        strategy=SimpleNamespace(broadcast=lambda said: said),
    )
    return cast(L.Trainer, trainer)


@pytest.mark.parametrize(
    ("failing", "number"), [("fsync", errno.ENOSPC), ("fsync", errno.EDQUOT), ("replace", errno.EIO)]
)
def test_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    path, files = tmp_path / "last.ckpt", CheckpointFiles()
    callback = ResumeCheckpoint(path, 1, files)
    callback._save(run(files, {"step": torch.tensor(1)}))

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(TrainError) as caught:
        callback._save(run(files, {"step": torch.tensor(2)}))
    assert str(caught.value) == f"{path} cannot be written: {os.strerror(number)}; the one before it stays"
    assert torch.load(path, weights_only=True) == {"step": torch.tensor(1)}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_first_checkpoint_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """In a folder that has gone, as when a disk is unplugged."""
    path, files = tmp_path / "gone" / "last.ckpt", CheckpointFiles()
    with pytest.raises(TrainError, match=r"cannot be written: No such file or directory$"):
        ResumeCheckpoint(path, 1, files)._save(run(files, {"step": torch.tensor(1)}))
    assert not path.parent.exists()
