"""How many replicas there are to be: by streams and by how old keyframes are when they are told, not by requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve.config import AutoscalingContext


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one replica: its streams, how many it can have, and seconds from capture to result."""

    streams: float
    capacity: float
    keyframe_age_s: float


def needed(replicas: Sequence[Measured], now: int, filled: float, keyframe_age_s: float) -> int:
    """Replicas that these streams want, each ``filled`` (0..1) of what it can have; ``now``: how many there are.

    One more where keyframes are older than ``keyframe_age_s`` wherever a new stream could go, however few streams there
    are: a stream stays where it is, so one more helps those that come. No fewer while they are that old anywhere, nor
    where those that stay would be fuller than nine tenths of that: else the next stream would bring it back.
    """
    if not replicas:
        return now
    streams = sum(one.streams for one in replicas)
    room = filled * max(1.0, sum(one.capacity for one in replicas) / len(replicas))
    wanted = max(1, math.ceil(streams / room))
    in_time = [one for one in replicas if one.keyframe_age_s <= keyframe_age_s]
    if len(in_time) < len(replicas):
        helped = len(replicas) < now or any(one.streams < filled * one.capacity for one in in_time)
        return max(wanted, now if helped else now + 1)
    if wanted >= now:
        return wanted
    return max(wanted, min(now, math.ceil(streams / (0.9 * room))))


class StreamScaling:
    """Serve's autoscaling policy; see ``needed``. What it goes by is ``Replica.record_autoscaling_stats``."""

    def __init__(self, filled: float, keyframe_age_s: float) -> None:
        self._filled, self._keyframe_age_s = filled, keyframe_age_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many, within the limits that are configured."""
        told = context.aggregated_metrics or {}
        streams, capacity, ages = (told.get(name, {}) for name in ("streams", "capacity", "keyframe_age_s"))
        replicas = [Measured(streams[r], capacity.get(r, 0.0), ages.get(r, 0.0)) for r in streams]
        wanted = needed(replicas, context.target_num_replicas, self._filled, self._keyframe_age_s)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(high, max(low, wanted)), {}
