"""Who is let in: whether there is room for one more stream, of a model or of whoever asks, and which number it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from stmixer.service.engine.admission import fits_share
from stmixer.service.engine.models import Models
from stmixer.service.engine.seat import Seat
from stmixer.service.engine.stream import Policy, Stream
from stmixer.service.errors import CapacityError
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings


class Entry:
    """``streams``: those that run, by their numbers, of which ``first_stream`` is the first. ``draining``: nobody is
    let in any more. ``room`` is set where a stream has gone; whoever waits for room clears it.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, models: Models, streams: Mapping[int, Stream], first_stream: int
    ) -> None:
        self._settings, self._metrics, self._models, self._streams = settings, metrics, models, streams
        self._newest = first_stream - 1
        self.draining, self.room = False, asyncio.Event()

    @property
    def capacity(self) -> int:
        """Streams at a time: the operator's word, else streams of one keyframe a second as they were measured."""
        if self._settings.max_streams is not None:
            return self._settings.max_streams
        return sum(seat.capacity for seat in self._models.default.in_service)

    def has_room(
        self, policy: Policy, keyframe_hz: float, besides: Collection[int] = (), model: str | None = None
    ) -> bool:
        """Whether one more stream of a model fits; ``besides``: ids of those that would not be there then.

        Raises InputError where there is no such model.
        """
        served = self._models.get(model)
        if self._settings.max_streams is not None:
            return len(self._streams.keys() - set(besides)) < self._settings.max_streams
        return any(
            seat.fits(policy, keyframe_hz, besides, elsewhere=self._taken_beside(seat, besides))
            for seat in served.in_service
        )

    def _taken_beside(self, seat: Seat, besides: Collection[int]) -> float:
        """The part of a seat's device that other models' streams take."""
        return sum(o.load(besides) for o in self._models.seats if o is not seat and o.place == seat.place)

    def has_share(self, own: Collection[int], policy: Policy, keyframe_hz: float, percent: int) -> bool:
        """Whether one more stream fits the part of the capacity that those with ids ``own`` may take together."""
        theirs = [stream for stream in self._streams.values() if stream.id in own]
        running = [self._models.seat_of(stream).weight(stream.policy, stream.schedule.hz) for stream in theirs]
        wanted = self._models.default.seats[0].weight(policy, keyframe_hz)
        return fits_share(running, wanted, self.capacity, percent, weighed=self._settings.max_streams is None)

    def check_room(
        self, policy: Policy, keyframe_hz: float, besides: Collection[int] = (), model: str | None = None, *,
        though_draining: bool = False,
    ) -> None:  # fmt: skip
        """Raises CapacityError while full or draining; see ``has_room``."""
        if not though_draining:
            self.check_staying()
        if not self.has_room(policy, keyframe_hz, besides, model):
            self._metrics.streams_rejected.labels("capacity").inc()
            unit = "streams" if self._settings.max_streams is not None else "keyframes a second"
            raise CapacityError("capacity", f"all {self.capacity} {unit} are in use; try again later")

    def check_staying(self) -> None:
        """Raises CapacityError while draining."""
        if self.draining:
            self._metrics.streams_rejected.labels("draining").inc()
            raise CapacityError("draining", "the service is shutting down; try another instance")

    def admit(
        self,
        policy: Policy,
        keyframe_hz: float,
        model: str | None = None,
        *,
        though_draining: bool = False,
        number: int | None = None,
    ) -> int:
        """A new stream's id, ``number`` where it has one. Raises CapacityError while full or draining, InputError where
        there is no such model."""
        self.check_room(policy, keyframe_hz, model=model, though_draining=though_draining)
        if number is not None:
            return number
        self._newest += 1
        return self._newest
