"""``Service`` as one of several: what is asked of one is answered for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from stmixer.service.access import Access, Caller
from stmixer.service.api.service import Service
from stmixer.service.cluster.ages import RecentAge
from stmixer.service.cluster.joined import JoinedMetrics
from stmixer.service.cluster.member import Member
from stmixer.service.cluster.placing import RANGE, Order, PullRefusal
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.event_schemas import Event
from stmixer.service.events.store import Page, Wanted
from stmixer.service.schemas import PullOrder, RunningStream
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.cluster")

Ask = Callable[..., Awaitable[list[Any]]]
"""A replica's verb and its arguments; what all of them answer."""


class ClusterService(Service):
    """``number`` is the replica's, whose streams have numbers of their own; ``ask`` asks all replicas."""

    models_change = False

    def __init__(self, settings: Settings, member: Member, number: int, access: Access, ask: Ask) -> None:
        # the streams of the file are placed as others are
        alone = settings.model_copy(update={"streams": None})
        super().__init__(alone, access=access, home=member.name, first_stream=number * RANGE + 1)
        self._member, self._ask = member, ask
        self._fetched: dict[int, PulledStream] = {}
        self._age = RecentAge(self.metrics.keyframe_age)

    # -- for all of them

    async def all_running(self, caller: Caller) -> list[RunningStream]:
        """As there, of every replica."""
        told = await self._ask("list_streams", _owner(caller), sees_all=caller.sees_all)
        streams = [RunningStream.model_validate_json(text) for texts in told for text in texts]
        return sorted(streams, key=lambda stream: int(stream.id))

    async def measured(self) -> Collector:
        """As there, of every replica."""
        return JoinedMetrics(dict(await self._ask("scrape")))

    async def events_page(self, wanted: Wanted) -> Page:
        """As there, of every replica, in one page. Raises InputError for another one."""
        if wanted.before is not None or wanted.after is not None:
            raise InputError("bad_option", "in a cluster events come in one page, without before and after")
        told = await self._ask("list_events", wanted)
        events = [Event.model_validate_json(text) for texts in told for text in texts]
        events.sort(key=lambda event: event.started_at_us, reverse=True)
        return Page(tuple(events[: wanted.limit]), None, 0)

    async def begin_pulled(self, caller: Caller, order: PullOrder) -> RunningStream:
        """As there, at the replica that the coordinator says."""
        self._pull_terms(order, _owner(caller) or None)
        answer = await self._member.place(order.model_dump_json(exclude_unset=True), _owner(caller))
        if isinstance(answer, PullRefusal):
            raise answer.error()
        return RunningStream.model_validate_json(answer)

    async def check_moving(self, number: int) -> None:
        """As there: it is on its way to another replica, or is at one that has just died."""
        if number not in self.fetched and await self._member.knows(number):  # else it is here, and another key's
            raise CapacityError("moving", "the stream moves to another replica; ask again", 503, 1)

    async def end_pulled(self, stream: PulledStream) -> None:
        """As there: nobody fetches it any more."""
        await self._member.forget(stream.id)
        await self.end(stream.id)

    # -- what others ask of this one

    def listed(self, owner: str, *, sees_all: bool) -> list[str]:
        """What runs here of the holder of a key (its hash), or of everybody, as JSON."""
        caller = self.access.nobody if sees_all else self.access.holder(owner)
        return [stream.model_dump_json() for stream in self.running(caller)]

    def scraped(self) -> str:
        """What is measured here."""
        return generate_latest(self.metrics.registry).decode()

    async def events_listed(self, wanted: Wanted) -> list[str]:
        """What has come of rules here."""
        return [event.model_dump_json() for event in (await self.events.page(wanted)).events]

    # -- what is placed here (``Fetching``)

    @property
    def fetched(self) -> frozenset[int]:
        """As ``Fetching``."""
        there = {stream.id for stream in self.pulled.all()}
        self._fetched = {number: stream for number, stream in self._fetched.items() if number in there}
        return frozenset(self._fetched)

    @property
    def others(self) -> int:
        """As ``Fetching``."""
        return len(self.engine.streams) - len(self.fetched)

    @property
    def capacity(self) -> int:
        """As ``Fetching``."""
        return self.engine.capacity

    @property
    def keyframe_age_s(self) -> float:
        """How old keyframes were when they were told, since this was asked last."""
        return self._age.look()

    async def fetch(self, order: Order) -> str:
        """As ``Fetching``."""
        caller = self.access.holder(order.owner) if order.owner else self.access.nobody
        wanted = PullOrder.model_validate_json(order.text)
        stream = await self.pull(caller, wanted, order.number)
        self._fetched[order.number] = stream
        return stream.running().model_dump_json()

    async def end(self, number: int) -> None:
        """As ``Fetching``."""
        stream = self._fetched.pop(number, None)
        if stream is not None:
            await self.pulled.remove(stream)

    async def leave(self) -> None:
        """Serve stops this replica: let others fetch what it did, and end in time as a service does."""
        self.begin_drain()
        await self._member.leave(self)
        await asyncio.shield(self.drain())


def _owner(caller: Caller) -> str:
    """The hash of a caller's key; "" where no keys are."""
    return "" if caller.key is None else caller.key.sha256
