"""Keeps a seat filled: a worker in service, a warm one behind it. Says who died, and nothing else of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.seat import Seat
from stmixer.service.engine.worker import WORKER_MODULE, Batch, WeightsSource, Worker, worker_options
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import ChannelError, Received
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.supervisor")

MAX_DEATHS_PER_MINUTE = 5
SPARE_RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class Loads:
    """The file that workers load, and its SHA-256; None of neither."""

    file: Path | None
    digest: str | None

    def check(self) -> None:
        """Raises StartError where another file lies there by now: its results would go by the old one's name."""
        if self.file is not None and sha256_of(self.file) != self.digest:
            raise StartError(
                "weights_changed",
                f"{self.file} is another file than the one that is served: put that back, or load this one as another "
                "model (POST /v1/models, --watch)",
            )


def sha256_of(path: Path) -> str:
    """Of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Supervisor:
    """``on_message`` gets what a worker says, ``on_death`` who died with which batch, ``on_change`` is called when one
    takes over or dies.

    Importing torch and loading a model take seconds, so a spare has done both and only needs the rings.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        source: WeightsSource,
        seat: Seat,
        *,
        on_message: Callable[[Worker, Received], None],
        on_death: Callable[[Worker, Batch | None], None],
        on_change: Callable[[], None],
        worker_module: str = WORKER_MODULE,
    ) -> None:
        self._settings, self._metrics, self._source, self._seat = settings, metrics, source, seat
        self._keeps_spare = False
        self.loads = Loads(None, None)
        self._on_message, self._on_death, self._on_change = on_message, on_death, on_change
        self._worker_module = worker_module
        self._deaths: list[float] = []
        self._look = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, like: ModelInfo | None = None) -> None:
        """Start the first worker. Raises StartError when it cannot serve the model.

        ``like``: how that of another seat runs, at such a place.
        """
        await self._start_spare(like)
        await self._promote()
        self._spawn(self._keep())
        self._look.set()

    def keep_spare(self, *, wanted: bool) -> None:
        """Whether there is to be one: a model that few streams have needs none."""
        self._keeps_spare = wanted and self._settings.spare_workers > 0
        self._let_go()
        self._look.set()

    def _let_go(self) -> None:
        seat = self._seat
        if not self._keeps_spare and seat.spare is not None and seat.worker is not None:
            spare, seat.spare = seat.spare, None  # so that it takes over from nobody while it ends
            spare.let_go = True
            spare.give_up("exit")

    async def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        workers = (self._seat.worker, self._seat.spare)
        await asyncio.gather(*(worker.stop(timeout_s=1.0) for worker in workers if worker is not None))

    @property
    def ready(self) -> bool:
        """Whether one is in service, and they do not keep dying."""
        return self._seat.worker is not None and len(self._recent_deaths()) <= MAX_DEATHS_PER_MINUTE

    # -- one in service, one behind it

    async def _keep(self) -> None:
        """Put in place whatever is missing: first the worker in service, from the spare if there is one."""
        seat = self._seat
        while True:
            await self._look.wait()
            self._look.clear()
            while seat.worker is None or (seat.spare is None and self._keeps_spare):
                if seat.worker is None and seat.spare is not None:
                    await self._promote()
                else:
                    await self._replace()

    async def _replace(self) -> None:
        """Start another one, the later the more have died."""
        self._seat.spare_is_coming = self._seat.worker is not None
        self._on_change()
        try:
            await asyncio.sleep(min(5.0, 0.1 * 2 ** len(self._recent_deaths())))
            await self._start_spare()
            self._let_go()
        except (StartError, ChannelError, OSError) as error:
            log.error("a worker does not start: %s", error)
            if self._seat.worker is None:
                self._deaths.append(time.monotonic())
            else:  # the one in service goes on without a spare
                self._seat.spare_is_coming = False
                self._on_change()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SPARE_RETRY_S):
                        await self._look.wait()
        finally:
            self._seat.spare_is_coming = False
            self._on_change()

    async def _start_spare(self, like: ModelInfo | None = None) -> None:
        """Start a worker as the spare. Raises StartError, and where the file is not the one any more that is served."""
        await asyncio.to_thread(self.loads.check)
        options = worker_options(self._settings, self._source, self._seat.place, self._seat.model or like)
        worker = await Worker.start(self._seat.name, self._worker_module, options)
        self._seat.spare = worker
        self._spawn(self._watch(worker))

    async def _promote(self) -> None:
        """Have the spare in service."""
        await self._seat.promote()
        if (worker := self._seat.worker) is not None:
            self._metrics.worker_up.labels(worker.name).set(1)
            self._on_change()

    async def _watch(self, worker: Worker) -> None:
        """Until a worker dies, and then say so."""
        end = await asyncio.create_task(worker.listen(self._on_message))
        if worker.let_go:
            log.info("worker %s (pid %d) is not needed any more", worker.name, worker.pid)
            return
        role = "in service" if worker is self._seat.worker else "spare"
        log.error("worker %s (%s, pid %d) %s: %s", worker.name, role, worker.pid, end, worker.reason)
        self._deaths = [*self._recent_deaths(), time.monotonic()]
        self._metrics.worker_restarts.labels(worker.name, worker.reason).inc()
        if worker is self._seat.worker:
            self._seat.worker = None
            self._metrics.worker_up.labels(worker.name).set(0)
        elif worker is self._seat.spare:
            self._seat.spare = None
        self._on_death(worker, worker.batch)
        self._look.set()
        self._on_change()

    def _recent_deaths(self) -> list[float]:
        return [t for t in self._deaths if time.monotonic() - t < 60]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
