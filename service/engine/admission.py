"""How many streams a worker can serve: from the keyframes per second that it ran in its warm-up, or runs now. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from stmixer.service.engine.stream import Policy

USABLE = 0.8
"""Of what was measured with nothing else going on: decoding and bursts take their part."""
STREAMS_ALWAYS_TAKEN = 2
"""Streams that are taken however slow the machine: a laptop's camera, and a clip beside it."""


def capacity_of(warmup_s: Mapping[int, float], slower: float = 1.0) -> int:
    """Streams of one keyframe a second, from seconds of a batch by its size; ``STREAMS_ALWAYS_TAKEN`` at least.

    ``slower``: how many times that a keyframe takes now (``cost``).
    """
    best = max(size / seconds for size, seconds in warmup_s.items())
    return max(STREAMS_ALWAYS_TAKEN, int(USABLE * best / slower))


def weight(policy: Policy, keyframe_hz: float, saved: float = 0.0, span_s: float = math.inf) -> float:
    """What a stream takes of the capacity. One that waits, an upload for one, takes what is left, as one of 1 Hz.

    ``saved``: the part of a keyframe's time that is not needed where all frames of its window, ``span_s`` long, are
    known already; of a live stream those are known that lay in the window of the keyframe before.
    """
    if policy != "latest":
        return 1.0
    known = max(0.0, 1 - 1 / (keyframe_hz * span_s))
    return max(1.0, keyframe_hz * (1 - saved * known))


def fits(running: Iterable[float], wanted: float, capacity: float) -> bool:
    """Whether one more stream fits beside those that run. A few always do: live ones skip, others wait."""
    weights = list(running)
    return len(weights) < STREAMS_ALWAYS_TAKEN or sum(weights) + wanted <= capacity


def fits_share(own: Iterable[float], wanted: float, capacity: int, percent: int, *, weighed: bool) -> bool:
    """Whether one more stream of somebody fits the part of the capacity that theirs may take together; one always."""
    weights = list(own)
    taken, more = (sum(weights), wanted) if weighed else (len(weights), 1)
    return not weights or taken + more <= capacity * percent / 100
