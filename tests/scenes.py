"""Results of made-up people, for rules to look at."""

from __future__ import annotations

from stmixer.service.event_schemas import Event
from stmixer.service.ipc.messages import Action, Actor
from stmixer.service.schemas import FrameSize, Result, Timings

T0_US = 1_800_000_000_000_000
"""Epoch µs of a stream's beginning."""
Box = tuple[float, float, float, float]
PLACES: tuple[Box, ...] = ((0.0, 0.2, 0.2, 0.9), (0.3, 0.2, 0.5, 0.9), (0.6, 0.2, 0.8, 0.9))
"""Where people are, far from each other."""


def person(track: int, box: Box = PLACES[0], score: float = 0.9, **actions: float) -> Actor:
    """``actions`` by name, with their scores."""
    named = tuple(Action(id=n, name=name, score=value) for n, (name, value) in enumerate(actions.items(), 1))
    left, top, right, bottom = box
    return Actor((left * 640, top * 360, right * 640, bottom * 360), box, score, named, track)


def result(at_s: float, *people: Actor, warming: bool = False, since_us: int = T0_US) -> Result:
    """A keyframe at ``at_s`` of its stream, received that long after ``since_us``."""
    return Result(
        seq=round(at_s * 1000), pts_us=round(at_s * 1e6), received_at_us=since_us + round(at_s * 1e6), sent_at_us=0,
        warming=warming, timings_ms=Timings(lookahead=0, decode=0, queue=0, inference=0, postprocess=0),
        dropped_since_last=0, frame=FrameSize(width=640, height=360), actors=people,
    )  # fmt: skip


def fell(track: int, score: float = 0.9, box: Box = PLACES[0]) -> Actor:
    """Somebody who falls with this score."""
    return person(track, box, 0.9, fall=score)


def event(name: str, rule: str = "fall") -> Event:
    """A start of somebody's in ``hall``."""
    return Event(
        event_id=name, rule=rule, stream="hall", state="start", track_id=1, started_at_us=T0_US, ended_at_us=None,
        score_max=0.9, box=PLACES[0], zone=None,
    )  # fmt: skip
