"""A worker as the API process sees it: started, spoken to, noticed when it dies."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stmixer.model.query_bank import second_of
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Lease, Pending
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import ChannelError, Header, Message
from stmixer.service.ipc.child import KEEPS_FREED_MEMORY, Child, describe_exit
from stmixer.service.ipc.memory import oom_kills
from stmixer.service.ipc.ring import RingShape
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.worker")

MIN_STUCK_S = 10.0
STUCK_FACTOR = 10
LAST_WORDS_S = 1.0
"""How long a process whose channel has ended may take to end as well."""


@dataclass(slots=True)
class Batch:
    """What a worker is busy with."""

    id: int
    keyframes: tuple[Pending, ...]
    started_at: float


class Worker:
    """One worker process. ``warmup_s`` are seconds of a batch by its size, as measured at its start; ``saved`` is the
    part of that which a keyframe does not take where the features of all its frames are known already.

    ``reason`` is why it ended, or is about to: exit, stuck, oom or cuda.
    """

    def __init__(
        self, name: str, child: Child, model: ModelInfo, warmup_s: dict[int, float], saved: float = 0.0
    ) -> None:
        self.name, self.model, self.warmup_s, self.saved = name, model, warmup_s, saved
        self.batch: Batch | None = None
        self.reason = "exit"
        self._oom_kills = oom_kills()
        self._child = child
        self._ids = 0

    @classmethod
    async def start(cls, name: str, options: dict[str, Any]) -> Worker:
        """Spawn it and wait for its warm-up. Raises StartError with the reason it gives."""
        child = await Child.spawn("stmixer.service.worker.process", [json.dumps(options)], KEEPS_FREED_MEMORY)
        try:
            message = await child.channel.receive()
        except ChannelError:
            message = None
        except BaseException:
            await child.kill()
            raise
        if message is None:
            kills, end = oom_kills(), describe_exit(await child.wait())
            why = ", for want of memory: take a smaller model" if oom_kills() > kills else ""
            raise StartError("worker_failed", f"the worker {end} before it was ready{why}")
        header = message.header
        if header["t"] != "ready":
            await child.end()
            raise StartError("worker_failed", header["message"])
        if header["warning"]:
            log.warning(header["warning"])
        model = ModelInfo.from_card(header["card"], header["device"])
        where, warmup_s = f"{model.device} ({header['runtime']})", {int(n): s for n, s in header["warmup_s"]}
        speed = ", ".join(f"{n}: {seconds * 1e3:.0f} ms" for n, seconds in warmup_s.items())
        log.info("worker %s: %s on %s, batches of %s", name, model.name, where, speed)
        return cls(name, child, model, warmup_s, header["saved"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def idle(self) -> bool:
        """Whether it can take a batch."""
        return self.batch is None and self._child.alive

    def stuck_after_s(self, keyframes: int) -> float:
        """How long a batch may take: many times what one of its size took in the warm-up."""
        measured = max((n for n in self.warmup_s if n <= keyframes), default=min(self.warmup_s))
        seconds = self.warmup_s[measured] * max(1.0, keyframes / measured)
        return max(MIN_STUCK_S, STUCK_FACTOR * seconds)

    def give_up(self, reason: str) -> None:
        """Kill it, for this reason; ``listen`` ends with that."""
        self.reason = reason
        self._child.end_now()

    async def listen(self, on_message: Callable[[Worker, Header, bytes], None]) -> str:
        """Hand over its messages until it ends; how it ended, in words."""
        try:
            while (message := await self._child.channel.receive()) is not None:
                on_message(self, message.header, message.payload)
        except ChannelError as error:
            log.error("worker %s: %s", self.name, error)
        status = await self._child.end(LAST_WORDS_S)
        if status == -signal.SIGKILL and self.reason == "exit" and oom_kills() > self._oom_kills:
            self.reason = "oom"
        return describe_exit(status)

    async def attach(self, stream: int, fd: int, ring: RingShape) -> None:
        """Give it a stream's ring; ``fd`` stays the caller's, who may close it before this is sent."""
        header = {"t": "ring", "stream": stream, "width": ring.width, "height": ring.height, "capacity": ring.capacity}
        own = os.dup(fd)
        try:
            await self._child.channel.send(header, fds=[own])
        finally:
            os.close(own)

    async def detach(self, stream: int) -> None:
        """Let it forget a stream's ring."""
        await self._child.channel.send({"t": "drop", "stream": stream})

    def assign(self, keyframes: tuple[Pending, ...], now: float) -> Message:
        """Mark it busy with leased keyframes; the message to ``send``.

        Its payload is the banks' windows, job after job, of streams that have one: queries, then mask.
        """
        self._ids += 1
        self.batch = Batch(self._ids, keyframes, now)
        leases = [(p, p.stream.take(p, now)) for p in keyframes]
        jobs = [_job(pending, lease) for pending, lease in leases]
        return Message({"t": "batch", "id": self._ids, "jobs": jobs}, b"".join(map(_bank_window, keyframes)))

    async def send(self, message: Message) -> None:
        """Send a message of ``assign``."""
        await self._child.channel.send(message.header, message.payload)

    async def stop(self, timeout_s: float) -> None:
        """Let it end by itself, or end it."""
        await self._child.end(timeout_s)


def _bank_window(pending: Pending) -> bytes:
    bank = pending.stream.bank
    if bank is None:
        return b""
    queries, mask = bank.window(second_of(pending.keyframe.pts_us))
    return queries.tobytes() + mask.tobytes()


def _job(pending: Pending, lease: Lease) -> Header:
    stream, options = pending.stream, pending.stream.options
    return {
        "stream": stream.id,
        "slots": lease.slots,
        "generations": lease.generations,
        "size": (stream.frame_width, stream.frame_height),
        "options": (options.score_threshold, options.top_k, options.action_threshold),
    }


def worker_options(settings: Settings) -> dict[str, Any]:
    """The options a worker process is started with (``service.worker.process.WorkerOptions``)."""
    return {
        "model": settings.model,
        "weights": str(settings.weights) if settings.weights else None,
        "device": settings.device,
        "runtime": settings.runtime,
        "precision": settings.precision,
        "threads": len(os.sched_getaffinity(0)),
        "max_batch": settings.max_batch,
        "slow_s": settings.slow_inference_ms / 1000,
        "poison": settings.poison,
    }


async def restart_delay(deaths: list[float]) -> None:
    """Wait before another start, longer the more workers died in the last minute."""
    recent = [t for t in deaths if time.monotonic() - t < 60]
    await asyncio.sleep(min(5.0, 0.1 * 2 ** len(recent)))
