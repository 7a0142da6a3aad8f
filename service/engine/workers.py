"""A worker as the API process sees it: started, spoken to, noticed when it dies."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.engine.channel import ChannelError, Header
from service.engine.children import Child, describe_exit
from service.engine.model_info import ModelInfo
from service.engine.ring import RingShape
from service.engine.stream import Lease, Pending
from service.errors import StartError

log = logging.getLogger("stmixer.worker")


@dataclass(slots=True)
class Batch:
    """What a worker is busy with."""

    id: int
    keyframes: tuple[Pending, ...]
    started_at: float


class Worker:
    """One worker process. ``on_message`` gets every message of a batch, ``on_death`` the reason of its end."""

    def __init__(self, name: str, child: Child, model: ModelInfo, warmup_s: float) -> None:
        self.name, self.model, self.warmup_s = name, model, warmup_s
        self.batch: Batch | None = None
        self._child = child
        self._ids = 0

    @classmethod
    async def start(cls, name: str, options: dict[str, Any]) -> Worker:
        """Spawn it and wait for its warm-up. Raises StartError with the reason it gives."""
        child = await Child.spawn("service.worker.process", [json.dumps(options)])
        try:
            message = await child.channel.receive()
        except ChannelError:
            message = None
        except BaseException:
            await child.kill()
            raise
        if message is None:
            raise StartError("worker_failed", f"the worker {describe_exit(await child.wait())} before it was ready")
        header = message.header
        if header["t"] != "ready":
            await child.end()
            raise StartError("worker_failed", header["message"])
        if header["warning"]:
            log.warning(header["warning"])
        model = ModelInfo.from_card(header["card"], header["device"])
        log.info("worker %s: %s on %s, warm-up batch %.0f ms", name, model.name, model.device, header["warmup_s"] * 1e3)
        return cls(name, child, model, header["warmup_s"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def idle(self) -> bool:
        """Whether it can take a batch."""
        return self.batch is None and self._child.alive

    async def listen(self, on_message: Callable[[Worker, Header], None]) -> str:
        """Hand over its messages until it ends; how it ended, in words."""
        try:
            while (message := await self._child.channel.receive()) is not None:
                on_message(self, message.header)
        except ChannelError as error:
            log.error("worker %s: %s", self.name, error)
        return describe_exit(await self._child.kill())

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

    def assign(self, keyframes: tuple[Pending, ...], now: float) -> Header:
        """Mark it busy with leased keyframes; the message to ``send``."""
        self._ids += 1
        self.batch = Batch(self._ids, keyframes, now)
        leases = [(p, p.stream.take(p, now)) for p in keyframes]
        return {"t": "batch", "id": self._ids, "jobs": [_job(pending, lease) for pending, lease in leases]}

    async def send(self, message: Header) -> None:
        """Send a message of ``assign``."""
        await self._child.channel.send(message)

    async def stop(self, timeout_s: float) -> None:
        """Let it end by itself, or end it."""
        await self._child.end(timeout_s)


def _job(pending: Pending, lease: Lease) -> Header:
    stream, options = pending.stream, pending.stream.options
    return {
        "stream": stream.id,
        "slots": lease.slots,
        "generations": lease.generations,
        "size": (stream.frame_width, stream.frame_height),
        "options": (options.score_threshold, options.top_k, options.action_threshold),
    }


def worker_options(model: str | None, weights: str | None, device: str, slow_s: float) -> dict[str, Any]:
    """The options a worker process is started with."""
    threads = len(os.sched_getaffinity(0))
    return {"model": model, "weights": weights, "device": device, "threads": threads, "slow_s": slow_s}


async def restart_delay(deaths: list[float]) -> None:
    """Wait before another start, longer the more workers died in the last minute."""
    recent = [t for t in deaths if time.monotonic() - t < 60]
    await asyncio.sleep(min(5.0, 0.1 * 2 ** len(recent)))
