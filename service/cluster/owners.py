"""Which replica has a stream, as the coordinator says: asked seldom, however many ask here.

Requests are routed before anybody has looked at their keys, and all routers have one coordinator, which replicas have
to hear from every three seconds. So an answer is kept for a moment, and questions have a rate; over it what was known
last is good enough, and of what nobody knows any replica says that it moves.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

KEPT_S = 1.0
"""So long an answer counts."""
MOST_A_SECOND = 50
"""Questions of one router; so many at once after a pause."""
MOST_KNOWN = 4096

Ask = Callable[[int], Awaitable[str | None]]
"""The replica that has a stream; None where none has. Raises UnansweredError where nobody says."""


class UnansweredError(Exception):
    """The coordinator has not said which replica has a stream."""


class Owners:
    """Of one router. Used from one event loop."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._known: OrderedDict[int, tuple[str, float]] = OrderedDict()
        self._asking: dict[int, asyncio.Task[str | None]] = {}
        self._left, self._at = float(MOST_A_SECOND), clock()

    async def of(self, number: int) -> str | None:
        """The replica that has this stream, or had it last; None where nobody knows."""
        name, at = self._known.get(number, (None, float("-inf")))
        if self._clock() - at < KEPT_S:
            return name
        if number not in self._asking:
            if not self._may_ask():
                return name
            self._asking[number] = asyncio.create_task(self._asked(number))
        return await asyncio.shield(self._asking[number])  # whoever goes away ends it for nobody else

    async def _asked(self, number: int) -> str | None:
        try:
            name = await self._ask(number)
        except UnansweredError:
            return self._known.get(number, (None, 0.0))[0]
        finally:
            del self._asking[number]
        self._known.pop(number, None)
        if name is not None:
            self._known[number] = name, self._clock()
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return name

    def _may_ask(self) -> bool:
        now = self._clock()
        self._left = min(MOST_A_SECOND, self._left + (now - self._at) * MOST_A_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
