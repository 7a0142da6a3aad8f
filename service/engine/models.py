"""The models that are served, by name: loaded beside those that serve, chosen from, made the default, forgotten."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.seat import Seat
from stmixer.service.engine.served import ServedModel
from stmixer.service.engine.stream import Stream
from stmixer.service.engine.supervisor import Supervisor
from stmixer.service.engine.worker import Batch, WeightsSource, Worker
from stmixer.service.errors import InputError, StartError
from stmixer.service.ipc.channel import ChannelError, Received
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.models")

MOST_MODELS = 8
"""Side by side: each has workers of its own."""


class Models:
    """``on_message``, ``on_death``, ``on_change``: as ``Supervisor`` has them, with the seat that they are about.

    There is one from the beginning, the settings'; its name is its card's, known once it has started.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        worker_module: str,
        on_message: Callable[[Seat, Worker, Received], None],
        on_death: Callable[[Seat, Worker, Batch | None], None],
        on_change: Callable[[], None],
    ) -> None:
        self._settings, self._metrics, self._worker_module = settings, metrics, worker_module
        self._on_message, self._on_death, self._on_change = on_message, on_death, on_change
        self._by_name: dict[str, ServedModel] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.labels: set[str] = set()
        """Names of the actions that the models know which can serve."""
        self.default = self._by_name[""] = self._made(
            "", WeightsSource(settings.model, settings.weights or settings.watch)
        )

    async def start(self) -> None:
        """Start the first one. Raises StartError when it cannot be served."""
        await self.default.start()
        self.default.name = self.default.info.name
        self._by_name = {self.default.name: self.default}
        self._know_labels()
        self.be_default(self.default)

    async def stop(self) -> None:
        """End all workers, and give up what is being loaded."""
        for loading in self._loading.values():
            loading.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await asyncio.gather(*(served.stop() for served in self._by_name.values()))

    @property
    def all(self) -> list[ServedModel]:
        """In the order in which they came."""
        return list(self._by_name.values())

    @property
    def seats(self) -> list[Seat]:
        """All models'."""
        return [seat for served in self._by_name.values() for seat in served.seats]

    def named(self, name: str) -> ServedModel | None:
        """The model of this name, in whatever state."""
        return self._by_name.get(name)

    def get(self, name: str | None) -> ServedModel:
        """The model of this name, which can serve; the default one without. Raises InputError."""
        if name is None:
            return self.default
        found = self._by_name.get(name)
        if found is None or not found.started:
            there = ", ".join(sorted(served.name for served in self._by_name.values() if served.started))
            raise InputError("unknown_model", f"no model {name!r} serves here; there is {there}")
        return found

    def at(self, seat: Seat) -> ServedModel:
        """The model whose seat this is."""
        return next(served for served in self._by_name.values() if seat in served.seats)

    def of(self, stream: Stream) -> ServedModel:
        """The model that serves a stream now; the default one if it has ended."""
        found = (s for s in self._by_name.values() if any(stream.id in seat.streams for seat in s.seats))
        return next(found, self.default)

    def seat_of(self, stream: Stream) -> Seat:
        """Where a stream is, that has not ended."""
        return next(seat for seat in self.seats if stream.id in seat.streams)

    def load(self, name: str, source: WeightsSource, then: Callable[[str], Awaitable[None]] | None) -> ServedModel:
        """Begin to load one; ``then`` is called with its name once it can serve.

        Raises InputError where one that has not failed has this name, and where there are enough.
        """
        there = self._by_name.get(name)
        if there is not None and there.failed is None:
            raise InputError("model_exists", f"there is a model {name} already; give this one another name", 409)
        if there is None and len(self._by_name) >= MOST_MODELS:
            raise InputError("too_many_models", f"{MOST_MODELS} models are here; forget one of them first", 409)
        served = self._by_name[name] = self._made(name, source)
        loading = self._loading[name] = asyncio.create_task(self._load(served, then))
        loading.add_done_callback(lambda _: self._loading.pop(name, None))
        return served

    async def _load(self, served: ServedModel, then: Callable[[str], Awaitable[None]] | None) -> None:
        try:
            await served.start()
        except (StartError, ChannelError) as error:
            log.error("model %s does not load: %s", served.name, error)
            served.failed = str(error)
            await self._end(served)
            return
        except Exception:  # whatever it is, what serves goes on, and who asked for this one is told
            log.exception("model %s does not load", served.name)
            served.failed = "something went wrong on our side; the log has more"
            await self._end(served)
            return
        self._know_labels()
        log.info("model %s can serve", served.name)
        if then is not None:
            await then(served.name)

    def be_default(self, served: ServedModel) -> None:
        """From now on what names no model is served by this one, which alone has spare workers."""
        former, self.default = self.default, served
        if former is not served:
            former.be_default(default=False)
        served.be_default(default=True)
        self._metrics.model_info.info({"model": served.name, "trained": str(served.info.trained).lower()})

    async def forget(self, name: str) -> None:
        """End a model that serves nobody. Raises InputError where it does, and where there is none."""
        served = self._by_name.get(name)
        if served is None:
            raise InputError("unknown_model", f"there is no model {name!r} here", 404)
        if served.is_default or served.is_in_use:
            why = "is the default: make another one that first" if served.is_default else "has streams"
            raise InputError("model_in_use", f"{name} {why}", 409)
        if (loading := self._loading.get(name)) is not None:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        if served.is_in_use or served.is_default:  # it became so meanwhile
            raise InputError("model_in_use", f"{name} has streams", 409)
        if self._by_name.get(name) is served:
            del self._by_name[name]
            self._know_labels()
            await self._end(served)

    def _know_labels(self) -> None:
        self.labels.clear()
        self.labels.update(label.name for s in self._by_name.values() if s.started for label in s.info.labels)

    async def _end(self, served: ServedModel) -> None:
        await served.stop()
        for seat in served.seats:
            self._metrics.forget_worker(seat.name)

    def _made(self, name: str, source: WeightsSource) -> ServedModel:
        """A model with its seats, whose numbers no other one has."""
        settings, metrics = self._settings, self._metrics
        taken = {seat.name for seat in self.seats}
        numbers = (str(number) for number in itertools.count() if str(number) not in taken)
        seats = [
            Seat(next(numbers), place, Scheduler(settings.max_batch, settings.batch_wait_ms / 1000))
            for place in settings.places
        ]
        supervisors = [
            Supervisor(
                settings, metrics, source, seat, on_message=partial(self._on_message, seat),
                on_death=partial(self._on_death, seat), on_change=self._on_change, worker_module=self._worker_module,
            )
            for seat in seats
        ]  # fmt: skip
        for seat in seats:
            metrics.begin_worker(seat.name)
            metrics.seat_streams.labels(seat.name).set_function(partial(len, seat.streams))
            metrics.seat_capacity.labels(seat.name).set_function(partial(_offered, seat))
        return ServedModel(name, source, seats, supervisors)


def _offered(seat: Seat) -> int:
    return 0 if seat.worker is None else seat.capacity
