"""Events posted to an address of the operator's: at least once, in order within each rule, from a spool on disk.

What fails is tried again after 1, 2, 4 … 300 s, for a day; what has failed by then is a dead letter. While a rule's
message waits for its next try those behind it wait too, and other rules go on.
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


class Webhook:
    """``run`` it; ``wake`` it when something is in the spool. ``secret`` None: unsigned. ``calendar``: epoch s."""

    def __init__(
        self, url: str, secret: bytes | None, ledger: Ledger, metrics: Metrics,
        calendar: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._url, self._secret, self._ledger, self._calendar = url, secret, ledger, calendar
        self._metrics = metrics
        self._tries: dict[str, int] = {}
        self._again_at: dict[str, float] = {}
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
        while True:
            later = [rule for rule, at in self._again_at.items() if at > now]
            heads = await self._ledger.do(store.heads, later)
            if not heads:
                break
            for head in heads:
                await self._send(client, head, now)
        count, self._oldest_us = await self._ledger.do(store.waiting)
        self._metrics.events_waiting.labels("webhook").set(count)
        return min(self._again_at.values()) if count and self._again_at else None

    async def _send(self, client: httpx.AsyncClient, message: Waiting, now: float) -> None:
        why = await self._post(client, message)
        rule, outcome = message.rule, self._metrics.deliveries
        if why is None:
            await self._ledger.do(self._ledger.store.delivered, message.number)
            outcome.labels("webhook", "delivered").inc()
            self._tries.pop(rule, None)
            self._again_at.clear()  # it is there: so may others' messages be taken
            return
        if self._calendar() - message.at_us / 1e6 >= GIVE_UP_S:
            await self._ledger.do(self._ledger.store.delivered, message.number)
            outcome.labels("webhook", "dead").inc()
            log.error("an event of rule %s is given up after a day: %s", rule, why)
            self._tries.pop(rule, None)
            self._again_at.pop(rule, None)
            return
        tries = self._tries[rule] = self._tries.get(rule, 0) + 1
        wait_s = min(FIRST_WAIT_S * 2 ** min(tries - 1, 20), LONGEST_WAIT_S)
        self._again_at[rule] = now + wait_s
        outcome.labels("webhook", "retried").inc()
        log.warning("an event of rule %s was not taken by the webhook (%s); again in %g s", rule, why, wait_s)

    async def _post(self, client: httpx.AsyncClient, message: Waiting) -> str | None:
        """None where it was taken; else why not."""
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, int(self._calendar()), message.body)
        try:
            async with (
                asyncio.timeout(TRY_S),
                client.stream("POST", self._url, content=message.body, headers=headers) as answer,
            ):
                return None if answer.is_success else f"it answers {answer.status_code}"
        except TimeoutError:
            return f"no answer within {TRY_S:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__

    def _age_s(self) -> float:
        """Of the oldest message that waits."""
        return 0.0 if self._oldest_us is None else max(0.0, self._calendar() - self._oldest_us / 1e6)
