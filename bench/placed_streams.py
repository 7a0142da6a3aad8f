"""Streams on many machines as `bench.fleet` thinks of them: who is served where, who comes back when. Discrete events.

A stream is in one of three states: served at one machine, in line at one that starts its decoder, or away, until its
client's next attempt. ``check`` says whether each is in just one, and no machine has more than it has room for.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stmixer.service.sources.trouble import Backoff, Trouble

Placing = Literal["at random", "the emptier of two", "the emptiest"]
PAGE_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""The page's (service/web/stream.js), by attempt."""
PAGE_BUSY_S = 5.0
"""How long the page waits where a service is full (close code 1013), at least."""
PAGE_JITTER = 0.25
"""By what part of itself a wait of the page is shorter, at most, at random; where a service is full, longer."""
FULL = Trouble("capacity", "no room")


class Patience(Protocol):
    """When a client comes back."""

    def wait_s(self, now: float, *, refused: bool) -> float:
        """Seconds until the next attempt; ``refused``: a machine had no room."""
        ...

    def succeeded(self) -> None:
        """It is served."""
        ...


class PagePatience:
    """The page's."""

    def __init__(self, chance: random.Random, jitter: float = PAGE_JITTER) -> None:
        self._chance, self._jitter, self._attempt = chance, jitter, 0

    def wait_s(self, now: float, *, refused: bool) -> float:
        """As ``Patience``."""
        wait_s = PAGE_BACKOFF_S[min(self._attempt, len(PAGE_BACKOFF_S) - 1)]
        self._attempt += 1
        apart = self._jitter * self._chance.random()
        return PAGE_BUSY_S * (1 + apart) if refused else wait_s * (1 - apart)

    def succeeded(self) -> None:
        """As ``Patience``."""
        self._attempt = 0


class PulledPatience:
    """A pulled stream's: the service's own code."""

    def __init__(self, chance: random.Random) -> None:
        self._backoff = Backoff(chance.random)

    def wait_s(self, now: float, *, refused: bool) -> float:
        """As ``Patience``."""
        return self._backoff.wait_s(FULL, now)

    def succeeded(self) -> None:
        """As ``Patience``."""
        self._backoff.succeeded()


@dataclass
class Machine:
    """``room``: streams that it takes; ``free_at``: when it has started all that stand in line."""

    room: int
    streams: set[int] = field(default_factory=set)
    in_line: set[int] = field(default_factory=set)
    up: bool = True
    drains: bool = False
    free_at: float = 0.0

    @property
    def taken(self) -> int:
        return len(self.streams) + len(self.in_line)


class Fleet:
    """``start_s``: what starting one stream takes of a machine, one after the other; ``learns_s``: until a client knows
    that its machine is gone; ``placing``: how a machine is found for whoever comes."""

    def __init__(
        self, machines: int, room: int, seed: int, *, start_s: float, learns_s: float = 0.0,
        placing: Placing = "the emptiest", patience: Callable[[random.Random], Patience] = PagePatience,
    ) -> None:  # fmt: skip
        self.chance = random.Random(seed)
        self.machines = [Machine(room) for _ in range(machines)]
        self.now, self.reachable = 0.0, True
        self.away: set[int] = set()
        self.served: dict[int, int] = {}
        self.lined_up: dict[int, int] = {}
        self.moves, self.attempts = Counter[int](), list[float]()
        self.refusals = 0
        self._start_s, self._learns_s, self._placing, self._patience = start_s, learns_s, placing, patience
        self._clients: dict[int, Patience] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._emptiest: list[tuple[int, int]] = [(0, number) for number in range(machines)]

    def at(self, moment: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._events, (moment, next(self._order), what))

    def run(self, until: float) -> None:
        """All that happens until then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    # -- streams

    def arrive(self, stream: int) -> None:
        """A new one, which tries at once."""
        self._clients[stream] = self._patience(self.chance)
        self.away.add(stream)
        self._attempt(stream)

    def fill(self, streams: int) -> None:
        """Have so many served from the beginning, spread evenly."""
        for stream in range(streams):
            self._clients[stream] = self._patience(self.chance)
            number = stream % len(self.machines)
            self.machines[number].streams.add(stream)
            self.served[stream] = number
        for number, machine in enumerate(self.machines):
            self._told(number, machine)

    def _attempt(self, stream: int) -> None:
        self.attempts.append(self.now)
        number = self._found() if self.reachable else None
        machine = None if number is None else self.machines[number]
        if number is None or machine is None or machine.taken >= machine.room:
            refused = self.reachable
            self.refusals += refused
            self._later(stream, refused=refused)
            return
        self.away.remove(stream)
        self.lined_up[stream] = number
        machine.in_line.add(stream)
        self._told(number, machine)
        machine.free_at = max(machine.free_at, self.now) + self._start_s
        self.at(machine.free_at, lambda: self._begins(stream, number))

    def _later(self, stream: int, *, refused: bool) -> None:
        self.at(self.now + self._clients[stream].wait_s(self.now, refused=refused), lambda: self._attempt(stream))

    def _begins(self, stream: int, number: int) -> None:
        if self.lined_up.get(stream) != number or not self.machines[number].up:
            return  # its machine went meanwhile
        del self.lined_up[stream]
        machine = self.machines[number]
        machine.in_line.remove(stream)
        machine.streams.add(stream)
        self.served[stream] = number
        self.moves[stream] += 1
        self._clients[stream].succeeded()

    def cut_off(self, streams: Iterable[int], after_s: float = 0.0) -> None:
        """They lose what serves them, and try again once they know and have waited."""
        touched = set[int]()
        for stream in streams:
            number = self.served.pop(stream, None)
            number = self.lined_up.pop(stream) if number is None else number
            self.machines[number].streams.discard(stream)
            self.machines[number].in_line.discard(stream)
            touched.add(number)
            self.away.add(stream)
            self.at(self.now + after_s, lambda stream=stream: self._later(stream, refused=False))  # type: ignore[misc]
        for number in touched:
            self._told(number, self.machines[number])

    # -- machines

    def _told(self, number: int, machine: Machine) -> None:
        if self._placing == "the emptiest" and machine.up and not machine.drains:
            heapq.heappush(self._emptiest, (machine.taken, number))

    def _found(self) -> int | None:
        """A machine that takes streams, by the rule; None where there is none."""
        if self._placing == "the emptiest":
            while self._emptiest:
                taken, number = self._emptiest[0]
                machine = self.machines[number]
                if machine.up and not machine.drains and machine.taken == taken:
                    return number
                heapq.heappop(self._emptiest)
            return None
        tries = 1 if self._placing == "at random" else 2
        found = [number for number in (self._any_up() for _ in range(tries)) if number is not None]
        return min(found, key=lambda number: self.machines[number].taken, default=None)

    def _any_up(self) -> int | None:
        for _ in range(100):
            number = self.chance.randrange(len(self.machines))
            if self.machines[number].up and not self.machines[number].drains:
                return number
        return next((n for n, m in enumerate(self.machines) if m.up and not m.drains), None)

    def lose(self, numbers: Iterable[int]) -> None:
        """Machines are gone, with a word to nobody."""
        for number in numbers:
            machine = self.machines[number]
            machine.up = False
            self.cut_off([*machine.streams, *machine.in_line], self._learns_s)

    def drain(self, number: int) -> None:
        """One takes no more and closes what it has with 1001: its clients know at once."""
        machine = self.machines[number]
        machine.drains = True
        self.cut_off([*machine.streams, *machine.in_line])
        machine.up = False

    def restore(self, number: int) -> None:
        """One is back, empty."""
        machine = self.machines[number]
        assert not machine.taken
        machine.up, machine.drains, machine.free_at = True, False, self.now
        self._told(number, machine)

    # -- figures

    @property
    def unserved(self) -> int:
        """Streams that have no results now."""
        return len(self.away) + len(self.lined_up)

    def check(self) -> None:
        """Each stream is in one place, and no machine has too many. Raises AssertionError."""
        places = Counter(itertools.chain(self.away, self.served, self.lined_up))
        places.update(stream for machine in self.machines for stream in (*machine.streams, *machine.in_line))
        assert places.keys() == self._clients.keys(), "a stream is lost"
        for stream, times in places.items():
            assert times == (1 if stream in self.away else 2), f"stream {stream} is in {times - 1} places"
        for stream, number in (*self.served.items(), *self.lined_up.items()):
            assert stream in self.machines[number].streams | self.machines[number].in_line
        assert all(machine.taken <= machine.room for machine in self.machines)
        assert all(machine.up or not machine.taken for machine in self.machines)
