"""The engine: all streams, the scheduler and the workers. ``step`` is the whole of one round.

Runs on the API process's event loop and never blocks it: pixels stay in rings, decoding and inference in children.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any

from service.engine.channel import ChannelError, Header
from service.engine.model_info import ModelInfo
from service.engine.ring import RingShape
from service.engine.scheduler import Scheduler
from service.engine.stream import Pending, Stream
from service.engine.workers import Worker, restart_delay, worker_options
from service.errors import CapacityError, StartError
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger("stmixer.engine")

MAX_DEATHS_PER_MINUTE = 5


class Engine:
    """Streams in, settled keyframes out."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.streams: dict[int, Stream] = {}
        self.draining = False
        self._rings: dict[int, int] = {}
        self._scheduler = Scheduler(settings.max_batch, settings.batch_wait_ms / 1000)
        self._worker: Worker | None = None
        self._model: ModelInfo | None = None
        self._deaths: list[float] = []
        self._stream_ids = 0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.streams_capacity.set(settings.max_streams)
        metrics.keyframes_waiting.set_function(self._waiting)
        metrics.ring_bytes.set_function(lambda: sum(s.ring.total_bytes for s in self.streams.values() if s.ring))

    # -- life

    async def start(self) -> None:
        """Start the worker. Raises StartError when it cannot serve the model."""
        await self._start_worker()
        self._spawn(self._run())

    async def stop(self) -> None:
        """Stop at once; the caller has drained what it wants to keep."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._worker is not None:
            await self._worker.stop(timeout_s=1.0)
        for fd in self._rings.values():
            os.close(fd)
        self._rings.clear()

    @property
    def model(self) -> ModelInfo:
        """The served model."""
        assert self._model is not None, "the engine has not started"
        return self._model

    @property
    def ready(self) -> bool:
        """Whether a worker has warmed up, we are not draining, and workers do not keep dying."""
        recent = [t for t in self._deaths if time.monotonic() - t < 60]
        return self._worker is not None and not self.draining and len(recent) <= MAX_DEATHS_PER_MINUTE

    # -- streams

    def admit(self) -> int:
        """A new stream's id. Raises CapacityError while full or draining."""
        if self.draining:
            self.metrics.streams_rejected.labels("draining").inc()
            raise CapacityError("draining", "the service is shutting down; try another instance")
        if len(self.streams) >= self.settings.max_streams:
            self.metrics.streams_rejected.labels("capacity").inc()
            raise CapacityError("capacity", f"all {self.settings.max_streams} streams are in use; try again later")
        self._stream_ids += 1
        return self._stream_ids

    def add(self, stream: Stream) -> None:
        """Take up a stream."""
        self.streams[stream.id] = stream
        self.metrics.streams_active.labels(stream.source).inc()

    async def attach(self, stream: Stream, fd: int, ring: RingShape) -> None:
        """A stream's ring exists; the engine owns ``fd`` from here on."""
        self._rings[stream.id] = fd
        if self._worker is not None:
            with contextlib.suppress(ChannelError):  # a dying worker's successor gets all rings
                await self._worker.attach(stream.id, fd, ring)

    def remove(self, stream: Stream) -> None:
        """Forget a stream; whatever of it is still running is dropped when it comes back."""
        if self.streams.pop(stream.id, None) is None:
            return
        stream.cancel()
        self.metrics.streams_active.labels(stream.source).dec()
        fd = self._rings.pop(stream.id, None)
        if fd is not None:
            os.close(fd)
            if self._worker is not None:
                self._spawn(self._detach(self._worker, stream.id))

    def wake(self) -> None:
        """Something changed: look again at once."""
        self._wake.set()

    # -- the round

    async def _run(self) -> None:
        while True:
            wait_until = await self.step(time.monotonic())
            timeout = None if wait_until is None else max(0.0, wait_until - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout)
            self._wake.clear()

    async def step(self, now: float) -> float | None:
        """Expire, choose, dispatch. Returns when there is something to do next, if nothing else happens."""
        for stream in self.streams.values():
            stream.expire(now)
        times = [t for s in self.streams.values() if (t := s.next_deadline()) is not None]
        worker = self._worker
        if worker is not None and worker.idle:
            sized = [(s, self.model.padded(s.ring.width, s.ring.height)) for s in self.streams.values() if s.ring]
            choice = self._scheduler.choose(sized, now)
            if choice.batch:
                message = worker.assign(choice.batch, now)
                with contextlib.suppress(ChannelError):  # its death is noticed by whoever listens
                    await worker.send(message)
            elif choice.wait_until is not None:
                times.append(choice.wait_until)
        return min(times, default=None)

    def _on_message(self, worker: Worker, header: Header) -> None:
        batch = worker.batch
        if batch is None or header.get("id") != batch.id:
            log.error("worker %s speaks of batch %s, which it was not given", worker.name, header.get("id"))
            return
        match header["t"]:
            case "copied":
                for place, pending in enumerate(batch.keyframes):
                    if place in header["stale"]:
                        pending.stream.release(pending, blame=False)
                    else:
                        pending.stream.copied(pending)
            case "done":
                worker.batch = None
                self._finish(worker, batch.keyframes, header)
            case "failed":
                worker.batch = None
                self._fail(worker, batch.keyframes, header)
        self.wake()

    def _finish(self, worker: Worker, keyframes: tuple[Pending, ...], header: Header) -> None:
        now, seconds = time.monotonic(), header["seconds"]
        ran = [(p, r) for p, r in zip(keyframes, header["results"], strict=True) if r is not None]
        for stage in ("preprocess", "inference", "postprocess"):
            self.metrics.stage.labels(stage).observe(seconds[stage])
        self.metrics.gpu_memory.labels(worker.name).set(header["gpu_memory"])
        self.metrics.batch_size.labels(worker.name).observe(len(ran))
        self.metrics.batches.labels(worker.name).inc()
        self.metrics.inferences.labels(worker.name).inc(len(ran))
        for pending, actors in ran:
            self.metrics.stage.labels("queue").observe(pending.started_at - pending.ready_at)
            pending.stream.settle(pending, "ok", _result(pending, actors, now, seconds["postprocess"]))

    def _fail(self, worker: Worker, keyframes: tuple[Pending, ...], header: Header) -> None:
        log.error("worker %s: a batch of %d failed: %s", worker.name, len(keyframes), header["message"])
        for pending in keyframes:
            if len(keyframes) > 1:  # together they were too much, or one of them is to blame: each alone
                pending.stream.release(pending)
            else:
                pending.stream.settle(pending, "error")

    # -- workers

    async def _start_worker(self) -> None:
        s = self.settings
        options = worker_options(s.model, str(s.weights) if s.weights else None, s.device, s.slow_inference_ms / 1000)
        worker = await Worker.start("0", options)
        self._model = worker.model
        attached: set[int] = set()
        while missing := self._rings.keys() - attached:  # streams may come while we attach
            for stream_id in missing:
                attached.add(stream_id)
                stream, fd = self.streams.get(stream_id), self._rings.get(stream_id)
                if stream is not None and stream.ring is not None and fd is not None:  # not gone while we attached
                    await worker.attach(stream_id, fd, stream.ring)
        self._worker = worker
        self.metrics.worker_up.labels(worker.name).set(1)
        self.metrics.model_info.info({"model": worker.model.name, "trained": str(worker.model.trained).lower()})
        self._spawn(self._watch(worker))
        self.wake()

    async def _watch(self, worker: Worker) -> None:
        """Until a worker dies; then its keyframes run again, alone, on the next one."""
        end = await worker.listen(self._on_message)
        log.error("worker %s (pid %d) %s", worker.name, worker.pid, end)
        self._worker = None
        self._deaths.append(time.monotonic())
        self.metrics.worker_up.labels(worker.name).set(0)
        self.metrics.worker_restarts.labels(worker.name, "exit").inc()
        for pending in worker.batch.keyframes if worker.batch else ():
            pending.stream.release(pending)
        while True:
            await restart_delay(self._deaths)
            try:
                await self._start_worker()
                return
            except (StartError, ChannelError) as error:
                log.error("worker %s does not start: %s", worker.name, error)
                self._deaths.append(time.monotonic())

    @staticmethod
    async def _detach(worker: Worker, stream_id: int) -> None:
        with contextlib.suppress(ChannelError):
            await worker.detach(stream_id)

    def _waiting(self) -> float:
        return sum(len(s.ready()) for s in self.streams.values())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _result(pending: Pending, actors: list[Any], now: float, postprocess_s: float) -> dict[str, Any]:
    """A keyframe's result as it goes over the wire, but for what is known only when it is sent."""
    stream, keyframe = pending.stream, pending.keyframe
    milliseconds = {
        "lookahead": pending.frame_at - pending.seen_at,
        "decode": pending.ready_at - pending.frame_at,
        "queue": pending.started_at - pending.ready_at,
        "inference": now - pending.started_at - postprocess_s,
        "postprocess": postprocess_s,
    }
    return {
        "seq": keyframe.seq,
        "pts_us": keyframe.pts_us,
        "received_at_us": time.time_ns() // 1000 - round((now - pending.seen_at) * 1e6),
        "sent_at_us": 0,
        "warming": pending.warming,
        "timings_ms": {stage: seconds * 1000 for stage, seconds in milliseconds.items()},
        "dropped_since_last": 0,
        "frame": {"width": stream.frame_width, "height": stream.frame_height},
        "actors": actors,
    }
