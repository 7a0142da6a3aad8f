"""One of two processes of test_distributed.py: losses and gradients of its half of a batch, written to a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from training import REFERENCE, distributed_case, filled

from stmixer.trainer.training.criterion import Criterion


def run(folder: Path, rank: int) -> None:
    """Writes ``rank<n>.pt``: every loss, and the gradients that the processes agreed on."""
    spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    detector = DistributedDataParallel(filled(fill, "tiny", classes=3))
    clip, sizes_wh, targets = distributed_case(fill)
    half = slice(2 * rank, 2 * rank + 2)
    losses = Criterion(normaliser="global")(detector(clip[half], sizes_wh[half]), targets[half], sizes_wh[half])
    losses.total.backward()
    terms = {name: value.item() for name, value in (losses.terms | {"total": losses.total}).items()}
    gradients = {name: p.grad for name, p in detector.module.named_parameters() if p.grad is not None}
    torch.save({"terms": terms, "gradients": gradients}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
