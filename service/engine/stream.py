"""One stream's state: frames on the grid, keyframes from due to settled, and the counts that must add up.

Pure: told what happened and what time it is, asked what to do. No sockets, tasks or torch, so a fake clock tests it.

    arriving frame → note_frame(): keyframes come into being, "early" until their look-ahead is there, then "ready"
    → take() by the scheduler: "copying", its slots may not be written → copied(): "running"
    → settle(outcome): "settled", delivered in order; or release(): "ready" again
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from stmixer.media.grid import Sample, SampleHistory
from stmixer.model.query_bank import OnlineBank, second_of
from stmixer.service.engine.keyframes import Keyframe, KeyframeSchedule
from stmixer.service.ipc.ring import RingShape
from stmixer.service.schemas import DetectOptions, Outcome, Summary

Policy = Literal["latest", "all"]
Source = Literal["ws", "pull", "upload"]
State = Literal["early", "ready", "copying", "running", "settled"]

MAX_UNDELIVERED = 32
"""Results that may wait for a subscriber of a stream that loses nothing, before no more keyframes are run for it."""

MAX_ATTEMPTS = 2
"""How often a keyframe of a dead batch runs again."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a sampled frame lies: the n-th sample of the stream, and the generation it was written as."""

    number: int
    generation: int


@dataclass(eq=False, slots=True)
class Pending:
    """A keyframe on its way. Times are of ``time.monotonic``.

    ``seen_at``: a frame at or after its moment was received; ``frame_at``: its last needed one was; ``ready_at``: that
    one is decoded; ``done_at``: its result is there. ``reclaimed``: its slots were given to newer frames while it ran,
    so it cannot run again.
    """

    keyframe: Keyframe
    seen_at: float
    stream: Stream
    state: State = "early"
    frame_at: float = 0.0
    ready_at: float = 0.0
    started_at: float = 0.0
    done_at: float = 0.0
    attempts: int = 0
    reclaimed: bool = False
    warming: bool = False
    outcome: Outcome | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker is told of one keyframe: slots and the generations it must find in them."""

    slots: tuple[int, ...]
    generations: tuple[int, ...]


@dataclass(slots=True)
class Stream:
    """See the module. ``deliver`` is called with every settled keyframe, in order.

    ``bank`` is what an online long-term model has seen of the stream. It lives here, so that no worker's end ends it.
    """

    id: int
    source: Source
    policy: Policy
    schedule: KeyframeSchedule
    options: DetectOptions
    deadline_s: float
    deliver: Callable[[Pending], None]
    bank: OnlineBank | None = None
    ring: RingShape | None = None
    frame_width: int = 0
    frame_height: int = 0
    ended: bool = False
    undelivered: int = 0
    served_at: float = 0.0
    summary: Summary = field(default_factory=Summary)
    _timeline: SampleHistory[Slot] | None = None
    _next_seq: int = 0
    _next: Keyframe | None = None
    _in_order: deque[Pending] = field(default_factory=deque)
    _newest_index: int = -1

    def open(self, width: int, height: int, ring: RingShape, rate: float | None) -> None:
        """The first frame is known: its displayed size, the ring that was made for it, the container's rate."""
        self.frame_width, self.frame_height, self.ring = width, height, ring
        self._timeline = SampleHistory(self.schedule.grid, 1e6 / rate if rate else None)
        self._next = self.schedule.keyframe(self._next_seq)

    # -- frames in

    def note_frame(self, pts_us: int, received_at: float, now: float) -> None:
        """A frame arrived, kept or not. Keyframes up to its timestamp come into being."""
        assert self._timeline is not None
        assert self._next is not None
        self._timeline.observe(pts_us)
        self._newest_index = self.schedule.grid.first_served(pts_us)
        while self._next.pts_us <= pts_us:
            self._in_order.append(Pending(self._next, received_at, self))
            self.summary.keyframes_due += 1
            self._next_seq += 1
            self._next = self.schedule.keyframe(self._next_seq)
        complete = [p for p in self._in_order if p.state == "early" and self._is_complete(p.keyframe, pts_us)]
        for pending in complete:
            pending.state, pending.frame_at, pending.ready_at = "ready", received_at, now
        if complete and self.policy == "latest":  # newest wins
            self._supersede_before(complete[-1])

    def note_sample(self, number: int, generation: int, index: int, pts_us: int) -> None:
        """A frame was written to the ring, or its slot was written again by a later one that serves the same index."""
        assert self._timeline is not None
        self.summary.sampled = max(self.summary.sampled, number + 1)
        self._timeline.keep(Sample(index, pts_us, Slot(number, generation)))
        self._forget()

    def flush(self, now: float) -> None:
        """Run what is pending with what is there: look-ahead that has not come repeats the newest frame."""
        for pending in self._in_order:
            if pending.state == "early":
                pending.state, pending.frame_at, pending.ready_at = "ready", now, now

    def end(self, now: float) -> None:
        """No more frames will come."""
        self.ended = True
        if self._timeline is None or not len(self._timeline):  # nothing was ever written: there is nothing to run on
            for pending in list(self._in_order):
                self.settle(pending, "error")
        self.flush(now)

    def _is_complete(self, keyframe: Keyframe, pts_us: int) -> bool:
        if self.policy == "all":  # no later frame may still change the window
            return self._newest_index > keyframe.last
        return pts_us >= keyframe.due_pts_us

    def _supersede_before(self, newest: Pending) -> None:
        for older in list(self._in_order):
            if older.state == "ready" and older.attempts == 0 and older.keyframe.seq < newest.keyframe.seq:
                self.settle(older, "superseded")

    # -- keyframes out

    def ready(self) -> list[Pending]:
        """The keyframes that could run now, oldest first; none while the subscriber is too far behind."""
        if self.policy == "all" and self.undelivered >= MAX_UNDELIVERED:
            return []
        ready = [p for p in self._in_order if p.state == "ready"]
        if self.bank is None:
            return ready
        # a keyframe's window holds the entry of the one before: one is in flight at a time
        busy = any(p.state in ("copying", "running") for p in self._in_order)
        return [] if busy else ready[:1]

    def take(self, pending: Pending, now: float) -> Lease:
        """Lease a ready keyframe's slots: they are not written to until ``copied`` or ``release``."""
        assert self._timeline is not None
        assert self.ring is not None
        assert pending.state == "ready"
        pending.state, pending.started_at, self.served_at = "copying", now, now
        keyframe = pending.keyframe
        pending.warming = not self._timeline.is_whole(keyframe.first, keyframe.last)
        slots = [s.frame for s in self._timeline.at(keyframe.indices)]
        return Lease(tuple(s.number % self.ring.capacity for s in slots), tuple(s.generation for s in slots))

    def copied(self, pending: Pending) -> None:
        """The worker has its own copy: a live stream's writer may have the slots if it needs them."""
        if pending.state == "copying":
            pending.state = "running"

    def release(self, pending: Pending, *, blame: bool = True) -> None:
        """Ready again, unless its frames are gone: its batch died, or (no ``blame``) found a slot written anew."""
        if pending.state == "settled":
            return
        pending.attempts += blame
        if pending.reclaimed:  # while its worker was stuck, newer frames came and went where its own were
            self.settle(pending, "superseded")
        elif pending.attempts > MAX_ATTEMPTS:
            self.settle(pending, "worker_lost")
        else:
            pending.state = "ready"

    def remember(self, pending: Pending, entry: bytes) -> None:
        """A keyframe's entry of the bank, as its worker sent it: (k, 2D) float16."""
        assert self.bank is not None
        if pending.state != "settled":  # a cancelled one leaves no trace
            queries = np.frombuffer(entry, np.float16).reshape(self.bank.shape[1:])
            self.bank.add(second_of(pending.keyframe.pts_us), queries)

    def settle(self, pending: Pending, outcome: Outcome, result: dict[str, Any] | None = None) -> None:
        """A keyframe's end, whichever it is; delivers all settled ones at the head of the line."""
        if pending.state == "settled":
            return
        pending.state, pending.outcome, pending.result = "settled", outcome, result
        setattr(self.summary, outcome, getattr(self.summary, outcome) + 1)
        while self._in_order and self._in_order[0].state == "settled":
            self.deliver(self._in_order.popleft())
        self._forget()

    def expire(self, now: float) -> None:
        """Live: settle what has waited past its deadline."""
        for pending in self._expirable():
            if now >= self.deadline_at(pending):
                self.settle(pending, "deadline")

    def deadline_at(self, pending: Pending) -> float:
        """When a keyframe is no longer worth starting, counted from when its look-ahead should have come."""
        return pending.seen_at + self.schedule.lookahead_ms / 1000 + self.deadline_s

    def next_deadline(self) -> float | None:
        """The next moment at which ``expire`` has something to do."""
        return min(map(self.deadline_at, self._expirable()), default=None)

    def _expirable(self) -> list[Pending]:
        if self.policy == "all" or self.ended:
            return []
        return [p for p in self._in_order if p.state in ("early", "ready")]

    def cancel(self) -> None:
        """The stream ends now: everything on its way counts as cancelled."""
        self.ended = True
        for pending in list(self._in_order):
            self.settle(pending, "cancelled")

    @property
    def finished(self) -> bool:
        """No more frames and nothing on its way."""
        return self.ended and not self._in_order

    def snapshot(self) -> Summary:
        """The counts so far, what is on its way as ``pending``."""
        pending = sum(1 for p in self._in_order if p.state != "settled")
        return self.summary.model_copy(update={"pending": pending, "dropped": dict(self.summary.dropped)})

    @property
    def newest(self) -> Sample[Slot] | None:
        """The newest sampled frame."""
        return None if self._timeline is None else self._timeline.newest

    @property
    def newest_pts_us(self) -> int:
        """The newest frame's timestamp, sampled or not; -1 before the first."""
        newest = None if self._timeline is None else self._timeline.newest_pts_us
        return -1 if newest is None else newest

    # -- ring space

    def write_limit(self) -> int:
        """Samples with numbers below this may be written without touching what a keyframe still needs."""
        assert self._timeline is not None
        assert self.ring is not None
        if not len(self._timeline):
            return self.ring.capacity
        oldest = self._timeline.at((-1,))[0]
        return oldest.frame.number + self.ring.capacity

    def make_room(self, number: int) -> None:
        """Live: give up keyframes, oldest first, until sample ``number`` may be written; never one being copied."""
        if self.policy == "all":
            return
        for pending in list(self._in_order):
            if number < self.write_limit():
                return
            if pending.state in ("early", "ready"):
                self.settle(pending, "superseded")
            elif pending.state == "running":
                pending.reclaimed = True
                self._forget()

    def _forget(self) -> None:
        if self._timeline is None or self._next is None or not len(self._timeline):
            return
        # keyframes are in order, so the first that is still needed reaches back furthest
        needed = (p.keyframe.first for p in self._in_order if p.state != "settled" and not p.reclaimed)
        self._timeline.forget_before(next(needed, self._next.first))
