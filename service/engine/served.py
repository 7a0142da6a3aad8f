"""Weights that are served: a seat for them at each place, and who keeps it filled. Several may stand side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from stmixer.model.bundled import DEFAULT
from stmixer.model.named import weights_named
from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.seat import Seat
from stmixer.service.engine.stream import Stream
from stmixer.service.engine.supervisor import Loads, Supervisor, sha256_of
from stmixer.service.engine.worker import WeightsSource
from stmixer.service.errors import StartError
from stmixer.service.ipc.channel import ChannelError

ModelState = Literal["loading", "ready", "serving", "failed"]


class ServedModel:
    """``name`` is what it is asked for by, ``digest`` the SHA-256 of its file, where it has one. ``failed`` says why it
    did not start. ``is_default``: streams that name no model are served by it, and it alone has spare workers.
    """

    def __init__(
        self, name: str, source: WeightsSource, seats: Sequence[Seat], supervisors: Sequence[Supervisor]
    ) -> None:
        self.name, self.source, self.seats = name, source, tuple(seats)
        self._supervisors = tuple(supervisors)
        self.failed: str | None = None
        self.digest: str | None = None
        self._is_default = False

    async def start(self) -> None:
        """Start a worker at every seat. Raises StartError when one cannot serve the model.

        Those after the first run as the first has chosen to, where their devices are alike.
        """
        file = file_of(self.source)
        try:
            self.digest = None if file is None else await asyncio.to_thread(sha256_of, file)
        except OSError as error:
            raise StartError("weights", f"{file} cannot be read: {error.strerror or error}") from None
        for supervisor in self._supervisors:
            supervisor.loads = Loads(file, self.digest)
        first, *others = self._supervisors
        await first.start()
        first_at = self.seats[0].place.device
        alike = [self.info if seat.place.device == first_at else None for seat in self.seats[1:]]
        try:
            async with asyncio.TaskGroup() as group:  # one that fails takes the others with it
                for workers, like in zip(others, alike, strict=True):
                    group.create_task(workers.start(like))
        except* (StartError, ChannelError) as errors:
            raise errors.exceptions[0] from None

    async def stop(self) -> None:
        """End all its workers."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors))

    @property
    def is_default(self) -> bool:
        """See the class."""
        return self._is_default

    def be_default(self, *, default: bool) -> None:
        """Have spare workers, or let them go."""
        self._is_default = default
        for supervisor in self._supervisors:
            supervisor.keep_spare(wanted=default)

    @property
    def info(self) -> ModelInfo:
        """What it is. Not before it has started."""
        info = self.seats[0].model
        assert info is not None, f"{self.name} has not started"
        return info

    @property
    def started(self) -> bool:
        """Whether a worker has warmed up at every seat, once."""
        return all(seat.model is not None for seat in self.seats) and self.failed is None

    @property
    def ready(self) -> bool:
        """Whether a worker is up at a seat that does not keep losing them."""
        return any(supervisor.ready for supervisor in self._supervisors)

    @property
    def state(self) -> ModelState:
        """``ready``: it could serve, and serves nobody."""
        if self.failed is not None:
            return "failed"
        if not self.started:
            return "loading"
        return "serving" if self.is_default or self.is_in_use else "ready"

    @property
    def is_in_use(self) -> bool:
        """Whether it has streams, or finishes what it has begun for some that it had."""
        return any(seat.streams or (seat.worker is not None and seat.worker.batch is not None) for seat in self.seats)

    @property
    def device(self) -> str:
        """What its seats run on, with commas."""
        return ",".join(seat.model.device for seat in self.seats if seat.model is not None)

    @property
    def in_service(self) -> list[Seat]:
        """The seats that have a worker; all of them where none has."""
        return [seat for seat in self.seats if seat.worker is not None] or list(self.seats)

    def roomiest(self, stream: Stream) -> Seat:
        """The seat for a stream: of those in service that of which least would be taken; of like ones the emptiest."""
        terms = stream.policy, stream.schedule.hz
        return min(self.in_service, key=lambda seat: (round(seat.taken(*terms), 1), len(seat.streams)))

    def takes_streams_of(self, other: ServedModel) -> bool:
        """Whether a stream may go from ``other`` to this one while it runs: it is sampled, seen and told alike."""
        if not other.started:
            return False
        ours, theirs = self.info, other.info
        return (
            (ours.config.clip, ours.config.preprocess, ours.labels)
            == (theirs.config.clip, theirs.config.preprocess, theirs.labels)
            and ours.config.backbone.per_frame == theirs.config.backbone.per_frame
            and ours.config.long_term == theirs.config.long_term
        )  # fmt: skip


def file_of(source: WeightsSource) -> Path | None:
    """The file that workers load; None of a variant with initial weights."""
    if source.weights is not None and weights_named(source.weights) is None:
        return source.weights
    named = weights_named(source.weights or source.model or DEFAULT)
    return None if named is None else named.file
