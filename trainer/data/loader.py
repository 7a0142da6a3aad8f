"""Batches out of worker processes, from a position that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from stmixer.trainer.data.batch import ClipBatch, collate
from stmixer.trainer.data.cached_features import FeatureBatch, FeatureClips, collate_features
from stmixer.trainer.data.clipset import ClipSet
from stmixer.trainer.data.handover import Collate, usable_workers
from stmixer.trainer.data.plan import Draw, Plan


class _Queue:
    """The batches that the workers are to make next; torch's loader asks it anew in every epoch."""

    def __init__(self) -> None:
        self.batches: list[list[Draw]] = []

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def one_thread(_: int) -> None:
    """A worker process's start."""
    # each worker is one of many: OpenCV's and torch's own threads would only fight over the cores
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class TrainLoader:
    """Endless epochs of a plan, one per iteration.

    ``state_dict`` names the batch that comes next; after ``load_state_dict`` the next iteration yields the rest of that
    epoch. Order and augmentation are functions of seed, epoch and position, so nothing else needs saving.
    """

    def __init__(self, clips: ClipSet | FeatureClips, plan: Plan, workers: int, pin_memory: bool) -> None:
        self.plan = plan
        self._epoch, self._position = 0, 0
        self._queue = _Queue()
        self._loader = make_loader(clips, self._queue, workers, pin_memory)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[ClipBatch | FeatureBatch]:
        self._queue.batches = self.plan.batches(self._epoch)[self._position :]
        for batch in self._loader:
            # before the yield: who asks afterwards has this batch already
            self._position += 1
            if self._position == len(self.plan):
                self._epoch, self._position = self._epoch + 1, 0
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The batch that comes next, and the plan's shape, which a run must keep to go on."""
        return {"epoch": self._epoch, "position": self._position, "steps": len(self.plan), "seed": self.plan.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the position in another plan."""
        if (state["steps"], state["seed"]) != (len(self.plan), self.plan.seed):
            raise ValueError("the checkpoint's epochs have other batches: data, batch size or seed have changed")
        self._epoch, self._position = state["epoch"], state["position"]


def make_loader(clips: ClipSet | FeatureClips, batches: object, workers: int, pin_memory: bool) -> DataLoader[Any]:
    """A torch loader over lists of draws."""
    workers = usable_workers(workers)
    return DataLoader(
        clips,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=Collate(collate if isinstance(clips, ClipSet) else collate_features),
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        worker_init_fn=one_thread if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )
