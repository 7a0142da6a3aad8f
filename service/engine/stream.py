"""One stream's state: frames on the grid, keyframes from due to settled, and the counts that must add up.

Pure: told what happened and what time it is, asked what to do. No sockets, tasks or torch, so a fake clock tests it.
Whoever drives it, the engine or the offline one, calls what changes a keyframe; besides, its session sets ``options``,
``bank`` and ``undelivered``, and ``FrameCounts`` counts frames in ``summary``.

    arriving frame → note_frame(): keyframes come into being, "early" until their look-ahead is there, then "ready";
    those that a gap jumped over are counted as superseded and never come into being
    → take() by the engine: "copying", its slots may not be written → copied(): "running"
    → settle(outcome): "settled", delivered in order; or release(): "ready" again
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stmixer.media.grid import Sample, SampleHistory
from stmixer.model.query_bank import OnlineBank, second_of
from stmixer.model.smoothing import ActionScores, SmoothedActions
from stmixer.model.tracks import Tracks
from stmixer.service.engine.keyframes import Keyframe, KeyframeSchedule
from stmixer.service.ipc.messages import JobOrder, PictureSize, settle_actor
from stmixer.service.ipc.ring import RingMemory
from stmixer.service.schemas import DetectOptions, Outcome, Result, Summary, TrackChange

Policy = Literal["latest", "all"]
SourceKind = Literal["ws", "pull", "upload"]
State = Literal["early", "ready", "copying", "running", "settled"]

MAX_UNDELIVERED = 32
"""Results that may wait for a subscriber of a stream that loses nothing, before no more keyframes are run for it."""

LONGEST_STILL_US = 10_000_000
"""Policy ``all``: how long a frame stands for keyframes until the next one comes; those after that are not run."""

MAX_ATTEMPTS = 2
"""How often a keyframe of a dead batch runs again."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a sampled frame lies: the n-th sample of the stream, and the generation it was written as.

    ``size``: None for a frame like the stream's first.
    """

    number: int
    generation: int
    size: PictureSize | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A keyframe's result, and the frame in which that was found."""

    slot: Slot
    result: Result


@dataclass(eq=False, slots=True)
class Pending:
    """A keyframe on its way. Times are of ``time.monotonic``.

    ``seen_at``: a frame at or after its moment was received; ``frame_at``: its last needed one was; ``ready_at``: that
    one is decoded; ``done_at``: its result is there. ``reclaimed``: its slots were given to newer frames while it ran,
    so it cannot run again. ``tracks``: who has come with it, and who had gone by then. ``skipped_before``: keyframes
    right before it that a gap jumped over; they are in the summary as superseded, and nobody is told of them but by
    this number. ``slot``: its own picture, ``width``, ``height`` that one's px as shown, once it runs. ``scores``: of
    its people and all actions; ``looks``: what they are told apart by besides their boxes.
    """

    keyframe: Keyframe
    seen_at: float
    stream: Stream
    skipped_before: int = 0
    state: State = "early"
    frame_at: float = 0.0
    ready_at: float = 0.0
    started_at: float = 0.0
    done_at: float = 0.0
    attempts: int = 0
    reclaimed: bool = False
    warming: bool = False
    slot: Slot | None = None
    width: int = 0
    height: int = 0
    outcome: Outcome | None = None
    result: Result | None = None
    scores: ActionScores | None = None
    looks: NDArray[np.float16] | None = None
    tracks: list[TrackChange] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Stream:
    """See the module. ``deliver`` is called with every settled keyframe, in order; ``begin_anew`` where another model
    is the default that cannot go on with it, and running streams are not to stay behind; ``stay`` where they are to,
    whatever was said before.

    ``ring``: its frames' memory, its own from ``open`` until ``close_ring``. ``clip_size``: the padded size of its
    clips at the model's input, which decides whose keyframes may share a batch. ``bank`` is what an online long-term
    model has seen of the stream, ``tracks`` who its people are, ``smoothed`` what each of them does. They live here, so
    that no worker's end ends them.
    ``newest``: the newest sampled frame; ``found``: the newest keyframe with a result;
    ``newest_pts_us``: the newest frame's timestamp, sampled or not, -1 before the first.
    """

    id: int
    source: SourceKind
    policy: Policy
    schedule: KeyframeSchedule
    options: DetectOptions
    deadline_s: float
    deliver: Callable[[Pending], None]
    begin_anew: Callable[[], None] = lambda: None
    stay: Callable[[], None] = lambda: None
    bank: OnlineBank | None = None
    tracks: Tracks = field(default_factory=Tracks)
    smoothed: SmoothedActions = field(default_factory=SmoothedActions)
    ring: RingMemory | None = None
    clip_size: tuple[int, int] = (0, 0)
    frame_width: int = 0
    frame_height: int = 0
    ended: bool = False
    newest: Sample[Slot] | None = None
    found: Found | None = None
    newest_pts_us: int = -1
    undelivered: int = 0
    served_at: float = 0.0
    summary: Summary = field(default_factory=Summary)
    _timeline: SampleHistory[Slot] | None = None
    _next: Keyframe | None = None
    _skipped: int = 0
    _seen_by: str = ""
    _in_order: deque[Pending] = field(default_factory=deque)

    def open(self, width: int, height: int, ring: RingMemory, rate: float | None) -> None:
        """The first frame is known: its displayed size, the ring that was made for it, the container's rate."""
        self.frame_width, self.frame_height, self.ring = width, height, ring
        self._timeline = SampleHistory(self.schedule.grid, 1e6 / rate if rate else None)
        self._next = self.schedule.keyframe(0)

    def close_ring(self) -> None:
        """Give up the ring's memory; nothing runs any more."""
        if self.ring is not None:
            self.ring.close()

    # -- frames in

    def note_frame(self, pts_us: int, received_at: float, now: float) -> int:
        """A frame arrived, kept or not. Keyframes up to its timestamp come into being; those whose look-ahead ends with
        it are ready, and live the newest of them wins. Returns how many a gap jumped over instead.
        """
        timeline, before_us = self._timeline, self.newest_pts_us
        assert timeline is not None
        assert self._next is not None
        timeline.observe(pts_us)
        skipped, self.newest_pts_us = 0, pts_us
        if self._next.pts_us <= pts_us:
            skipped = self._bring_up_to(pts_us, before_us, received_at)
        newest, live = None, self.policy == "latest"
        served = self.schedule.grid.first_served(pts_us)
        for pending in self._early():
            keyframe = pending.keyframe
            if pts_us < keyframe.due_pts_us if live else served <= keyframe.indices[-1]:
                break  # where nothing is skipped: a later frame may still change the window
            pending.state, pending.frame_at, pending.ready_at = "ready", received_at, now
            newest = pending
        if newest is not None and live:
            for older in [p for p in self._in_order if p.state == "ready" and p.attempts == 0 and p is not newest]:
                self.settle(older, "superseded")
        return skipped

    def _early(self) -> list[Pending]:
        """Those that wait for their look-ahead, oldest first: they are the last in line, before which may be many."""
        early = itertools.takewhile(lambda pending: pending.state == "early", reversed(self._in_order))
        return list(early)[::-1]

    def _bring_up_to(self, pts_us: int, before_us: int, received_at: float) -> int:
        """Keyframes up to a frame come into being. Returns how many it jumped over: at constant cost, however many.

        Live those are all complete ones but the newest; where nothing is skipped, those for which the frame before this
        one, at ``before_us`` (-1 where there is none), would have to stand for too long. Of frames that are told of and
        never written (broken pictures) none stands for longer than that either.
        """
        keyframe, skipped, schedule = self._next, 0, self.schedule
        assert keyframe is not None
        first = behind = keyframe.seq  # jumped over: first <= seq < behind
        if self.policy == "latest":
            behind = schedule.last_at(pts_us - schedule.lookahead_us)
        else:
            written_us = 0 if self.newest is None else self.newest.pts_us  # what was at t = 0 may have been broken
            since_us = min(max(before_us, 0), written_us + LONGEST_STILL_US)
            if pts_us - since_us > LONGEST_STILL_US:
                shown_us = pts_us if since_us < before_us else pts_us - 1  # a keyframe of its moment shows this one
                first, behind = schedule.last_at(since_us + LONGEST_STILL_US) + 1, schedule.last_at(shown_us) + 1
        while keyframe.pts_us <= pts_us:
            if first <= keyframe.seq < behind:
                skipped = behind - keyframe.seq
                self._skipped += skipped
                keyframe = schedule.keyframe(behind)
                continue
            self._in_order.append(Pending(keyframe, received_at, self, self._skipped))
            self._skipped = 0
            self.summary.keyframes_due += 1
            keyframe = schedule.keyframe(keyframe.seq + 1)
        self._next = keyframe
        self.summary.keyframes_due += skipped
        self.summary.superseded += skipped
        return skipped

    def note_sample(
        self, number: int, generation: int, index: int, pts_us: int, size: PictureSize | None = None
    ) -> None:
        """A frame was written to the ring, or its slot was written again by a later one that serves the same index."""
        assert self._timeline is not None
        self.summary.sampled = max(self.summary.sampled, number + 1)
        self.newest = Sample(index, pts_us, Slot(number, generation, size))
        self._timeline.keep(self.newest)
        self._forget()

    def flush(self, now: float) -> None:
        """Run what is pending with what is there: look-ahead that has not come repeats the newest frame."""
        for pending in self._in_order:
            if pending.state == "early":
                pending.state, pending.frame_at, pending.ready_at = "ready", now, now

    def end(self, now: float) -> None:
        """No more frames will come."""
        self.ended = True
        if self.newest is None:  # nothing was ever written: there is nothing to run on
            for pending in list(self._in_order):
                self.settle(pending, "error")
        self.flush(now)

    # -- keyframes out

    def ready(self, most: int | None = None) -> list[Pending]:
        """The keyframes that could run now, oldest first; none before the first sample is written, nor while the
        subscriber is too far behind. ``most``: so many are enough of a stream that loses nothing.
        """
        if self.newest is None or (self.policy == "all" and self.undelivered >= MAX_UNDELIVERED):
            return []
        found = (p for p in self._in_order if p.state == "ready")
        ready = list(itertools.islice(found, most if self.policy == "all" else None))
        if self.bank is None:
            return ready
        # a keyframe's window holds the entry of the one before: one is in flight at a time
        busy = any(p.state in ("copying", "running") for p in self._in_order)
        return [] if busy else ready[:1]

    def take(self, pending: Pending, now: float) -> JobOrder:
        """Lease a ready keyframe's slots: they are not written to until ``copied`` or ``release``. What is to run."""
        assert self._timeline is not None
        assert self.ring is not None
        assert pending.state == "ready"
        pending.state, pending.started_at, self.served_at = "copying", now, now
        keyframe = pending.keyframe
        slots, capacity = [s.frame for s in self._timeline.at(keyframe.indices)], self.ring.shape.capacity
        whole = self._timeline.is_whole(keyframe.indices[0], keyframe.indices[-1])
        pending.warming = not whole or any(slot.size != slots[0].size for slot in slots)
        pending.slot = slots[len(slots) // 2]
        own = pending.slot.size
        pending.width, pending.height = (own.width, own.height) if own else (self.frame_width, self.frame_height)
        wanted = self.options
        return JobOrder(
            self.id, tuple([s.number % capacity for s in slots]), tuple([s.generation for s in slots]),
            pending.width, pending.height, wanted.score_threshold, wanted.top_k, wanted.action_threshold,
            (own.input_width, own.input_height) if own else None,
        )  # fmt: skip

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
        elif self.ended and not blame:  # nobody writes any more: what is not there now will never be
            self.settle(pending, "error")
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

    def settle(
        self,
        pending: Pending,
        outcome: Outcome,
        result: Result | None = None,
        scores: ActionScores | None = None,
        looks: NDArray[np.float16] | None = None,
    ) -> None:
        """A keyframe's end, whichever it is; delivers all settled ones at the head of the line.

        ``scores``: of the result's actors and all actions; left out where the actors have none. ``looks``: what the
        model knows of each, (actors, 2D) unit vectors; left out where nothing is known.
        """
        if pending.state == "settled":
            return
        pending.state, pending.outcome, pending.result = "settled", outcome, result
        pending.scores, pending.looks = scores, looks
        setattr(self.summary, outcome, getattr(self.summary, outcome) + 1)
        while self._in_order and self._in_order[0].state == "settled":
            first = self._in_order.popleft()
            if first.result is not None:
                self._track(first, first.result)
                if first.slot is not None:
                    self.found = Found(first.slot, first.result)
            self.deliver(first)
        self._forget()

    def _track(self, pending: Pending, result: Result) -> None:
        """Say who the people of the next keyframe in order are, and what each has been doing."""
        boxes = np.array([actor.box_px for actor in result.actors]).reshape(-1, 4)
        at_s, period_s = result.pts_us / 1e6, self.schedule.period_us / 1e6
        longest_s = max(self.options.track_max_gap_s, 1.5 * period_s)
        if result.model != self._seen_by:  # another's queries do not compare
            self.tracks.forget_looks()
            self._seen_by = result.model
        changes = self.tracks.update(at_s, boxes, result.frame.height, longest_s, pending.looks)
        scores = pending.scores or ActionScores.nothing(len(boxes))
        smoothed = self.smoothed.update(at_s, changes, scores, period_s=period_s, warming=result.warming).tolist()
        pending.tracks = [
            TrackChange.model_construct(track_id=number, state=state, seq=result.seq, pts_us=result.pts_us)
            for state, numbers in (("end", changes.ended), ("start", changes.started))
            for number in numbers
        ]
        if not result.actors:
            return
        for actor, number, doing in zip(result.actors, changes.ids.tolist(), smoothed, strict=True):
            settle_actor(actor, number, dict(zip(scores.labels, doing, strict=True)))

    def expire(self, now: float) -> float | None:
        """Live: settle what has waited past its deadline. Returns the next moment at which there is something to do.

        A keyframe is worth starting until ``deadline_s`` after its look-ahead should have come.
        """
        if self.policy == "all" or self.ended:
            return None
        patience_s = self.schedule.lookahead_ms / 1000 + self.deadline_s
        for pending in list(self._in_order):
            if pending.state in ("early", "ready"):
                if now < pending.seen_at + patience_s:  # later ones were seen later
                    return pending.seen_at + patience_s
                self.settle(pending, "deadline")
        return None

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

    # -- ring space

    def write_limit(self) -> int:
        """Samples with numbers below this may be written without touching what a keyframe still needs."""
        assert self._timeline is not None
        assert self.ring is not None
        if self.newest is None:
            return self.ring.shape.capacity
        oldest = self._timeline.at((-1,))[0]
        return oldest.frame.number + self.ring.shape.capacity

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
        if self._timeline is None or self._next is None or self.newest is None:
            return
        # keyframes are in order, so the first that is still needed reaches back furthest
        needed = self._next
        for pending in self._in_order:
            if pending.state != "settled" and not pending.reclaimed:
                needed = pending.keyframe
                break
        self._timeline.forget_before(needed.indices[0])
