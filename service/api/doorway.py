"""How many may be connected, in all and from one address; and who goes where there is no room for one more.

A connection that has never asked anything goes first, the oldest of them; then one that waits between two requests. Who
is being answered stays. Descriptors for work are kept free: connections get half of what the process may open.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Container
from enum import Enum, auto
from typing import Any, Protocol

log = logging.getLogger("stmixer.connections")

MOST_CONNECTIONS = 4096
MOST_DESCRIPTORS = 65_536
"""What the limit is raised to where the system lets us."""
TOLD_EVERY_S = 10.0


class Doing(Enum):
    """What a connection is busy with."""

    NOTHING_YET = auto()
    """It has never asked."""
    BETWEEN = auto()
    """It was answered, and may ask again."""
    ASKING = auto()
    """It is being answered, or is a WebSocket."""


class Visitor(Protocol):
    """A connection as the doorway sees it."""

    @property
    def address(self) -> str:
        """Whence it comes."""
        ...

    @property
    def doing(self) -> Doing:
        """What it is busy with now."""
        ...

    def leave(self) -> None:
        """Close it now."""
        ...


class Doorway:
    """All connections of a service. ``proxies``: addresses from which many may come, as others stand behind them."""

    def __init__(
        self,
        most: int,
        most_of_one: int,
        proxies: Container[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._most_of_one, self._proxies, self._clock = most, most_of_one, proxies, clock
        self._inside: dict[Visitor, str] = {}
        self._from: Counter[str] = Counter()
        self._turned_away = Seldom(clock)

    def enter(self, visitor: Visitor) -> bool:
        """Whether it may come in, others having gone for it if need be; if so ``left`` has to follow."""
        address = visitor.address
        place = place_of(address)
        crowded = address not in self._proxies and self._from[place] >= self._most_of_one
        full = len(self._inside) >= self._most
        if (crowded or full) and not self._make_room(place if crowded else None):
            limit = f"{self._most_of_one} from one address" if crowded else f"{self._most} in all"
            if times := self._turned_away.times():
                log.warning("%d connections turned away, the last one from %s: there may be %s", times, address, limit)
            return False
        self._inside[visitor] = place
        self._from[place] += 1
        return True

    def left(self, visitor: Visitor) -> None:
        """It is closed; once or more often, also one that never came in."""
        place = self._inside.pop(visitor, None)
        if place is not None:
            self._from[place] -= 1
            if not self._from[place]:
                del self._from[place]

    def _make_room(self, place: str | None) -> bool:
        """Have one go that is not being answered, from this place or from all."""
        for doing in (Doing.NOTHING_YET, Doing.BETWEEN):
            for visitor, its_place in self._inside.items():  # the oldest first
                if visitor.doing is doing and place in (None, its_place):
                    self.left(visitor)
                    visitor.leave()
                    return True
        return False


def place_of(address: str) -> str:
    """What counts as one address: one of IPv4, or of IPv6 the 64 bits that a line is given together."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Seldom:
    """What may happen very often and is told now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._count, self._told_at = clock, 0, float("-inf")

    def times(self) -> int:
        """It happened: how often since it was told, if it is to be told now; else 0."""
        self._count += 1
        if self._clock() - self._told_at < TOLD_EVERY_S:
            return 0
        count, self._count, self._told_at = self._count, 0, self._clock()
        return count


def raise_descriptor_limit() -> int:
    """As many open descriptors as the system lets us have, within reason; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def tell_in_a_line(loop: asyncio.AbstractEventLoop, seldom: Seldom | None = None) -> None:
    """Have the loop say that no descriptor is left for a connection in a line now and then, not a traceback a time."""
    seldom = seldom or Seldom()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not str(context.get("message", "")).startswith("socket.accept()"):
            loop.default_exception_handler(context)
        elif times := seldom.times():
            log.error("%d times no connection could be taken: %s; raise `ulimit -n`", times, context.get("exception"))

    loop.set_exception_handler(handle)
