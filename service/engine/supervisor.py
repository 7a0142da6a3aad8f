"""The workers, kept alive: one in service, a warm one behind it, and the rings that outlive them both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.worker import Worker, restart_delay, worker_options
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import ChannelError, Header
from stmixer.service.ipc.ring import RingShape
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.supervisor")

MAX_DEATHS_PER_MINUTE = 5
SPARE_RETRY_S = 10.0
OnMessage = Callable[[Worker, Header, bytes], None]


class Supervisor:
    """``on_message`` gets what a worker says of its batch, ``on_change`` is called when one takes over or dies.

    Importing torch and loading a model take seconds, so a spare has done both and only needs the rings.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, on_message: OnMessage, on_change: Callable[[], None]
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._on_message, self._on_change = on_message, on_change
        self.worker: Worker | None = None
        self.model: ModelInfo | None = None
        self._spare: Worker | None = None
        self._rings: dict[int, tuple[int, RingShape]] = {}
        self._deaths: list[float] = []
        self._starting = False
        self._look = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life

    async def start(self) -> None:
        """Start the first worker. Raises StartError when it cannot serve the model."""
        await self._take_on()
        await self._promote()
        self._spawn(self._keep())
        self._look.set()

    async def stop(self) -> None:
        """End all of them, and give up the rings."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(w.stop(timeout_s=1.0) for w in (self.worker, self._spare) if w is not None))
        for fd, _ in self._rings.values():
            os.close(fd)
        self._rings.clear()

    @property
    def ready(self) -> bool:
        """Whether one is in service, and they do not keep dying."""
        recent = [t for t in self._deaths if time.monotonic() - t < 60]
        return self.worker is not None and len(recent) <= MAX_DEATHS_PER_MINUTE

    @property
    def may_risk(self) -> bool:
        """Whether a keyframe that may kill its worker can run: not while a spare is on its way, which could step in."""
        return self._spare is not None or not self._starting

    def end_stuck(self, now: float) -> float | None:
        """Kill a worker whose batch takes far too long; else when to look again."""
        worker = self.worker
        if worker is None or worker.batch is None:
            return None
        if now < (limit := worker.batch.started_at + worker.stuck_after_s(len(worker.batch.keyframes))):
            return limit
        worker.give_up("stuck")
        return None

    # -- rings

    async def attach(self, stream_id: int, fd: int, ring: RingShape) -> None:
        """A stream's ring exists; ``fd`` is ours from here on."""
        self._rings[stream_id] = fd, ring
        if self.worker is not None:
            with contextlib.suppress(ChannelError):  # a dying worker's successor gets all rings
                await self.worker.attach(stream_id, fd, ring)

    def ring_of(self, stream_id: int) -> int:
        """The descriptor of a stream's ring; it stays ours."""
        return self._rings[stream_id][0]

    def detach(self, stream_id: int) -> None:
        """A stream is gone, and with it its ring."""
        held = self._rings.pop(stream_id, None)
        if held is not None:
            os.close(held[0])
            if self.worker is not None:
                self._spawn(_detach(self.worker, stream_id))

    # -- one in service, one behind it

    async def _keep(self) -> None:
        """Put in place whatever is missing: first the worker in service, from the spare if there is one."""
        while True:
            await self._look.wait()
            self._look.clear()
            while self.worker is None or (self._spare is None and self._settings.spare_workers):
                if self.worker is None and self._spare is not None:
                    await self._promote()
                else:
                    await self._replace()

    async def _replace(self) -> None:
        """Start another one, the later the more have died."""
        self._starting = self.worker is not None
        self._on_change()
        try:
            await restart_delay(self._deaths)
            await self._take_on()
        except (StartError, ChannelError, OSError) as error:
            log.error("a worker does not start: %s", error)
            if self.worker is None:
                self._deaths.append(time.monotonic())
            else:  # the one in service goes on without a spare
                self._starting = False
                self._on_change()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SPARE_RETRY_S):
                        await self._look.wait()
        finally:
            self._starting = False
            self._on_change()

    async def _take_on(self) -> None:
        """Start a worker as the spare. Raises StartError."""
        self._spare = worker = await Worker.start("0", worker_options(self._settings))
        self._spawn(self._watch(worker))

    async def _promote(self) -> None:
        """The spare goes into service, once it has all rings."""
        worker = self._spare
        assert worker is not None
        attached: set[int] = set()
        try:
            while missing := self._rings.keys() - attached:  # streams may come while we attach
                for stream_id in missing:
                    attached.add(stream_id)
                    if stream_id in self._rings:  # not gone while we attached
                        await worker.attach(stream_id, *self._rings[stream_id])
        except ChannelError:
            pass  # it has died: its watcher says so
        if self._spare is not worker:
            return
        self.worker, self.model, self._spare = worker, worker.model, None
        self._metrics.worker_up.labels(worker.name).set(1)
        self._metrics.model_info.info({"model": worker.model.name, "trained": str(worker.model.trained).lower()})
        self._on_change()

    async def _watch(self, worker: Worker) -> None:
        """Until a worker dies; then its keyframes run again, alone, on the next one."""
        end = await worker.listen(self._on_message)
        role = "in service" if worker is self.worker else "spare"
        log.error("worker %s (%s, pid %d) %s: %s", worker.name, role, worker.pid, end, worker.reason)
        self._deaths = [*(t for t in self._deaths if time.monotonic() - t < 60), time.monotonic()]
        self._metrics.worker_restarts.labels(worker.name, worker.reason).inc()
        if worker is self.worker:
            self.worker = None
            self._metrics.worker_up.labels(worker.name).set(0)
        elif worker is self._spare:
            self._spare = None
        for pending in worker.batch.keyframes if worker.batch else ():
            pending.stream.release(pending)
        self._look.set()
        self._on_change()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _detach(worker: Worker, stream_id: int) -> None:
    with contextlib.suppress(ChannelError):
        await worker.detach(stream_id)
