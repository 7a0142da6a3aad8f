"""Little /dev/shm, as containers have it: training goes on through pipes, or in one process, and ends."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from training import TESTS, custom_set, run_config

from stmixer.trainer.data import handover
from stmixer.trainer.data.batch import ClipBatch
from stmixer.trainer.data.handover import Collate, usable_workers
from stmixer.trainer.data.plan import Draw
from stmixer.trainer.data.targets import fully_annotated

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}


def batch_of(items: Any) -> ClipBatch:
    frames = torch.arange(48, dtype=torch.uint8).view(2, 2, 4, 3)
    target = fully_annotated(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1, 2))
    return ClipBatch((frames,), (target,), (Draw(0, 3, (1, 2)),))


def same(a: ClipBatch, b: ClipBatch) -> bool:
    return a.draws == b.draws and all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def test_a_batch_that_does_not_fit_comes_as_its_bytes(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    collate = pickle.loads(pickle.dumps(Collate(batch_of)))
    assert same(collate([]), batch_of([])), "in the training process nothing is handed over"
    monkeypatch.setattr(handover, "get_worker_info", lambda: SimpleNamespace(id=0))
    shared = collate([])
    assert all(tensor.is_shared() for tensor in shared.tensors())

    def full(tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    for _ in range(2):
        through_a_pipe = pickle.loads(pickle.dumps(collate([])))
        assert isinstance(through_a_pipe, ClipBatch)
        assert same(through_a_pipe, batch_of([]))
    assert capfd.readouterr().err.count("\n") == 1, "told once"


def test_no_worker_where_there_are_no_locks(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    assert (usable_workers(2), usable_workers(0)) == (2, 0)

    def none(method: str) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handover.multiprocessing, "get_context", none)
    assert usable_workers(2) == 0
    assert "no shared memory (No space left on device)" in caplog.text


def may_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "said"), [("1m", "clips go through pipes"), ("16k", "clips are made in the training process"), ("64m", "")]
)
def test_training_with_little_shared_memory(tmp_path: Path, size: str, said: str) -> None:
    if not may_mount():
        pytest.skip("nobody may mount another /dev/shm here")
    rows = "".join(f"{name},{frame},0.1,0.2,0.3,0.4,walk,1\n" for name in ("walk.mp4", "fall.mp4") for frame in (0, 10))
    boxes = f"video,frame,x1,y1,x2,y2,label,track\n{rows}"
    custom_set(tmp_path, boxes, {"walk.mp4": "train", "fall.mp4": "val"})
    config = run_config(tmp_path, workers=2, epochs=1, clips_per_epoch=8, backbone_norm="frozen")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    mounted = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" -m stmixer.trainer.cli fit -c "$1"'
    command = ["unshare", "-rm", "sh", "-c", mounted, sys.executable, str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert ("/dev/shm" in done.stderr, "pipes" in done.stderr) == (False, size == "1m")
    assert (tmp_path / "run" / "weights.safetensors").exists()
