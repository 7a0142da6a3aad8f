"""Events on their way to a receiver: at least once, in order within an owner's rule, from a spool on disk.

What fails is tried again after 1, 2, 4 … 300 s, for a day; what has failed by then is a dead letter. While a rule's
message waits for its next try those behind it wait too, and other rules go on. Owners take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stmixer.service.events.ledger import Ledger
from stmixer.service.events.spool import ReceiverName, Waiting
from stmixer.service.metrics import Metrics

log = logging.getLogger("stmixer.delivery")

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
GIVE_UP_S = 86_400.0
BROKEN_WAIT_S = 5.0
"""Until the spool is looked at again where the disk, or we, failed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message was not taken. ``reached``: not for want of a connection."""

    why: str
    reached: bool = True


class Receiver(Protocol):
    """Where events go, one message at a time."""

    @property
    def name(self) -> ReceiverName:
        """In the spool and in metrics."""

    @property
    def tells_outages(self) -> bool:
        """Whether it logs itself that it cannot be reached, once for all that waits."""

    async def send(self, message: Waiting) -> Refusal | None:
        """None where it was taken; else why not. It takes some seconds at most."""

    async def give_up(self, message: Waiting) -> None:
        """A message is not sent any more."""

    async def close(self) -> None:
        """Nothing more is sent."""


@dataclass(slots=True)
class Failure:
    """Of a queue's first message. ``at``, ``again_at``: monotonic seconds of its last try, and of the next."""

    tries: int
    at: float
    again_at: float
    reached: bool


class Delivery:
    """``run`` it; ``wake`` it when something is in the spool. ``calendar``: epoch s."""

    def __init__(
        self, receiver: Receiver, ledger: Ledger, metrics: Metrics, calendar: Callable[[], float] = time.time
    ) -> None:
        self.receiver = receiver
        self._name, self._ledger, self._metrics, self._calendar = receiver.name, ledger, metrics, calendar
        self._failures: dict[str, Failure] = {}
        self._oldest_us: int | None = None
        self._woken = asyncio.Event()
        metrics.event_age.labels(self._name).set_function(self._age_s)

    def wake(self) -> None:
        """Look at the spool again."""
        self._woken.set()

    def found(self) -> None:
        """It is there again: those who found it gone need not wait."""
        for failure in self._failures.values():
            if not failure.reached:
                failure.again_at = failure.at
        self.wake()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._woken.clear()
            try:
                again_at = await self.round(time.monotonic())
            except sqlite3.Error as error:
                log.error("what waits for the %s cannot be read: %s", self._name, error)
                again_at = time.monotonic() + BROKEN_WAIT_S
            except Exception:  # whatever it was, what waits is tried again
                log.exception("an event may not have reached the %s", self._name)
                again_at = time.monotonic() + BROKEN_WAIT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(again_at):  # the loop's clock is this one
                    await self._woken.wait()

    async def round(self, now: float) -> float | None:
        """Send all whose turn it is at ``now`` (monotonic seconds). Returns when the next one is; None: none waits.

        Raises sqlite3.Error where the disk fails it.
        """
        spool = self._ledger.store.spool
        await self._look()
        while True:
            later = [queue for queue, failure in self._failures.items() if failure.again_at > now]
            heads = await self._ledger.do(spool.heads, self._name, later)
            if not heads:
                break
            for head in heads:
                await self._send(head, now)
                await self._look()
        # one whose time has come has had its turn, or has nothing that waits any more
        self._failures = {queue: failure for queue, failure in self._failures.items() if failure.again_at > now}
        return min((failure.again_at for failure in self._failures.values()), default=None)

    async def _look(self) -> None:
        """At how much waits."""
        count, self._oldest_us = await self._ledger.do(self._ledger.store.spool.waiting, self._name)
        self._metrics.events_waiting.labels(self._name).set(count)

    async def _send(self, message: Waiting, now: float) -> None:
        refusal = await self._try(message)
        queue, outcome = message.queue, self._metrics.deliveries
        if refusal is None:
            await self._ledger.do(self._ledger.store.spool.delivered, message.number)
            outcome.labels(self._name, "delivered").inc()
            self._failures.pop(queue, None)
            for failure in self._failures.values():  # it is there again: those who found it gone need not wait
                if not failure.reached and failure.at < now:
                    failure.again_at = now
            return
        rule = queue.rpartition("/")[2]
        if self._calendar() - message.at_us / 1e6 >= GIVE_UP_S:
            await self._ledger.do(self._ledger.store.spool.delivered, message.number)
            outcome.labels(self._name, "dead").inc()
            log.error("%s: an event of rule %s is given up after a day: %s", self._name, rule, refusal.why)
            self._failures.pop(queue, None)
            await self.receiver.give_up(message)
            return
        before = self._failures.get(queue)
        tries = 1 if before is None else before.tries + 1
        wait_s = min(FIRST_WAIT_S * 2 ** min(tries - 1, 20), LONGEST_WAIT_S)
        self._failures[queue] = Failure(tries, now, now + wait_s, refusal.reached)
        outcome.labels(self._name, "retried").inc()
        level = logging.DEBUG if self.receiver.tells_outages and not refusal.reached else logging.WARNING
        words = "%s: an event of rule %s was not taken (%s); again in %g s"
        log.log(level, words, self._name, rule, refusal.why, wait_s)

    async def _try(self, message: Waiting) -> Refusal | None:
        """A fault of ours is a refusal too: what waits behind others goes on, and a day is a day."""
        try:
            return await self.receiver.send(message)
        except Exception as error:
            log.exception("an event may not have reached the %s", self._name)
            return Refusal(type(error).__name__)

    def _age_s(self) -> float:
        """Of the oldest message that waits."""
        return 0.0 if self._oldest_us is None else max(0.0, self._calendar() - self._oldest_us / 1e6)
