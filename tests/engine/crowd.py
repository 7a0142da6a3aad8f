"""Live streams before one worker, on a clock of their own: real streams and the real scheduler, exact costs."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stmixer.model.clip import window
from stmixer.model.zoo import variant
from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.keyframes import KeyframeSchedule
from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.stream import Pending, Policy, Stream
from stmixer.service.ipc.ring import RingMemory, ring_shape
from stmixer.service.schemas import DetectOptions

WINDOW = window(variant("rt_lite0").clip)
FRAMES = len(WINDOW.offsets)
STEP_S = float(WINDOW.grid_s)


@dataclass
class Source:
    """A stream and its frames: one each grid step from ``starts_at`` until ``ends_at``, in seconds; then it
    ``finishes`` or is cancelled."""

    stream: Stream
    starts_at: float
    ends_at: float
    finishes: bool = False
    settled: list[Pending] = field(default_factory=list)
    sent: int = 0

    def send(self, now: float) -> None:
        stream, number = self.stream, self.sent
        if number >= stream.write_limit():
            stream.make_room(number)
        pts_us = round(number * STEP_S * 1e6)
        stream.note_sample(number, number + 1, number, pts_us)
        stream.note_frame(pts_us, now, now)
        stream.summary.received += 1
        self.sent += 1

    def served(self, since: float = 0.0, until: float = 1e9) -> list[Pending]:
        """Keyframes with results whose moments lie in between, in seconds of the clock."""
        ok = [p for p in self.settled if p.outcome == "ok"]
        return [p for p in ok if since <= self.starts_at + p.keyframe.pts_us / 1e6 < until]


@dataclass
class Crowd:
    """``frame_s`` and ``clip_s``: what a worker takes for a new frame and for a keyframe besides; ``batch_s``: for a
    batch besides. ``told``: whether the scheduler knows what keyframes cost; ``warm``: what it is told at first.
    """

    frame_s: float
    clip_s: float
    batch_s: float = 0.0
    told: bool = True
    max_batch: int = 8
    keeps: bool = True
    warm: float = 1.0
    sources: list[Source] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        whole_s = self.clip_s + FRAMES * self.frame_s
        saved = FRAMES * self.frame_s / whole_s if self.keeps else 0.0
        sizes = (n for n in (1, 2, 4, 8) if n <= self.max_batch)
        warmup_s = {n: self.warm * (self.batch_s + n * whole_s) for n in sizes}
        self.cost = KeyframeCost(warmup_s, saved, FRAMES)
        self.scheduler = Scheduler(self.max_batch, 0.0)
        self.batches: list[int] = []
        self._known: dict[int, frozenset[int]] = {}
        self._free_at, self._busy = 0.0, False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = itertools.count()
        self._asked = 1e9

    def add(
        self, hz: float = 4.0, starts_at: float = 0.0, ends_at: float = 1e9, policy: Policy = "latest",
        deadline_s: float = 1.0, finishes: bool = False,
    ) -> Source:  # fmt: skip
        settled: list[Pending] = []
        number = len(self.sources) + 1
        schedule = KeyframeSchedule(WINDOW, hz, None, snap=True)
        stream = Stream(number, "ws", policy, schedule, DetectOptions(keyframe_hz=hz), deadline_s, settled.append)
        stream.open(640, 480, RingMemory(-1, ring_shape(WINDOW, 64, 48)), 1 / STEP_S)
        source = Source(stream, starts_at, ends_at, finishes or policy == "all", settled)
        self.sources.append(source)
        self._at(starts_at, lambda: self._frame(source))
        return source

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()
            self._step()
        self.now = until

    def streams(self) -> list[Stream]:
        return [s.stream for s in self.sources if s.starts_at <= self.now and not s.stream.finished]

    # -- what happens

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._tie), act))

    def _frame(self, source: Source) -> None:
        if self.now >= source.ends_at:
            if source.finishes:
                source.stream.end(self.now)
                return
            source.stream.cancel()
            self.scheduler.turns.forget(source.stream)
            return
        if source.stream.policy == "latest" or source.sent < source.stream.write_limit():
            source.send(self.now)
            self._at(source.starts_at + source.sent * STEP_S, lambda: self._frame(source))
        else:  # a patient writer waits
            self._at(self.now + STEP_S, lambda: self._frame(source))

    def _step(self) -> None:
        if self._busy:
            return
        for stream in self.streams():
            stream.expire(self.now)
        cost = self.cost if self.told else None
        choice = self.scheduler.choose(self.streams(), self.now, cost)
        if choice.batch:
            self._run(choice.batch)
        elif choice.wait_until is not None and not self.now < self._asked <= choice.wait_until:
            self._asked = choice.wait_until
            self._at(choice.wait_until, lambda: None)

    def _run(self, batch: Sequence[Pending]) -> None:
        new = said = 0
        for pending in batch:
            order = pending.stream.take(pending, self.now)
            said += self.scheduler.turns.leased(pending, order, self.cost)
            frames = frozenset(order.generations)
            new += len(frames - self._known.get(order.stream, frozenset())) if self.keeps else FRAMES
            self._known[order.stream] = frames
            pending.stream.copied(pending)
        seconds = self.batch_s + self.frame_s * new + self.clip_s * len(batch)
        self._busy = True
        self.batches.append(len(batch))
        self._at(self.now + seconds, lambda: self._done(batch, said, seconds))

    def _done(self, batch: Sequence[Pending], said: int, seconds: float) -> None:
        self._busy = False
        self.cost.observe(len(batch), said, seconds, 0.0)
        for pending in batch:
            pending.stream.settle(pending, "ok")


def crowd_of(count: int, hz: float = 4.0, until: float = 60.0, **costs: float) -> Crowd:
    """So many equal cameras, begun at different moments of a period, for so long."""
    crowd = Crowd(**{"frame_s": 0.0134, "clip_s": 0.0188, **costs})  # type: ignore[arg-type]
    period_s = 1 / KeyframeSchedule(WINDOW, hz, None, snap=True).hz
    for n in range(count):
        crowd.add(hz, starts_at=period_s * (n * 0.618 % 1))
    crowd.run(until)
    return crowd


def goodput(crowd: Crowd, since: float = 15.0, until: float = 58.0) -> float:
    """Keyframes a second with results."""
    return sum(len(source.served(since, until)) for source in crowd.sources) / (until - since)
