"""Whose requests take the event loop's time: all connections of one address share what one may take.

A connection has a share of its own (``service.api.paced``), but one client may have hundreds of them, or a new one for
each request. So requests, and what is read of them, count for the address too; where it owes time they wait, in the
order in which they came, before they are parsed. Streams that have begun do not count: they are admitted one by one,
and many may come from one place. Nor does a proxy that we trust, which tells whom it asks for
(``service.api.entrance``).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container
from weakref import WeakValueDictionary

from starlette.types import Scope

from stmixer.service.access import Caller
from stmixer.service.api.doorway import place_of
from stmixer.service.sources.allowance import BURST_S, PIECE_S, Allowance

SHARE_OF_ONE = 0.5
"""Of the loop's time that requests of one address may take for long."""
SHARE_BESIDE_LIVE = 0.05
"""The same while live streams run that are not its own."""
MOST_OF_AN_ANSWER_S = BURST_S
"""What one answer counts at most: those that go on for hours, as of events, would have all later requests wait."""
CONNECTION_S = 200e-6
"""What a connection counts before it has asked anything."""
STREAM_S = 0.015
"""What a live stream's start counts besides its own steps: its decoder process takes 13 ms of CPU to make. So does an
upload's."""
SENDER = "sender"
"""In a scope's state: the ``Sender`` whose request it is; not there where nobody's counts."""
MOST_KNOWN = 4096
"""Addresses that are remembered after their connections have gone."""
LIVE_SEEN_S = 0.25
"""How often live streams are counted at most."""


class Sender:
    """One address. ``streams``: live streams that it sends itself. ``share``: of the loop, now."""

    def __init__(self, share: Callable[[Sender], float], clock: Callable[[], float]) -> None:
        self._allowance = Allowance(clock, lambda: share(self))
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.streams = 0

    def spend(self, seconds: float) -> float:
        """It used some of the loop's time; returns for how many seconds it is to rest now, mostly 0."""
        return self._allowance.spend(seconds)

    @property
    def is_due(self) -> bool:
        """Nothing is owed, and nobody waits."""
        return not self._waiting and self.spend(0) == 0

    def when_due(self, go_on: Callable[[], None]) -> None:
        """Have it called once nothing is owed, after those that wait already: now, in most cases."""
        if self.is_due:
            go_on()
        else:
            self._waiting.append(go_on)
            self._wait()

    async def turn(self) -> None:
        """The same, to be awaited."""
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_due(lambda: None if due.done() else due.set_result(None))
        await due

    def _wait(self) -> None:
        """One after the other: what the one costs is seen before the next one begins."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(self.spend(0), PIECE_S), self._next)

    def _next(self) -> None:
        self._timer = None
        go_on = self._waiting.popleft() if self.spend(0) == 0 else None
        if self._waiting:
            self._wait()
        if go_on is not None:
            go_on()


class Bill:
    """What the steps of one answer count for their sender."""

    def __init__(self, sender: Sender) -> None:
        self._sender, self._left_s = sender, MOST_OF_AN_ANSWER_S

    def add(self, seconds: float) -> None:
        """A step took so long."""
        counted = min(seconds, self._left_s)
        self._left_s -= counted
        if counted > 0:
            self._sender.spend(counted)


class SentStream:
    """A live stream that a sender has begun, until ``end``."""

    def __init__(self, sender: Sender) -> None:
        self._sender: Sender | None = sender
        sender.streams += 1
        sender.spend(STREAM_S)

    def end(self) -> None:
        """It has left; once, however often that is said."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.streams -= 1


def count_decoder(scope: Scope) -> None:
    """A request has a decoder made for it, which counts for its sender: what comes from there next waits for it.

    Whoever has a key has that key's limits, and may have thousands of clips.
    """
    state = scope.get("state", {})
    sender: Sender | None = state.get(SENDER)
    caller: Caller | None = state.get("caller")
    if sender is not None and (caller is None or caller.key is None):
        sender.spend(STREAM_S)


class Senders:
    """All of them. ``proxies``: addresses behind which others stand; ``live``: how many live streams run now."""

    def __init__(
        self, proxies: Container[str], live: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proxies, self._live, self._clock = proxies, live, clock
        self._by_place: WeakValueDictionary[str, Sender] = WeakValueDictionary()
        self._kept: deque[Sender] = deque(maxlen=MOST_KNOWN)
        self._running, self._seen_at = 0, float("-inf")

    def of(self, address: str) -> Sender | None:
        """Whose requests from there are; None of a proxy."""
        if address in self._proxies:
            return None
        place = place_of(address)
        sender = self._by_place.get(place)
        if sender is None:
            sender = self._by_place[place] = Sender(self._share, self._clock)
            self._kept.append(sender)
        return sender

    def _share(self, sender: Sender) -> float:
        now = self._clock()
        if now - self._seen_at >= LIVE_SEEN_S:
            self._running, self._seen_at = self._live(), now
        return SHARE_BESIDE_LIVE if self._running > sender.streams else SHARE_OF_ONE
