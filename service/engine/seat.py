"""What one device offers: the worker in service, a warm one behind it, their streams, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

from stmixer.service.engine.admission import capacity_of, fits, weight
from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.stream import Policy, Stream
from stmixer.service.engine.worker import Worker
from stmixer.service.ipc.channel import ChannelError
from stmixer.service.places import Place


class Seat:
    """A device's place in the engine. A stream keeps its seat; workers come and go.

    ``capacity`` is streams of one keyframe a second, and ``saved`` what known features save of one, both as the first
    worker measured them at its start, until ``cost`` has learned better. ``spare_is_coming``: one is being started
    beside the one in service. ``free_at``: when the last batch came back. ``empty_since``: when it lost the worker in
    service and had none to follow; None while it has one.
    """

    def __init__(self, name: str, place: Place, scheduler: Scheduler) -> None:
        self.name, self.place, self.scheduler = name, place, scheduler
        self.worker: Worker | None = None
        self.spare: Worker | None = None
        self.spare_is_coming = False
        self.model: ModelInfo | None = None
        self.capacity, self.saved = 1, 0.0
        self.cost: KeyframeCost | None = None
        self.free_at = 0.0
        self.empty_since: float | None = None
        self._warmup_s: dict[int, float] = {}
        self.streams: dict[int, Stream] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def weight(self, policy: Policy, keyframe_hz: float) -> float:
        """What a stream takes of its capacity."""
        if not self.saved or self.model is None:
            return weight(policy, keyframe_hz)
        window = self.model.window
        return weight(policy, keyframe_hz, self.saved, float(window.span * window.grid_s))

    def _weights(self, besides: Collection[int] = ()) -> list[float]:
        """Of all its streams but ``besides``."""
        return [self.weight(s.policy, s.schedule.hz) for s in self.streams.values() if s.id not in besides]

    def fits(
        self, policy: Policy, keyframe_hz: float, besides: Collection[int] = (), *, elsewhere: float = 0.0
    ) -> bool:
        """Whether one more stream fits; ``besides``: ids of those that would not be there then; ``elsewhere``: the part
        of the device that other models' streams take."""
        left = self.capacity * (1 - elsewhere)
        return fits(self._weights(besides), self.weight(policy, keyframe_hz), left)

    def load(self, besides: Collection[int] = ()) -> float:
        """The part of its capacity that its streams take."""
        return sum(self._weights(besides)) / self.capacity

    def taken(self, policy: Policy, keyframe_hz: float) -> float:
        """The part of its capacity that would be taken if such a stream came to it."""
        return (sum(self._weights()) + self.weight(policy, keyframe_hz)) / self.capacity

    def add(self, stream: Stream) -> None:
        """A stream is served here from now on."""
        self.streams[stream.id] = stream

    async def attach(self, stream: Stream) -> None:
        """A stream has a ring: the worker in service reads it from now on, and so will each that follows."""
        if self.worker is not None:
            with suppress(ChannelError):  # a dying worker's successor gets all rings
                await self.worker.attach(stream)

    def learn(self, *, busy: bool) -> None:
        """Take capacity and ``saved`` from batches as they come back, once enough have.

        Of a worker that is not ``busy`` capacity rises alone, and no higher than the warm-up's.
        """
        if self.cost is None or (slower := self.cost.slower) is None:
            return
        capacity = capacity_of(self._warmup_s, slower)
        if busy:
            self.capacity, self.saved = capacity, self.cost.saved
        else:
            self.capacity = max(self.capacity, min(capacity, capacity_of(self._warmup_s)))

    def remove(self, stream: Stream) -> None:
        """A stream is gone: no worker of this seat gets its ring any more, and the one in service is told so."""
        self.scheduler.turns.forget(stream)
        if self.streams.pop(stream.id, None) is not None and self.worker is not None:
            self._tell(self.worker, stream.id)

    async def promote(self) -> None:
        """The spare goes into service, once it has all rings. If it dies meanwhile nothing happens."""
        worker = self.spare
        assert worker is not None
        with suppress(ChannelError):  # it has died: its watcher says so
            await self._hand_rings(worker)
        if self.spare is worker:
            if self.model is None:  # a spare warms up beside a busy worker: what it measures then says too little
                self.capacity, self.saved = capacity_of(worker.warmup_s), worker.saved
                self.cost = KeyframeCost(worker.warmup_s, worker.saved, len(worker.model.window.offsets))
                self._warmup_s = worker.warmup_s
            self.worker, self.model, self.spare, self.empty_since = worker, worker.model, None, None

    async def _hand_rings(self, worker: Worker) -> None:
        """Until it has the rings of all that are here and no other: they come and go meanwhile, one with the number of
        one that went."""
        attached: dict[int, Stream] = {}
        while True:
            if gone := [s for s in attached.values() if self.streams.get(s.id) is not s]:
                del attached[gone[0].id]
                await worker.detach(gone[0].id)
            elif missing := [s for s in self.streams.values() if s.ring is not None and s.id not in attached]:
                attached[missing[0].id] = missing[0]
                await worker.attach(missing[0])
            else:
                return

    def _tell(self, worker: Worker, gone: int) -> None:
        telling = asyncio.get_running_loop().create_task(_detach(worker, gone))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)


async def _detach(worker: Worker, stream_id: int) -> None:
    with suppress(ChannelError):
        await worker.detach(stream_id)
