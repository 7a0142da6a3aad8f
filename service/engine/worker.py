"""A worker as the API process sees it: started, spoken to, noticed when it dies. It carries messages, no more."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from stmixer.model.named import weights_named
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import ChannelError, GarbledError, Received
from stmixer.service.ipc.child import KEEPS_FREED_MEMORY, Child, describe_exit
from stmixer.service.ipc.memory import oom_kills
from stmixer.service.ipc.messages import (
    FROM_WORKER,
    AttachRing,
    DetachRing,
    MessageError,
    WorkerBroken,
    WorkerOptions,
    WorkerReady,
    WorkerTells,
)
from stmixer.service.places import Place
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.worker")

WORKER_MODULE = "stmixer.service.worker.process"
MIN_STUCK_S = 10.0
STUCK_FACTOR = 10
COMPILING_S = 600.0
"""How long a batch may take whose shapes a compiler sees for the first time: tens of seconds on an idle machine."""
LAST_WORDS_S = 1.0
"""How long a process whose channel has ended may take to end as well."""


class Shapes(NamedTuple):
    """What a compiler compiles for: the padded clip's width and height, how many clips, and how many new frames."""

    clip: tuple[int, int] | None
    keyframes: int
    new_frames: int


@dataclass(slots=True)
class Batch:
    """What a worker is busy with. ``stale``: the places of keyframes whose frames it did not find, which are its
    business no more; None until it has copied all the others'. ``stuck_at``: when it will have taken far too long.
    ``shapes``: with how many frames it has not seen in a batch before. ``since``: when it could have begun with it."""

    id: int
    keyframes: tuple[Pending, ...]
    stuck_at: float
    shapes: Shapes
    since: float
    stale: set[int] | None = None

    @property
    def running(self) -> list[Pending]:
        """The keyframes that are still its business."""
        stale = self.stale or ()
        return [pending for place, pending in enumerate(self.keyframes) if place not in stale]


class Worker:
    """One worker process. ``warmup_s`` are seconds of a batch by its size, as measured at its start; ``saved`` is the
    part of that which a keyframe does not take where the features of all its frames are known already.

    ``batch`` is the engine's note of what it is busy with, ``alive`` whether it can take one. ``reason`` is why it
    ended, or is about to: exit, stuck, oom, cuda or protocol. ``let_go``: it is ended because nobody needs it.
    """

    def __init__(
        self, name: str, child: Child, model: ModelInfo, warmup_s: dict[int, float], saved: float = 0.0
    ) -> None:
        self.name, self.model, self.warmup_s, self.saved = name, model, warmup_s, saved
        self.batch: Batch | None = None
        self._has_run: set[Shapes] = set()
        self.alive, self.reason, self.let_go = True, "exit", False
        self.channel = child.channel
        self._oom_kills = oom_kills()
        self._child = child

    @classmethod
    async def start(cls, name: str, module: str, options: WorkerOptions) -> Worker:
        """Spawn it and wait for its warm-up. Raises StartError with the reason it gives."""
        child = await Child.spawn(module, FROM_WORKER, [json.dumps(asdict(options))], KEEPS_FREED_MEMORY)
        try:
            while (received := await child.channel.receive()) and isinstance(received.message, WorkerTells):
                log.info("worker %s: %s", name, received.message.message)
        except GarbledError as error:
            await child.kill()
            raise StartError("worker_failed", f"the worker breaks the protocol: {error}") from None
        except ChannelError:
            received = None
        except BaseException:
            await child.kill()
            raise
        if received is None:
            kills, end = oom_kills(), describe_exit(await child.wait())
            why = ", for want of memory: take a smaller model" if oom_kills() > kills else ""
            raise StartError("worker_failed", f"the worker {end} before it was ready{why}")
        ready = received.message
        if not isinstance(ready, WorkerReady):
            await child.end()
            why = ready.message if isinstance(ready, WorkerBroken) else f"the worker begins with {ready}"
            raise StartError("worker_failed", why)
        if ready.warning:
            log.warning(ready.warning)
        model = ModelInfo.from_card(ready.card, ready.device, (ready.runtime, ready.precision, ready.chosen))
        where, warmup_s = f"{model.device} ({ready.runtime}, {ready.precision})", dict(ready.warmup_s)
        speed = ", ".join(f"{n}: {seconds * 1e3:.0f} ms" for n, seconds in warmup_s.items())
        log.info("worker %s: %s on %s, %s; batches of %s", name, model.name, where, ready.chosen, speed)
        return cls(name, child, model, warmup_s, ready.saved)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def compiles(self, shapes: Shapes) -> bool:
        """Whether a batch of these shapes has to be compiled before it runs."""
        return self.model.runtime == "compile" and shapes not in self._has_run

    def ran(self, shapes: Shapes) -> None:
        """A batch of these shapes came back."""
        if self.model.runtime == "compile":
            self._has_run.add(shapes)

    def stuck_after_s(self, shapes: Shapes) -> float:
        """How long a batch may take: many times what one of its size took in the warm-up, or what compiling takes."""
        keyframes, least_s = shapes.keyframes, COMPILING_S if self.compiles(shapes) else MIN_STUCK_S
        measured = max([n for n in self.warmup_s if n <= keyframes], default=min(self.warmup_s))
        seconds = self.warmup_s[measured] * max(1.0, keyframes / measured)
        return max(least_s, STUCK_FACTOR * seconds)

    def give_up(self, reason: str) -> None:
        """Kill it, for this reason; ``listen`` ends with that."""
        self.alive, self.reason = False, reason
        self._child.end_now()

    async def listen(self, on_message: Callable[[Worker, Received], None]) -> str:
        """Hand over what it says until it ends; how it ended, in words.

        A worker that says what it should not is ended: by ``on_message`` with a MessageError, or by the channel.
        """
        try:
            while (received := await self.channel.receive()) is not None:
                on_message(self, received)
        except (MessageError, GarbledError) as error:
            log.error("worker %s breaks the protocol: %s", self.name, error)
            self.reason = "protocol"
        except ChannelError as error:
            log.error("worker %s: %s", self.name, error)
        except Exception:  # ours; but a worker that nobody listens to any more must not stay in service
            log.exception("worker %s: what it said could not be taken", self.name)
            self.reason = "protocol"
        self.alive = False
        status = await self._child.end(LAST_WORDS_S)
        if status == -signal.SIGKILL and self.reason == "exit" and oom_kills() > self._oom_kills:
            self.reason = "oom"
        return describe_exit(status)

    async def attach(self, stream: Stream) -> None:
        """Give it a stream's ring, which stays the stream's, who may close it before this is sent."""
        assert stream.ring is not None
        shape = stream.ring.shape
        with stream.ring.lent() as fd:
            await self.channel.send(AttachRing(stream.id, shape.width, shape.height, shape.capacity), fds=[fd])

    async def detach(self, stream_id: int) -> None:
        """Let it forget a stream's ring."""
        await self.channel.send(DetachRing(stream_id))

    async def stop(self, timeout_s: float) -> None:
        """Let it end by itself, or end it."""
        await self._child.end(timeout_s)


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """What workers load: bundled weights or a variant by name (``model``), or ``weights``: a file, or a name."""

    model: str | None
    weights: Path | None


def _address_of(weights: Path) -> str:
    """A name as it is; a file by its path from the root, for a worker begins elsewhere."""
    return str(weights if weights_named(weights) is not None else weights.absolute())


def worker_options(
    settings: Settings, source: WeightsSource, place: Place, like: ModelInfo | None = None
) -> WorkerOptions:
    """What a worker process is started with. ``like``: how another one runs at such a place, which did choose."""
    options = WorkerOptions(
        model=source.model,
        weights=None if source.weights is None else _address_of(source.weights),
        device=place.device,
        runtime=settings.runtime,
        precision=settings.precision,
        threads=len(place.cores or os.sched_getaffinity(0)),
        max_batch=settings.max_batch,
        cache=None if settings.cache_folder is None else str(settings.cache_folder),
        cores=place.cores,
    )
    if like is None or settings.runtime != "auto" or like.device != "cpu":
        return options
    # graphs by auto: PyTorch steps in where they have been broken since
    runtime = "auto" if like.runtime == "onnx" else like.runtime
    return replace(options, runtime=runtime, precision=like.precision, chosen=like.chosen)
