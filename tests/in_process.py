"""Streams without a server: the real engine, sessions and decoder processes, with a stand-in for the worker's process.

The stand-in reads rings as a worker does, notes the numbers that pictures carry (``ws_client.numbered``), and answers
at once that nobody was seen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from cradle import cradled
from ws_client import read_number

from stmixer.model.labels import AVA_LABELS
from stmixer.model.zoo import variant
from stmixer.service.access import Caller
from stmixer.service.engine.engine import Engine
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Policy
from stmixer.service.engine.worker import Worker
from stmixer.service.ipc.channel import Received
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import AttachRing, BatchDone, RunBatch, StageSeconds, WindowsCopied
from stmixer.service.ipc.ring import Ring, RingShape
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import DetectOptions
from stmixer.service.sessions.session import Session
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DECODER_MODULE, DecoderPool
from stmixer.service.sources.pictures import PictureSource


@dataclass
class WorkerStandIn:
    """``seen``: of each keyframe of each stream the numbers of its window."""

    seen: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    alive: bool = True
    engine: Engine | None = None
    worker: Worker | None = None
    _rings: dict[int, Ring] = field(default_factory=dict)

    @property
    def channel(self) -> WorkerStandIn:
        """What a child's channel would be."""
        return self

    async def send(self, message: object, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Take rings and batches."""
        match message:
            case AttachRing(stream, width, height, capacity):
                self._rings[stream] = Ring(os.dup(fds[0]), RingShape(width, height, capacity), writable=False)
            case RunBatch():
                asyncio.get_running_loop().call_soon(self._run, message)

    def _run(self, batch: RunBatch) -> None:
        assert self.engine is not None
        assert self.worker is not None
        assert self.worker.batch is not None
        for pending, job in zip(self.worker.batch.keyframes, batch.jobs, strict=True):
            frames = self._rings[job.stream].read(job.slots, job.generations)
            assert frames is not None
            numbers = [read_number(frame) for frame in frames]
            self.seen.setdefault(job.stream, {})[pending.keyframe.seq] = numbers
        self.engine._on_message(self.engine.seats[0], self.worker, Received(WindowsCopied(batch.id, ())))
        done = BatchDone(batch.id, tuple(() for _ in batch.jobs), StageSeconds(0.0, 0.0, 0.0), 0)
        self.engine._on_message(self.engine.seats[0], self.worker, Received(done))


@dataclass(frozen=True)
class Running:
    """An engine that runs, and what sessions need."""

    engine: Engine
    pool: DecoderPool
    settings: Settings
    worker: WorkerStandIn
    anyone: Caller

    def session(self, policy: Policy, options: DetectOptions) -> Session:
        """A live stream."""
        return Session(self.engine, self.pool, self.settings, Caller(None), source="ws", policy=policy, options=options)


@asynccontextmanager
async def running_engine(
    model: str = "tiny", *, decoder_module: str = DECODER_MODULE, max_streams: int | None = None
) -> AsyncIterator[Running]:
    """An engine for a variant's windows; ``decoder_module`` is what its decoders run."""
    settings = Settings(idle_decoders=1, max_streams=max_streams)
    engine, pool, stand_in = Engine(settings, Metrics()), DecoderPool(settings, decoder_module), WorkerStandIn()
    info = ModelInfo(variant(model), AVA_LABELS, False, None, None, None, None, "cpu")
    worker = Worker("0", cast(Child, stand_in), info, {1: 0.1})
    stand_in.engine, stand_in.worker = engine, worker
    engine.seats[0].model, engine.seats[0].worker = info, worker
    engine._round = asyncio.create_task(engine._run())
    with cradled():
        try:
            yield Running(engine, pool, settings, stand_in, Caller(None))
        finally:
            engine.seats[0].worker = None
            await engine.stop()
            await pool.stop()


async def hand_over(source: PictureSource, picture: bytes) -> None:
    """Give it a picture, and wait until its decoder has dealt with it, so that none displaces another."""
    await source.take(picture)
    if source._newest is not None:
        await source._newest.taken()
        await source._picture_wanted.wait()
