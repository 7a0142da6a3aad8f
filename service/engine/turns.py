"""Who runs where there is not time for all live streams: they take turns, each a run of keyframes. Pure.

A keyframe is cheap after its neighbour, with whose window it shares most frames, and dear after a pause: every frame of
its window is new. Left to chance, overload makes each keyframe dear, and fewer come than without it. Thinning every
stream evenly does nearly the same, for windows that lie further apart share less. So as many streams as there is time
for have their turn, on their whole grid, and the others wait; a turn is long enough for its dear beginning not to
matter, and whoever has had least comes next. The frames of those that wait are never run.

Where neighbours share nothing (rare keyframes, models that keep nothing of a frame) there are no turns.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from stmixer.service.engine.cost import KeyframeCost
from stmixer.service.engine.keyframes import Keyframe
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.ipc.messages import JobOrder

CROWDED, CALM = 1.0, 0.9
"""Turns begin where all keyframes would take more of a worker's time than the first, and end below the second."""
FULL = 0.97
"""No turn begins where those that run take so much of it: what is left is for one more, which has it in part."""
SURELY_IN_TIME = 0.85
"""Streams that take less than this together are in each other's way for a moment at most."""
STARTS_SHARE, MOST_FOR_STARTS = 0.02, 0.08
"""What the beginnings of turns may cost, of all, at a load of 1, in proportion to the load, and at most: pauses grow
with the load, and shorter turns make them shorter."""
LONGEST_TURN_S = 12.0


@dataclass(slots=True)
class Turn:
    """What is known of a stream. ``spent_s``: what it has had of the worker; ``served``: keyframes of its turn.

    ``last``: the keyframe that ran last, and ``known``: the generations of its frames. ``fresh``: frames of a keyframe
    that the one before it does not have. ``ready_at``: when its newest keyframe became ready.
    """

    fresh: float
    spent_s: float = 0.0
    served: int = 0
    ready_at: float = -math.inf
    last: Keyframe | None = None
    known: frozenset[int] = frozenset()


class Turns:
    """All streams' turns. ``crowded``: whether there are any, or everybody runs."""

    def __init__(self) -> None:
        self.crowded = False
        self._loads: dict[int, float] = {}
        self._of: dict[int, Turn] = {}
        self._running: list[Stream] = []

    @property
    def load(self) -> float:
        """Seconds of the worker a second that all live keyframes would take, if all of them ran."""
        return sum(self._loads.values())

    def leased(self, pending: Pending, order: JobOrder, cost: KeyframeCost | None) -> int:
        """A keyframe runs. Returns how many of its frames are new to the worker."""
        turn, frames = self._turn(pending.stream), frozenset(order.generations)
        new = len(frames - turn.known)
        if turn.last is not None and pending.keyframe.seq == turn.last.seq + 1:
            turn.fresh = new
        turn.last, turn.known = pending.keyframe, frames
        turn.served += 1
        if cost is not None:
            turn.spent_s += cost.seconds(new)
        return new

    def forget_frames(self) -> None:
        """A new worker knows no frame of anybody's."""
        for turn in self._of.values():
            turn.known = frozenset()

    def forget(self, stream: Stream) -> None:
        """A stream is gone, its share with it."""
        self._of.pop(stream.id, None)
        self._loads.pop(stream.id, None)
        self._running = [other for other in self._running if other is not stream]

    def allowed(
        self, streams: Collection[Stream], queues: Sequence[list[Pending]], now: float, cost: KeyframeCost
    ) -> tuple[list[list[Pending]], float | None]:
        """Of the streams' ready keyframes, a list each, those that may run now, in order; when to ask again."""
        leaving = [queue for queue in queues if _leaves(queue[0].stream)]  # no turn of theirs would come
        queues = [queue for queue in queues if not _leaves(queue[0].stream)]
        streams = [stream for stream in streams if not _leaves(stream)]
        heads = {pending.stream.id: pending for queue in queues for pending in queue if not pending.attempts}
        flowing = self._flowing(streams, heads, now)
        loads = self._loads = {stream.id: self._load(stream, cost) for stream in flowing}
        if self.load > CROWDED and not self.crowded and self._share(flowing, cost):
            self._begin(flowing, loads, cost)
        elif self.load < CALM:
            self.crowded = False
        if not self.crowded:
            return [*leaving, *queues], None
        patient, again = self._patient(queues, len(flowing), now, cost)
        waiting = sum(queue[0].stream.policy == "all" for queue in queues)
        full = FULL * len(flowing) / max(1, len(flowing) + waiting)
        self._end_turns(flowing, cost)
        self._begin_turns(flowing, heads, loads, full, now, cost)
        suspects = [queue[:1] for queue in queues if queue[0].attempts]
        return [*leaving, *suspects, *patient, *([head] for head in self._in_time(heads, loads, now, cost))], again

    # -- what is known of streams

    def _turn(self, stream: Stream) -> Turn:
        turn = self._of.get(stream.id)
        if turn is None:
            first, second = (set(stream.schedule.keyframe(seq).indices) for seq in (100, 101))
            turn = self._of[stream.id] = Turn(float(len(second - first)))
        return turn

    def _flowing(self, streams: Iterable[Stream], heads: dict[int, Pending], now: float) -> list[Stream]:
        """The live streams whose keyframes come. One that was away has no claim to what it did not take then."""
        flowing = []
        for stream in streams:
            if stream.policy == "all":
                continue
            turn, patience_s = self._turn(stream), max(1.0, 3 * period_s(stream))
            if (head := heads.get(stream.id)) is not None:
                if head.ready_at - turn.ready_at > patience_s:
                    others = [other.spent_s for other in self._of.values() if now - other.ready_at < patience_s]
                    turn.spent_s = max(turn.spent_s, min(others, default=0.0))
                turn.ready_at = head.ready_at
            if now - turn.ready_at <= patience_s:
                flowing.append(stream)
        return flowing

    def _load(self, stream: Stream, cost: KeyframeCost) -> float:
        return cost.seconds(self._turn(stream).fresh) / period_s(stream)

    def _new_frames(self, pending: Pending, cost: KeyframeCost) -> float:
        """Of a keyframe, if it ran next of its stream."""
        turn = self._turn(pending.stream)
        if turn.last is None:
            return float(cost.window)
        return min(float(len(turn.known)), turn.fresh * (pending.keyframe.seq - turn.last.seq))

    def _length(self, stream: Stream, cost: KeyframeCost) -> int:
        """Keyframes of a turn: as many as make its beginning cheap enough; 1 where neighbours share nothing."""
        fresh = min(self._turn(stream).fresh, float(cost.window))
        each_s = cost.seconds(fresh)
        share = min(MOST_FOR_STARTS, STARTS_SHARE * max(1.0, self.load))
        wanted = math.ceil((cost.seconds(cost.window) - each_s) / (share * each_s) - 1e-9)
        return max(1, min(wanted, int(LONGEST_TURN_S / period_s(stream))))

    def _share(self, streams: Iterable[Stream], cost: KeyframeCost) -> bool:
        return cost.keeps_features and any(self._length(stream, cost) > 1 for stream in streams)

    # -- turns

    def _begin(self, flowing: Sequence[Stream], loads: dict[int, float], cost: KeyframeCost) -> None:
        """From now on turns: first of those whose frames are known, which end one after the other."""
        self.crowded, self._running, taken = True, [], 0.0
        for stream in sorted(flowing, key=lambda stream: -stream.served_at):
            turn = self._turn(stream)
            turn.spent_s = turn.served = 0
            if taken < FULL:
                self._running.append(stream)
                taken += loads[stream.id]
        for place, stream in enumerate(self._running):
            length = self._length(stream, cost)
            self._turn(stream).served = length - 1 - place * length // len(self._running)

    def _end_turns(self, flowing: Sequence[Stream], cost: KeyframeCost) -> None:
        """Turns are over that have run their length, or begin anew where nobody waits; and those without keyframes."""
        running = [stream for stream in self._running if stream in flowing]
        over = [stream for stream in running if self._turn(stream).served >= self._length(stream, cost)]
        self._running = [stream for stream in running if stream not in over]
        if len(running) == len(flowing):
            self._running += over
            for stream in over:
                self._turn(stream).served = 0

    def _begin_turns(
        self, flowing: Sequence[Stream], heads: dict[int, Pending], loads: dict[int, float], full: float, now: float,
        cost: KeyframeCost,
    ) -> None:  # fmt: skip
        """Whoever has had least is next, as long as there is time, and no running one loses a keyframe by it.

        Where neighbours share nothing a turn is one keyframe, whenever the stream has had no more than the others.
        """
        waiting = [stream for stream in flowing if stream not in self._running and stream.id in heads]
        least_s = min((self._turn(stream).spent_s for stream in waiting), default=0.0)

        def place(stream: Stream) -> tuple[int, float]:
            turn = self._turn(stream)
            half_turn_s = self._length(stream, cost) * cost.seconds(turn.fresh) / 2
            return int((turn.spent_s - least_s) / half_turn_s), stream.served_at

        waiting.sort(key=place)  # who has had about as little waits in line: pauses are alike
        taken, begun_s = sum(loads[stream.id] for stream in self._running), 0.0
        mean_s = sum(self._turn(stream).spent_s for stream in flowing) / max(1, len(flowing))
        single = [
            stream for stream in waiting if self._turn(stream).spent_s <= mean_s and self._length(stream, cost) == 1
        ]
        self._running[:0] = single
        for stream in single:
            self._turn(stream).served = 0
        for stream in (stream for stream in waiting if stream not in single):
            begun_s += cost.seconds(self._new_frames(heads[stream.id], cost))
            if self._running and (
                taken >= full or not self._fits(now + begun_s, self._running, heads, loads, now, cost)
            ):
                return
            self._turn(stream).served = 0
            self._running.append(stream)
            taken += loads[stream.id]

    def _in_time(
        self, heads: dict[int, Pending], loads: dict[int, float], now: float, cost: KeyframeCost
    ) -> list[Pending]:
        """The ready ones of those that run, but none that would cost one that began before it a keyframe."""
        chosen: list[Pending] = []
        others = dict(heads)
        taken, ends_at = 0.0, now
        for place, stream in enumerate(self._running):
            taken += loads[stream.id]
            if (head := heads.get(stream.id)) is None:
                continue
            end = ends_at + cost.seconds(self._new_frames(head, cost))
            if taken > SURELY_IN_TIME and not self._fits(end, self._running[:place], others, loads, now, cost):
                continue
            chosen.append(head)
            del others[stream.id]
            ends_at = end
        return chosen

    def _fits(
        self, free_at: float, streams: Sequence[Stream], heads: dict[int, Pending], loads: dict[int, float], now: float,
        cost: KeyframeCost,
    ) -> bool:  # fmt: skip
        """Whether each stream's next keyframe still begins before the one after it is there, if the worker is busy
        until ``free_at``."""
        coming = []
        for stream in streams:
            period, ready_at = period_s(stream), self._turn(stream).ready_at
            if stream.id not in heads:
                ready_at += period * max(1, math.ceil((now - ready_at) / period - 0.5))
            coming.append((ready_at + period, ready_at, loads[stream.id] * period))
        for latest, ready_at, seconds in sorted(coming):
            free_at = max(free_at, ready_at)
            if free_at > latest:
                return False
            free_at += seconds
        return True

    def _patient(
        self, queues: Sequence[list[Pending]], live: int, now: float, cost: KeyframeCost
    ) -> tuple[list[list[Pending]], float | None]:
        """Streams that lose nothing have as much of the worker as others: a keyframe whenever each has had its time."""
        found, again = list[list[Pending]](), None
        patient = [queue for queue in queues if queue[0].stream.policy == "all"]
        for queue in patient:
            stream = queue[0].stream
            at = stream.served_at + (live + len(patient)) * cost.seconds(self._turn(stream).fresh)
            if at <= now:
                found.append(queue[:1])
            else:
                again = at if again is None else min(again, at)
        return found, again


def _leaves(stream: Stream) -> bool:
    """Whether a live stream has ended, and only what is left of it is to run."""
    return stream.ended and stream.policy == "latest"


def period_s(stream: Stream) -> float:
    """Time between a stream's keyframes."""
    return stream.schedule.period_us / 1e6
