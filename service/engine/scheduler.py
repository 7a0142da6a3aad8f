"""Which keyframes run next, over all streams. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stmixer.service.engine.stream import Pending, Stream

PaddedSize = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """A batch to run now (empty: none), or the moment to ask again."""

    batch: tuple[Pending, ...] = ()
    wait_until: float | None = None


class Scheduler:
    """Everything that is due, same padded shape, up to ``max_batch``, waiting at most ``batch_wait_s`` for company."""

    def __init__(self, max_batch: int, batch_wait_s: float) -> None:
        self.max_batch, self.batch_wait_s = max_batch, batch_wait_s

    def choose(self, streams: Iterable[tuple[Stream, PaddedSize]], now: float, *, may_risk: bool = True) -> Choice:
        """The next batch. The stream served longest ago decides the shape; streams take turns for the other places.

        A keyframe that has died with a batch before runs alone, so that it can take no other with it; and only with
        ``may_risk``, so that it does not take all streams' only worker.
        """
        ready = [([p for p in stream.ready() if may_risk or not p.attempts], size) for stream, size in streams]
        queues = [(queue, size) for queue, size in ready if queue]
        if not queues:
            return Choice()
        queues.sort(key=lambda item: (item[0][0].stream.served_at, item[0][0].ready_at))
        first, shape = queues[0][0][0], queues[0][1]
        if first.attempts:
            return Choice((first,))
        same = [[p for p in queue if not p.attempts] for queue, size in queues if size == shape]
        batch: list[Pending] = []
        for turn in range(max(len(queue) for queue in same)):
            batch += [queue[turn] for queue in same if turn < len(queue)]
        batch = batch[: self.max_batch]
        deadline = first.ready_at + self.batch_wait_s
        if len(batch) < self.max_batch and now < deadline:
            return Choice(wait_until=deadline)
        return Choice(tuple(batch))
