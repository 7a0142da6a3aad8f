"""Events to an MQTT broker, and what it keeps for those who come later: whether the service is there, whether a rule's
event is open, and how Home Assistant finds that (docs/events.md, Topics).

Retained is what concerns streams with names, which return; the others leave nothing behind at the broker. What nobody
wants any more is taken away after a while, also where a process before left it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from stmixer.service.event_schemas import Rule
from stmixer.service.events.broker import Broker, BrokerGone
from stmixer.service.events.delivery import Refusal
from stmixer.service.events.home_assistant import config_topic, sensor
from stmixer.service.events.ledger import Ledger
from stmixer.service.events.names import RuleOfStream
from stmixer.service.events.retained import Retained
from stmixer.service.events.spool import ReceiverName, Waiting
from stmixer.service.events.topics import OFF, OFFLINE, ON, ONLINE, Topics

UNWANTED_S = 60.0
"""How long what a stream has retained stays after it: it may begin again."""
FAREWELL_S = 2.0


class Mqtt:
    """A receiver. ``run`` it; ``show`` it what there is. ``discovery``: Home Assistant's prefix, empty for none."""

    name: ReceiverName = "mqtt"
    tells_outages = True

    def __init__(self, broker: Broker, topics: Topics, discovery: str, ledger: Ledger) -> None:
        self._broker, self._topics, self._discovery, self._ledger = broker, topics, discovery, ledger
        self.found: Callable[[], None] = lambda: None
        self._wanted: dict[RuleOfStream, Rule] = {}
        self._told: dict[RuleOfStream, Rule] = {}
        self._retained: dict[RuleOfStream, Retained] = {}
        self._unwanted_at: dict[RuleOfStream, float] = {}
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._leaving = False

    async def start(self) -> None:
        """Begin to connect."""
        self._retained = await self._ledger.do(self._ledger.store.retained.all)
        self._unwanted_at = dict.fromkeys(self._retained, time.monotonic())
        self._task = asyncio.create_task(self._broker.run(self._talk))

    async def close(self) -> None:
        """Say farewell, where anybody listens."""
        self._leaving = True
        with contextlib.suppress(BrokerGone, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._broker.publish(self._topics.available, OFFLINE, retain=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def show(self, wanted: Mapping[RuleOfStream, Rule]) -> None:
        """These are the rules of streams with names, now."""
        now = time.monotonic()
        for which in self._wanted.keys() - wanted.keys():
            self._unwanted_at[which] = now
        for which in wanted:
            self._unwanted_at.pop(which, None)
        self._wanted = dict(wanted)
        self._changed.set()

    async def send(self, message: Waiting) -> Refusal | None:
        """The event, then the state that comes of it."""
        which = message.of
        async with self._turn:
            try:
                await self._broker.publish(self._topics.event(which.stream.name, which.rule), message.body)
                await self._say_state_after(message)
            except BrokerGone as gone:
                return Refusal(str(gone), gone.reached)
        return None

    async def give_up(self, message: Waiting) -> None:
        """The state that would have come of the event: else it would stay what it was before."""
        async with self._turn:
            with contextlib.suppress(BrokerGone):  # with the next connection it comes by itself
                await self._say_state_after(message)

    async def _say_state_after(self, message: Waiting) -> None:
        if self._has_state(message.of):
            await self._say_state(message.of, is_on=message.is_on)

    def _has_state(self, which: RuleOfStream) -> bool:
        """Not where its stream has no name, or another owner's has that name now."""
        if which in self._wanted or which not in self._retained:
            return which in self._retained
        taken = ((one.stream.name, one.rule) for one in self._wanted)
        return (which.stream.name, which.rule) not in taken

    # -- what the broker keeps

    async def _talk(self) -> None:
        """While there is a connection: all of it, then what changes. Raises BrokerGone."""
        self._told = {}
        async with self._turn:
            await self._keep_up()
            if not self._leaving:
                await self._broker.publish(self._topics.available, ONLINE, retain=True)
        self.found()
        while True:
            until = min(self._unwanted_at.values(), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if until is None else until + UNWANTED_S):
                    await self._changed.wait()
            self._changed.clear()
            async with self._turn:
                await self._keep_up()

    async def _keep_up(self) -> None:
        now = time.monotonic()
        for which, at in list(self._unwanted_at.items()):
            if at + UNWANTED_S <= now:
                await self._take_away(which)
        new = {which: rule for which, rule in self._wanted.items() if self._told.get(which) != rule}
        if not new:
            return
        store = self._ledger.store
        opened = await self._ledger.do(store.retained.rules_open)
        waiting = await self._ledger.do(store.spool.rules_waiting, self.name)
        for which, rule in new.items():
            await self._introduce(which, rule)
            if which not in waiting:  # else the state comes with what waits
                await self._say_state(which, is_on=which in opened)
            self._told[which] = rule

    async def _introduce(self, which: RuleOfStream, rule: Rule) -> None:
        name = which.stream.name
        config = config_topic(self._discovery, self._topics, name, rule.id) if self._discovery else ""
        topics, before = Retained(self._topics.state(name, rule.id), config), self._retained.get(which)
        if before != topics:
            if before is not None:  # by settings of before
                await self._empty(before, besides=topics)
            await self._ledger.do(self._ledger.store.retained.add, which, topics)
            self._retained[which] = topics
        if config:
            payload = sensor(self._topics, name, rule).model_dump_json(exclude_none=True)
            await self._broker.publish(config, payload, retain=True)

    async def _take_away(self, which: RuleOfStream) -> None:
        topics = self._retained.get(which)
        if topics is not None:
            others = {other.state_topic for key, other in self._retained.items() if key != which}
            if topics.state_topic not in others:  # another owner's stream may have the name now
                await self._empty(topics)
            await self._ledger.do(self._ledger.store.retained.remove, which)
            del self._retained[which]
        self._told.pop(which, None)
        self._unwanted_at.pop(which, None)

    async def _empty(self, topics: Retained, besides: Retained | None = None) -> None:
        kept = ("",) if besides is None else ("", besides.config_topic, besides.state_topic)
        for topic in (topics.config_topic, topics.state_topic):
            if topic not in kept:
                await self._broker.publish(topic, "", retain=True)

    async def _say_state(self, which: RuleOfStream, *, is_on: bool) -> None:
        topic = self._topics.state(which.stream.name, which.rule)
        await self._broker.publish(topic, ON if is_on else OFF, retain=True)
