"""Events posted to an address of the operator's: at least once, in order within an owner's rule, from a spool on disk.

What fails is tried again after 1, 2, 4 … 300 s, for a day; what has failed by then is a dead letter. While a rule's
message waits for its next try those behind it wait too, and other rules go on. Owners take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from stmixer.service.events.ledger import Ledger
from stmixer.service.events.store import Waiting
from stmixer.service.metrics import Metrics

log = logging.getLogger("stmixer.webhook")

SIGNATURE = "X-Stmixer-Signature"
CONNECT_S, ANSWER_S, TRY_S = 5.0, 10.0, 15.0
"""How long connecting, an answer's next bytes, and a whole try may take."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
GIVE_UP_S = 86_400.0
BROKEN_WAIT_S = 5.0
"""Until the spool is looked at again where the disk, or we, failed."""
for _name in ("httpx", "httpcore"):  # they would tell the whole address, which is a secret of its own
    logging.getLogger(_name).setLevel(logging.WARNING)


def signature(secret: bytes, at_s: int, body: str) -> str:
    """The header of a message that is sent at epoch seconds ``at_s``."""
    digest = hmac.new(secret, f"{at_s}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message was not taken. ``reached``: not for want of a connection."""

    why: str
    reached: bool = True


@dataclass(slots=True)
class Failure:
    """Of a queue's first message. ``at``, ``again_at``: monotonic seconds of its last try, and of the next."""

    tries: int
    at: float
    again_at: float
    reached: bool


class Webhook:
    """``run`` it; ``wake`` it when something is in the spool. ``secret`` None: unsigned. ``calendar``: epoch s."""

    def __init__(
        self, url: str, secret: bytes | None, ledger: Ledger, metrics: Metrics,
        calendar: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._url, self._secret, self._ledger, self._calendar = url, secret, ledger, calendar
        self._metrics = metrics
        self._failures: dict[str, Failure] = {}
        self._oldest_us: int | None = None
        self._woken = asyncio.Event()
        metrics.event_age.labels("webhook").set_function(self._age_s)

    def wake(self) -> None:
        """Look at the spool again."""
        self._woken.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        async with httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False) as client:
            while True:
                self._woken.clear()
                try:
                    again_at = await self.round(client, time.monotonic())
                except sqlite3.Error as error:
                    log.error("what waits for the webhook cannot be read: %s", error)
                    again_at = time.monotonic() + BROKEN_WAIT_S
                except Exception:  # whatever it was, what waits is tried again
                    log.exception("an event may not have been posted")
                    again_at = time.monotonic() + BROKEN_WAIT_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(again_at):  # the loop's clock is this one
                        await self._woken.wait()

    async def round(self, client: httpx.AsyncClient, now: float) -> float | None:
        """Send all whose turn it is at ``now`` (monotonic seconds). Returns when the next one is; None: none waits.

        Raises sqlite3.Error where the disk fails it.
        """
        store = self._ledger.store
        await self._look()
        while True:
            later = [queue for queue, failure in self._failures.items() if failure.again_at > now]
            heads = await self._ledger.do(store.heads, later)
            if not heads:
                break
            for head in heads:
                await self._send(client, head, now)
                await self._look()
        # one whose time has come has had its turn, or has nothing that waits any more
        self._failures = {queue: failure for queue, failure in self._failures.items() if failure.again_at > now}
        return min((failure.again_at for failure in self._failures.values()), default=None)

    async def _look(self) -> None:
        """At how much waits."""
        count, self._oldest_us = await self._ledger.do(self._ledger.store.waiting)
        self._metrics.events_waiting.labels("webhook").set(count)

    async def _send(self, client: httpx.AsyncClient, message: Waiting, now: float) -> None:
        refusal = await self._post(client, message)
        queue, outcome = message.queue, self._metrics.deliveries
        if refusal is None:
            await self._ledger.do(self._ledger.store.delivered, message.number)
            outcome.labels("webhook", "delivered").inc()
            self._failures.pop(queue, None)
            for failure in self._failures.values():  # it is there again: those who found it gone need not wait
                if not failure.reached and failure.at < now:
                    failure.again_at = now
            return
        rule = queue.rpartition("/")[2]
        if self._calendar() - message.at_us / 1e6 >= GIVE_UP_S:
            await self._ledger.do(self._ledger.store.delivered, message.number)
            outcome.labels("webhook", "dead").inc()
            log.error("an event of rule %s is given up after a day: %s", rule, refusal.why)
            self._failures.pop(queue, None)
            return
        before = self._failures.get(queue)
        tries = 1 if before is None else before.tries + 1
        wait_s = min(FIRST_WAIT_S * 2 ** min(tries - 1, 20), LONGEST_WAIT_S)
        self._failures[queue] = Failure(tries, now, now + wait_s, refusal.reached)
        outcome.labels("webhook", "retried").inc()
        log.warning("an event of rule %s was not taken by the webhook (%s); again in %g s", rule, refusal.why, wait_s)

    async def _post(self, client: httpx.AsyncClient, message: Waiting) -> Refusal | None:
        """None where it was taken; else why not."""
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, int(self._calendar()), message.body)
        try:
            async with (
                asyncio.timeout(TRY_S),
                client.stream("POST", self._url, content=message.body, headers=headers) as answer,
            ):
                return None if answer.is_success else Refusal(f"it answers {answer.status_code}")
        except TimeoutError:
            return Refusal(f"no answer within {TRY_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Refusal(type(error).__name__, not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))

    def _age_s(self) -> float:
        """Of the oldest message that waits."""
        return 0.0 if self._oldest_us is None else max(0.0, self._calendar() - self._oldest_us / 1e6)
