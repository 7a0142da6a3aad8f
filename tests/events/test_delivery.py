"""Messages that a receiver cannot take, whatever it is: they hold up no others, and end; what is logged of them; and
what a broker keeps of those that never came."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from scenes import T0_US, event

from stmixer.service.event_schemas import Rule
from stmixer.service.events.broker import BrokerGone
from stmixer.service.events.delivery import GIVE_UP_S, Delivery, Refusal
from stmixer.service.events.ledger import Ledger
from stmixer.service.events.mqtt import Mqtt
from stmixer.service.events.names import RuleOfStream, StreamName
from stmixer.service.events.spool import ReceiverName, Waiting
from stmixer.service.events.store import Change, Store
from stmixer.service.events.topics import Topics
from stmixer.service.metrics import Metrics

HALL = StreamName("", "hall")
FALL = Rule(id="fall", label="fall", for_s=0, clear_s=0)
EVENT, STATE = "stmixer/hall/fall/event", "stmixer/hall/fall/state"


@dataclass
class PickyBroker:
    """Takes what it likes, and is always there. ``gone``: what it says of the topics that it does not."""

    gone: BrokerGone
    refuses: set[str] = field(default_factory=set)
    heard: list[tuple[str, str]] = field(default_factory=list)
    talks: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, talk: Callable[[], Awaitable[None]]) -> None:
        await talk()

    async def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        if topic in self.refuses:
            raise self.gone
        self.heard.append((topic, payload))
        self.talks.set()


@asynccontextmanager
async def to_broker(
    day: list[float], *, reached: bool = True, refuses: tuple[str, ...] = ()
) -> AsyncIterator[tuple[PickyBroker, Delivery, Ledger]]:
    """With an event that has begun in its spool."""
    ledger, broker = Ledger(Store(None)), PickyBroker(BrokerGone("no", reached=reached), set(refuses))
    mqtt = Mqtt(broker, Topics("stmixer"), "", ledger)  # type: ignore[arg-type]
    ledger.store.save([Change(HALL, (event("a"),))], ["mqtt"], T0_US)
    mqtt.show({RuleOfStream(HALL, "fall"): FALL})
    await mqtt.start()
    await broker.talks.wait()
    broker.heard.clear()
    yield broker, Delivery(mqtt, ledger, Metrics(), lambda: day[0]), ledger
    await mqtt.close()
    await ledger.close()


def test_a_message_of_another_version_is_sent_as_it_is_with_its_state() -> None:
    async def body() -> None:
        async with to_broker([T0_US / 1e6]) as (broker, delivery, ledger):
            ledger.store.spool.add(["mqtt"], HALL, event("b"), '{"version": 9}', T0_US)
            assert await delivery.round(0) is None
            assert broker.heard[1:] == [(STATE, "ON"), (EVENT, '{"version": 9}'), (STATE, "ON")]
            assert ledger.store.spool.waiting("mqtt") == (0, None)

    asyncio.run(body())


def test_the_state_of_what_is_given_up_is_said_all_the_same() -> None:
    async def body() -> None:
        day = [T0_US / 1e6]
        async with to_broker(day, refuses=(EVENT,)) as (broker, delivery, ledger):
            assert await delivery.round(0) == 1
            assert broker.heard == []
            day[0] += GIVE_UP_S
            assert await delivery.round(1) is None
            assert broker.heard == [(STATE, "ON")]
            assert ledger.store.spool.waiting("mqtt") == (0, None)

    asyncio.run(body())


@pytest.mark.parametrize("reached", [True, False])
def test_who_is_not_there_is_said_once_by_who_connects(reached: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with to_broker([T0_US / 1e6], reached=reached, refuses=(EVENT,)) as (_, delivery, _):
            await delivery.round(0)

    caplog.set_level(logging.DEBUG, "stmixer.delivery")
    asyncio.run(body())
    (said,) = [record for record in caplog.records if record.name == "stmixer.delivery"]
    assert said.getMessage() == "mqtt: an event of rule fall was not taken (no); again in 1 s"
    assert said.levelno == (logging.WARNING if reached else logging.DEBUG)


class Faulty:
    """A receiver that fails at one rule in a way that nobody thought of."""

    name: ReceiverName = "webhook"
    tells_outages = False

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.given_up: list[str] = []

    async def send(self, message: Waiting) -> Refusal | None:
        if message.of.rule == "fall":
            raise ZeroDivisionError
        self.sent.append(message.queue)
        return None

    async def give_up(self, message: Waiting) -> None:
        self.given_up.append(message.queue)

    async def close(self) -> None: ...


def test_a_message_that_cannot_be_sent_holds_up_no_other_and_ends_after_a_day() -> None:
    async def body() -> None:
        day, ledger, receiver = [T0_US / 1e6], Ledger(Store(None)), Faulty()
        delivery = Delivery(receiver, ledger, Metrics(), lambda: day[0])
        changes: list[Any] = [(StreamName("a", "hall"), "fall"), (StreamName("a", "hall"), "x"), (HALL, "x")]
        for stream, rule in changes:
            ledger.store.save([Change(stream, (event(f"{stream.owner}{rule}", rule),))], ["webhook"], T0_US)
        assert await delivery.round(0) == 1
        assert sorted(receiver.sent) == ["/x", "a/x"]
        assert await delivery.round(1) == 3
        day[0] += GIVE_UP_S
        assert await delivery.round(3) is None
        assert (receiver.given_up, ledger.store.spool.waiting("webhook")) == (["a/fall"], (0, None))
        await ledger.close()

    asyncio.run(body())
