"""How batches come from the processes that make them: in shared memory, or through a pipe where there is too little.

Containers have 64 MB of /dev/shm by default. torch's own loader waits for ever for a batch that did not fit.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import get_worker_info

log = logging.getLogger("stmixer.train")

_LOCKS_EACH = 8
"""More than a worker process and its queues have."""


class HandedOver(Protocol):
    """What a loader hands over."""

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        ...


@dataclass(frozen=True, slots=True)
class _InBytes:
    """A batch in a pipe, which comes out of it as the batch."""

    data: bytes

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self.data,)


@dataclass(slots=True)
class Collate:
    """Items to a batch; in a worker process so that it can be handed over. ``batch_of`` is a module's function."""

    batch_of: Callable[[Sequence[Any]], HandedOver]
    _told: bool = field(default=False, init=False)

    def __call__(self, items: Sequence[Any]) -> HandedOver | _InBytes:
        """The batch, its tensors in shared memory; where they do not fit, its bytes."""
        batch, worker = self.batch_of(items), get_worker_info()
        if worker is None:
            return batch
        try:
            for tensor in batch.tensors():
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if worker.id == 0 and not self._told:
                self._told = True
                reason = str(error).rpartition(": ")[2]
                text = f"stmixer-train: too little shared memory ({reason}): clips go through pipes, which is slower"
                print(f"{text}; `docker run --shm-size` gives more", file=sys.stderr, flush=True)
            return _InBytes(pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL))
        return batch


def usable_workers(wanted: int) -> int:
    """As many worker processes as wanted, or none where the machine does not even give them their locks."""
    if wanted:
        try:
            context = multiprocessing.get_context("forkserver")
            locks = [context.Semaphore() for _ in range(_LOCKS_EACH * (wanted + 1))]
            del locks
        except OSError as error:
            log.warning(f"no shared memory ({error.strerror or error}): clips are made in the training process")
            return 0
    return wanted
