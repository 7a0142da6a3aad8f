"""``Service`` as one of several: what is asked of one is answered for all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import generate_latest

from stmixer.service.access import Access, Caller
from stmixer.service.api.service import Service
from stmixer.service.cluster.ages import Lateness, RecentAge
from stmixer.service.cluster.joined import joined_metrics
from stmixer.service.cluster.member import Member
from stmixer.service.cluster.orders import Order, PullRefusal
from stmixer.service.cluster.placing import RANGE
from stmixer.service.errors import AccessError, CapacityError, InputError
from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.store import Page, Wanted
from stmixer.service.metrics import Scraped
from stmixer.service.pulled_url import parse_url
from stmixer.service.schemas import DrawProgress, Pulled, PullOrder, RunningStream, Summary
from stmixer.service.sessions.pulled_stream import PulledStream
from stmixer.service.sessions.session import Session
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.cluster")


@dataclass(frozen=True, slots=True)
class Replies:
    """What replicas have answered, and how many have not."""

    answers: list[Any]
    unanswered: int = 0


Ask = Callable[..., Awaitable[Replies]]
"""A replica's verb and its arguments; what all of them answer."""


class ClusterService(Service):
    """``number`` is the replica's, whose streams have numbers of their own; ``ask`` asks all replicas; with keyframes
    older than ``late_s`` it is late."""

    models_change = False

    def __init__(
        self, settings: Settings, member: Member, number: int, access: Access, ask: Ask, late_s: float
    ) -> None:
        # the streams of the file are placed as others are
        alone = settings.model_copy(update={"streams": None})
        super().__init__(alone, access=access, home=member.name, first_stream=number * RANGE + 1)
        self._member, self._ask = member, ask
        self._fetched: dict[int, tuple[Order, PulledStream]] = {}
        self._age = RecentAge(self.metrics.keyframe_age)
        self._lateness = Lateness(RecentAge(self.metrics.keyframe_age), late_s)

    # -- for all of them

    async def all_running(self, caller: Caller) -> list[RunningStream]:
        """As there, of every replica, and what is to be fetched but runs nowhere, or where nobody answers."""
        told = await self._ask("list_streams", _owner(caller), sees_all=caller.sees_all)
        streams = [RunningStream.model_validate_json(text) for texts in told.answers for text in texts]
        there = {stream.id for stream in streams}
        try:
            orders = await self._member.placed(_owner(caller), sees_all=caller.sees_all)
        except CapacityError as error:
            log.warning("streams that move are not listed: %s", error)
            orders = ()
        streams += [self._waiting(order) for order in orders if str(order.number) not in there]
        return sorted(streams, key=lambda stream: int(stream.id))

    def _waiting(self, order: Order) -> RunningStream:
        """A stream that is to be fetched and is nowhere yet."""
        wanted = PullOrder.model_validate_json(order.text)
        try:
            key = self.access.holder(order.owner).name if order.owner else None
        except AccessError:
            key = None
        waits = Pulled(
            name=wanted.name, url=str(parse_url(wanted.url)), state="connecting", since_us=round(time.time() * 1e6),
            error="no replica has it now", code="moving", attempts=0, reconnects=0, silent_ms=None, freshness_ms=None,
            capture_age_ms=None, frame=None, codec=None,
        )  # fmt: skip
        return RunningStream(
            id=str(order.number), source="pull", policy="latest", keyframe_hz=wanted.options().keyframe_hz, key=key,
            seconds=0, summary=Summary(), pulled=waits,
        )  # fmt: skip

    async def all_missing_walls(self) -> tuple[str, ...]:
        """As there, each behind the name of its replica."""
        told = await self._ask("list_walls")
        return tuple(f"{name}: {wall}" for name, walls in sorted(told.answers) for wall in walls)

    async def drawn_so_far(self, request_id: str, caller: Caller) -> DrawProgress:
        """As there. Where a replica does not answer it may be that one's: CapacityError."""
        if (here := self.drawn_here(request_id, caller)) is not None:
            return here
        told = await self._ask("find_drawing", request_id, _owner(caller))
        if (found := next((text for text in told.answers if text), None)) is not None:
            return DrawProgress.model_validate_json(found)
        if told.unanswered:
            raise CapacityError("slow_replica", "a replica does not answer; ask again", 503, 1)
        return self.drawings.find(request_id, caller).progress()  # raises: there is none

    async def measured(self, accept: str) -> Scraped:
        """As there, of every replica, in Prometheus' first form whatever is asked for."""
        told = await self._ask("scrape")
        text = await asyncio.to_thread(joined_metrics, dict(told.answers), told.unanswered)
        return Scraped.plain(text.encode())

    async def events_page(self, wanted: Wanted) -> Page:
        """As there, of every replica, in one page. Raises InputError for another one."""
        if wanted.before is not None or wanted.after is not None:
            raise InputError("bad_option", "in a cluster events come in one page, without before and after")
        told = await self._ask("list_events", wanted)
        events = [Event.model_validate_json(text) for texts in told.answers for text in texts]
        events.sort(key=lambda event: event.started_at_us, reverse=True)
        return Page(tuple(events[: wanted.limit]), None, 0)

    async def begin_pulled(self, caller: Caller, order: PullOrder) -> RunningStream:
        """As there, at the replica that the coordinator says."""
        self._pull_terms(order, _owner(caller) or None)
        answer = await self._member.place(order.model_dump_json(exclude_unset=True), _owner(caller))
        if isinstance(answer, PullRefusal):
            raise answer.error()
        return RunningStream.model_validate_json(answer)

    async def check_moving(self, number: int, caller: Caller) -> None:
        """As there: it is on its way to another replica, or is at one that has just died."""
        if number in self.fetched:  # it is here, and another key's
            return
        if await self._member.knows(number, _owner(caller), sees_all=caller.sees_all):
            raise _moving()

    async def end_pulled(self, stream: PulledStream) -> None:
        """As there: nobody fetches it any more."""
        await self._member.forget(stream.id, "", sees_all=True)
        await self.end(stream.id, moves=False)

    async def end_waiting(self, number: int, caller: Caller) -> bool:
        """As there."""
        if number in self.fetched:
            return False
        return await self._member.forget(number, _owner(caller), sees_all=caller.sees_all)

    async def set_rules(self, session: Session, rules: Sequence[Rule]) -> None:
        """As there, and wherever the stream goes from here."""
        await super().set_rules(session, rules)
        if (found := self._fetched.get(session.stream.id)) is None:  # it only begins, or is no pulled one
            return
        order, stream = found
        wanted = PullOrder.model_validate_json(order.text).model_copy(update={"rules": tuple(rules)})
        changed = replace(order, text=wanted.model_dump_json(exclude_unset=True))
        if not await self._member.change(order.number, changed.text):
            raise _moving()
        self._fetched[order.number] = changed, stream

    # -- what others ask of this one

    def listed(self, owner: str, *, sees_all: bool) -> list[str]:
        """What runs here of the holder of a key (its hash), or of everybody, as JSON."""
        caller = self.access.nobody if sees_all else self.access.holder(owner)
        return [stream.model_dump_json() for stream in self.running(caller)]

    def drawn_here(self, request_id: str, caller: Caller) -> DrawProgress | None:
        """How far one of the caller's videos has come that is drawn here."""
        try:
            return self.drawings.find(request_id, caller).progress()
        except InputError:
            return None

    def drawing_found(self, request_id: str, owner: str) -> str:
        """The same as JSON, of the holder of a key (its hash), or of anybody where no keys are; "" where none is."""
        try:
            caller = self.access.holder(owner) if owner else self.access.caller(None)
        except AccessError:  # a key that is not known here has nothing here
            return ""
        found = self.drawn_here(request_id, caller)
        return "" if found is None else found.model_dump_json()

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
        self._fetched = {number: found for number, found in self._fetched.items() if number in there}
        return frozenset(self._fetched)

    @property
    def over(self) -> frozenset[int]:
        """As ``Fetching``."""
        return frozenset(number for number, (_, stream) in self._fetched.items() if stream.is_over)

    @property
    def others(self) -> int:
        """As ``Fetching``."""
        return len(self.engine.streams) - len(self.fetched)

    @property
    def capacity(self) -> int:
        """As ``Fetching``."""
        return self.engine.entry.capacity

    @property
    def late(self) -> bool:
        """As ``Fetching``."""
        return self._lateness.look()

    @property
    def keyframe_age_s(self) -> float:
        """How old keyframes were when they were told, since this was asked last."""
        return self._age.look()

    async def fetch(self, order: Order) -> str:
        """As ``Fetching``."""
        caller = self.access.holder(order.owner) if order.owner else self.access.nobody
        wanted = PullOrder.model_validate_json(order.text)
        # of one that lasts a file that is missing is told of as its state: it may come back
        stream = await self.pull(caller, wanted, order.number, must_be_there=not order.lasts)
        self._fetched[order.number] = order, stream
        return stream.running().model_dump_json()

    async def end(self, number: int, *, moves: bool) -> None:
        """As ``Fetching``."""
        if (found := self._fetched.pop(number, None)) is not None:
            await self.pulled.remove(found[1], moves=moves)

    async def leave(self) -> None:
        """Serve stops this replica: let others fetch what it did, and end in time as a service does."""
        self.begin_drain()
        await self._member.leave(self)
        await asyncio.shield(self.drain())


def _moving() -> CapacityError:
    return CapacityError("moving", "the stream moves to another replica; ask again", 503, 1)


def _owner(caller: Caller) -> str:
    """The hash of a caller's key; "" where no keys are."""
    return "" if caller.key is None else caller.key.sha256
