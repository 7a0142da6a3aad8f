"""How many replicas there are to be: by streams and by how old keyframes are when they are told, not by requests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve.config import AutoscalingContext

UNHEARD_S = 60.0
"""So long one that runs may have said nothing yet: Serve takes what they say every 10 s."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one replica: its streams, how many it can have, and seconds from capture to result."""

    streams: float
    capacity: float
    keyframe_age_s: float


def needed(replicas: Sequence[Measured], now: int, coming: int, filled: float, keyframe_age_s: float) -> int:
    """Replicas that these streams want, each ``filled`` (0..1) of what it can have; ``now``: how many there are to be,
    ``coming``: those of them that will say soon how they are.

    One more where keyframes are older than ``keyframe_age_s`` wherever a new stream could go, however few streams there
    are: a stream stays where it is, so one more helps those that come, and these go to whom is in time (``choice``,
    ``placing``). No fewer while they are that old anywhere, nor where those that stay would be fuller than nine tenths
    of that: else the next stream would bring it back.
    """
    if not replicas:
        return now
    streams = sum(one.streams for one in replicas)
    room = filled * max(1.0, sum(one.capacity for one in replicas) / len(replicas))
    wanted = max(1, math.ceil(streams / room))
    in_time = [one for one in replicas if one.keyframe_age_s <= keyframe_age_s]
    if len(in_time) < len(replicas):
        helped = coming > 0 or any(one.streams < filled * one.capacity for one in in_time)
        return max(wanted, now if helped else now + 1)
    if wanted >= now:
        return wanted
    return max(wanted, min(now, math.ceil(streams / (0.9 * room))))


class StreamScaling:
    """Serve's autoscaling policy; see ``needed``. What it goes by is ``Replica.record_autoscaling_stats``."""

    def __init__(self, filled: float, keyframe_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._filled, self._keyframe_age_s, self._clock = filled, keyframe_age_s, clock
        self._unheard_since: dict[Any, float] = {}

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many, within the limits that are configured."""
        told = context.aggregated_metrics or {}
        streams, capacity, ages = (told.get(name, {}) for name in ("streams", "capacity", "keyframe_age_s"))
        replicas = [Measured(streams[r], capacity.get(r, 0.0), ages.get(r, 0.0)) for r in streams]
        now, coming = context.target_num_replicas, self._coming(context, streams.keys())
        wanted = needed(replicas, now, coming, self._filled, self._keyframe_age_s)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(high, max(low, wanted)), {}

    def _coming(self, context: AutoscalingContext, heard: Collection[Any]) -> int:
        """Replicas that start, and those that run and have not been heard of for a moment: no longer than that, or one
        that can say nothing would keep others from being started for ever."""
        now = self._clock()
        unheard = [replica for replica in context.running_replicas if replica not in heard]
        self._unheard_since = {replica: self._unheard_since.get(replica, now) for replica in unheard}
        starting = max(0, context.target_num_replicas - context.current_num_replicas)
        return starting + sum(now - since <= UNHEARD_S for since in self._unheard_since.values())
