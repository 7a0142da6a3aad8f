"""What one device offers: the worker in service, a warm one behind it, and the streams whose rings they read."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from stmixer.service.engine.admission import capacity_of
from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Stream
from stmixer.service.engine.worker import Worker
from stmixer.service.ipc.channel import ChannelError


class Seat:
    """A device's place in the engine. A stream keeps its seat; workers come and go.

    ``capacity`` is streams of one keyframe a second, and ``saved`` what known features save of one, both as the first
    worker measured them at its start, until ``cost`` has learned better. ``spare_is_coming``: one is being started
    beside the one in service. ``free_at``: when the last batch came back.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: Worker | None = None
        self.spare: Worker | None = None
        self.spare_is_coming = False
        self.model: ModelInfo | None = None
        self.capacity, self.saved = 1, 0.0
        self.cost: KeyframeCost | None = None
        self.free_at = 0.0
        self._warmup_s: dict[int, float] = {}
        self.streams: dict[int, Stream] = {}
        self._telling: set[asyncio.Task[None]] = set()

    async def attach(self, stream: Stream) -> None:
        """A stream has a ring: the worker in service reads it from now on, and so will each that follows."""
        self.streams[stream.id] = stream
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

    def detach(self, stream: Stream) -> None:
        """A stream is gone, and with it its ring: no worker gets it any more, and the one in service is told so."""
        if self.streams.pop(stream.id, None) is not None and self.worker is not None:
            telling = asyncio.get_running_loop().create_task(_detach(self.worker, stream.id))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def promote(self) -> None:
        """The spare goes into service, once it has all rings. If it dies meanwhile nothing happens."""
        worker = self.spare
        assert worker is not None
        attached: set[int] = set()
        with suppress(ChannelError):  # it has died: its watcher says so
            while missing := self.streams.keys() - attached:  # streams may come while we attach
                for stream_id in missing:
                    attached.add(stream_id)
                    if (stream := self.streams.get(stream_id)) is not None:  # not gone while we attached
                        await worker.attach(stream)
        if self.spare is worker:
            if self.model is None:  # a spare warms up beside a busy worker: what it measures then says too little
                self.capacity, self.saved = capacity_of(worker.warmup_s), worker.saved
                self.cost = KeyframeCost(worker.warmup_s, worker.saved, len(worker.model.window.offsets))
                self._warmup_s = worker.warmup_s
            self.worker, self.model, self.spare = worker, worker.model, None


async def _detach(worker: Worker, stream_id: int) -> None:
    with suppress(ChannelError):
        await worker.detach(stream_id)
