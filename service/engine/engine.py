"""The engine: all streams, the scheduler and the workers. ``step`` is the whole of one round.

Runs on the API process's event loop and never blocks it: pixels stay in rings, decoding and inference in children.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from stmixer.service.engine.admission import capacity_of, fits, weight
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.stream import Pending, Policy, Stream
from stmixer.service.engine.supervisor import Supervisor
from stmixer.service.engine.worker import Worker
from stmixer.service.errors import CapacityError
from stmixer.service.ipc.channel import ChannelError, Header
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.engine")


class Engine:
    """Streams in, settled keyframes out."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.streams: dict[int, Stream] = {}
        self.draining = False
        self._scheduler = Scheduler(settings.max_batch, settings.batch_wait_ms / 1000)
        self.workers = Supervisor(settings, metrics, self._on_message, self.wake)
        self._stream_ids = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self._wake = asyncio.Event()
        self._round: asyncio.Task[None] | None = None
        self.capacity = settings.max_streams or 1
        self._saved = 0.0
        metrics.keyframes_waiting.set_function(self._waiting)
        metrics.ring_bytes.set_function(lambda: sum(s.ring.total_bytes for s in self.streams.values() if s.ring))

    # -- life

    async def start(self) -> None:
        """Start the worker. Raises StartError when it cannot serve the model."""
        await self.workers.start()
        worker = self.workers.worker
        if self.settings.max_streams is None and worker is not None:
            self.capacity, self._saved = capacity_of(worker.warmup_s), worker.saved
        self.metrics.streams_capacity.set(self.capacity)
        self._round = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop at once; the caller has drained what it wants to keep."""
        self.draining = True
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)
        await self.workers.stop()

    @property
    def model(self) -> ModelInfo:
        """The served model."""
        assert self.workers.model is not None, "the engine has not started"
        return self.workers.model

    @property
    def ready(self) -> bool:
        """Whether a worker has warmed up, we are not draining, and workers do not keep dying."""
        return self.workers.ready and not self.draining

    # -- streams

    def admit(self, policy: Policy, keyframe_hz: float) -> int:
        """A new stream's id. Raises CapacityError while full or draining."""
        if self.draining:
            self.metrics.streams_rejected.labels("draining").inc()
            raise CapacityError("draining", "the service is shutting down; try another instance")
        running = [self._weight(s.policy, s.schedule.hz) for s in self.streams.values()]
        measured = self.settings.max_streams is None
        if not fits(running, self._weight(policy, keyframe_hz), self.capacity, weighed=measured):
            self.metrics.streams_rejected.labels("capacity").inc()
            unit = "keyframes a second" if measured else "streams"
            raise CapacityError("capacity", f"all {self.capacity} {unit} are in use; try again later")
        self._stream_ids += 1
        return self._stream_ids

    def _weight(self, policy: Policy, keyframe_hz: float) -> float:
        if not self._saved:
            return weight(policy, keyframe_hz)
        window = self.model.window
        return weight(policy, keyframe_hz, self._saved, float(window.span * window.grid_s))

    def add(self, stream: Stream) -> None:
        """Take up a stream."""
        self.streams[stream.id] = stream
        self.empty.clear()
        self.metrics.streams_active.labels(stream.source).inc()

    def remove(self, stream: Stream) -> None:
        """Forget a stream; whatever of it is still running is dropped when it comes back."""
        if self.streams.pop(stream.id, None) is None:
            return
        stream.cancel()
        if not self.streams:
            self.empty.set()
        self.metrics.streams_active.labels(stream.source).dec()
        self.workers.detach(stream.id)

    def wake(self) -> None:
        """Something changed: look again at once."""
        self._wake.set()

    # -- the round

    async def _run(self) -> None:
        while True:
            wait_until = await self.step(time.monotonic())
            timeout = None if wait_until is None else max(0.0, wait_until - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            self._wake.clear()

    async def step(self, now: float) -> float | None:
        """Expire, choose, dispatch. Returns when there is something to do next, if nothing else happens."""
        for stream in self.streams.values():
            stream.expire(now)
        times = [t for s in self.streams.values() if (t := s.next_deadline()) is not None]
        if (stuck_at := self.workers.end_stuck(now)) is not None:
            times.append(stuck_at)
        worker = self.workers.worker
        if worker is not None and worker.idle:
            sized = [(s, self.model.padded(s.ring.width, s.ring.height)) for s in self.streams.values() if s.ring]
            choice = self._scheduler.choose(sized, now, may_risk=self.workers.may_risk)
            if choice.batch:
                message = worker.assign(choice.batch, now)
                with contextlib.suppress(ChannelError):  # its death is noticed by whoever listens
                    await worker.send(message)
            elif choice.wait_until is not None:
                times.append(choice.wait_until)
        return min(times, default=None)

    def _on_message(self, worker: Worker, header: Header, payload: bytes = b"") -> None:
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
                self._finish(worker, batch.keyframes, header, payload)
            case "failed" if header["reason"] in ("oom", "cuda"):
                log.error("worker %s: %s", worker.name, header["message"])
                worker.give_up(header["reason"])  # such a process is not trusted with another batch
            case "failed":
                worker.batch = None
                self._fail(worker, batch.keyframes, header)
        self.wake()

    def _finish(self, worker: Worker, keyframes: tuple[Pending, ...], header: Header, payload: bytes) -> None:
        now, seconds = time.monotonic(), header["seconds"]
        ran = [(p, r) for p, r in zip(keyframes, header["results"], strict=True) if r is not None]
        self.metrics.batch_done(worker.name, len(ran), header["gpu_memory"])
        for place, (pending, _) in enumerate(ran):
            if pending.stream.bank is not None:
                size = len(payload) // len(ran)
                pending.stream.remember(pending, payload[place * size : (place + 1) * size])
        for pending, actors in ran:
            pending.done_at = now
            self.metrics.keyframe_done(pending.frame_at, pending.ready_at, now, seconds)
            pending.stream.settle(pending, "ok", _result(pending, actors, now, seconds["postprocess"]))

    def _fail(self, worker: Worker, keyframes: tuple[Pending, ...], header: Header) -> None:
        log.error("worker %s: a batch of %d failed: %s", worker.name, len(keyframes), header["message"])
        for pending in keyframes:
            if len(keyframes) > 1:  # together they were too much, or one of them is to blame: each alone
                pending.stream.release(pending)
            else:
                pending.stream.settle(pending, "error")

    def _waiting(self) -> float:
        return sum(len(s.ready()) for s in self.streams.values())


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
