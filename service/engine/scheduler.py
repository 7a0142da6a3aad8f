"""Which keyframes run next, over all streams. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.engine.turns import Turns

ENOUGH = 2
"""Batches of a stream's keyframes that are looked at: one may be of suspects alone."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A batch to run now (empty: none), or the moment to ask again."""

    batch: tuple[Pending, ...] = ()
    wait_until: float | None = None


class Scheduler:
    """Everything that is due, same padded shape, up to ``max_batch``, waiting at most ``batch_wait_s`` for company.

    Where a worker has not the time for all of it, ``turns`` say whose keyframes are due.
    """

    def __init__(self, max_batch: int, batch_wait_s: float) -> None:
        self.max_batch, self.batch_wait_s, self.turns = max_batch, batch_wait_s, Turns()

    def choose(
        self, streams: Collection[Stream], now: float, cost: KeyframeCost | None = None, *, with_suspects: bool = True
    ) -> Choice:
        """The next batch. The stream served longest ago decides the shape; streams take turns for the other places.

        ``cost``: what keyframes cost; without it nobody's keyframes are held back.
        A suspect, a keyframe that has died with a batch before, runs alone, so that it can take no other with it; and
        only ``with_suspects``, so that it does not take all streams' only worker.
        """
        queues = list[tuple[float, float, int, list[Pending]]]()
        for number, stream in enumerate(streams):
            ready = stream.ready(ENOUGH * self.max_batch)
            queue = [p for p in ready if with_suspects or not p.attempts]
            if queue:
                queues.append((stream.served_at, queue[0].ready_at, number, queue))
        queues.sort()
        due, again = [queue for *_, queue in queues], None
        if cost is not None:
            due, again = self.turns.allowed(streams, due, now, cost)
        if not due:
            return Choice(wait_until=again)
        first = due[0][0]
        if first.attempts:
            return Choice((first,))
        same = [
            [p for p in queue if not p.attempts] for queue in due if queue[0].stream.clip_size == first.stream.clip_size
        ]
        batch: list[Pending] = []
        for turn in range(max([len(queue) for queue in same])):
            batch += [queue[turn] for queue in same if turn < len(queue)]
        batch = batch[: self.max_batch]
        deadline = first.ready_at + self.batch_wait_s
        if len(batch) < self.max_batch and now < deadline:
            return Choice(wait_until=deadline)
        return Choice(tuple(batch))
