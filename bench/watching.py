"""What it costs to say who is who, what they have been doing and whether that is an event: CPU time of a keyframe.

    python -m bench.watching -o bench/results/watching.json

20 people sway about places of their own at 4 keyframes a second, with scores of all labels of the bundled model, none
left out of the result. Of four streams, keyframe after keyframe in turns, so that what else the machine does meets all
of them: one in which nobody is, one without rules, one with the rule of docs/events.md and one with five of all kinds.
``tracks``: a stream's tracks, filters, and what they change in the result; ``rules``: those, but for the disk, which is
written in a thread of its own. Medians of rounds, with the lowest and highest.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import stmixer
from bench.hardware import measured_on
from stmixer.model.clip import Window
from stmixer.model.smoothing import ActionScores
from stmixer.service.engine.engine import result_of
from stmixer.service.engine.keyframes import KeyframeSchedule
from stmixer.service.engine.stream import Pending, Stream
from stmixer.service.event_schemas import Rule
from stmixer.service.events.store import StreamName
from stmixer.service.events.watched import WatchedStream
from stmixer.service.schemas import Action, Actor, DetectOptions

PEOPLE, HZ, KEYFRAMES, ROUNDS = 20, 4, 300, 5
LOOKS = 128
"""Numbers of the bundled model's queries."""
LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))


def rules_of(names: list[str]) -> list[Rule]:
    """Of each kind: an action, somebody there, an action of many, and those in a zone."""
    zone = LEFT_HALF
    return [
        Rule(id="does", label=names[0], for_s=2, clear_s=30),
        Rule(id="there", person=True, for_s=1),
        Rule(id="zone", person=True, zone=zone, for_s=1),
        Rule(id="does-there", label=names[1], zone=zone, for_s=1),
        Rule(id="crowd", label=names[2], count={"min": 5}, for_s=1),
    ]


@dataclass(eq=False)
class Watched:
    """A stream, its rules, and the CPU seconds that both have taken."""

    people: int
    labels: dict[int, str]
    rules: list[Rule]
    tracks_s: float = 0.0
    rules_s: float = 0.0
    events: int = 0
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        looks = self._random.normal(size=(PEOPLE, LOOKS))
        self._looks = (looks / np.linalg.norm(looks, axis=1, keepdims=True)).astype(np.float16)
        self._schedule = KeyframeSchedule(Window((0,), Fraction(1, 15)), float(HZ), None)
        options = DetectOptions(keyframe_hz=HZ)
        self._stream = Stream(0, "ws", "latest", self._schedule, options, math.inf, lambda _: None)
        self._watched = WatchedStream(
            1, StreamName("", "1"), 1 / HZ, returns=False, common=(), newest_track=0, left=(), quiet_us={},
            put=lambda _, change: self._told(len(change.events)),
        )  # fmt: skip
        self._watched.set_rules(self.rules)

    def _told(self, events: int) -> None:
        self.events += events

    def see(self, number: int) -> None:
        """The next keyframe."""
        values, actors = self._people()
        pending = Pending(self._schedule.keyframe(number), 0.0, self._stream, width=640, height=360)
        pending.scores, result = ActionScores(tuple(self.labels), values), result_of(pending, actors, 0.0, 0.0, "")
        pending.looks = self._looks[: self.people]
        result.received_at_us = number * 1_000_000 // HZ
        self.tracks_s += cpu_s(lambda: self._stream._track(pending, result))
        self.rules_s += cpu_s(lambda: self._watched.see(result))

    def _people(self) -> tuple[NDArray[np.float32], tuple[Actor, ...]]:
        """Each does a half of the actions, now these and now those."""
        places = np.array([(30 + 60 * (n % 10), 90 + 120 * (n // 10)) for n in range(self.people)]).reshape(-1, 2)
        values = self._random.random((self.people, len(self.labels)), dtype=np.float32)
        boxes = np.tile(places + self._random.normal(0, 3, places.shape), 2) + np.array((-12, -60, 12, 0))
        shares = (boxes / (640, 360, 640, 360)).clip(0, 1)
        known = self.labels.items()
        return values, tuple(
            Actor(
                tuple(box), tuple(share), 0.9,
                tuple(Action(label, name, score) for (label, name), score in zip(known, said, strict=True)),
            )
            for box, share, said in zip(boxes.tolist(), shares.tolist(), values.tolist(), strict=True)
        )  # fmt: skip


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measured(labels: dict[int, str]) -> dict[str, dict[str, float]]:
    """One round: CPU ms a keyframe of each stream, of what is done in it."""
    rules = rules_of(list(labels.values()))
    streams = {
        "nobody": Watched(0, labels, []), "no rule": Watched(PEOPLE, labels, []),
        "one rule": Watched(PEOPLE, labels, rules[:1]), "five rules": Watched(PEOPLE, labels, rules),
    }  # fmt: skip
    for number in range(KEYFRAMES):
        for watched in streams.values():
            watched.see(number)
    ms = 1000 / KEYFRAMES
    return {name: {"tracks": ms * w.tracks_s, "rules": ms * w.rules_s} for name, w in streams.items()}


def main(output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")]) -> None:
    """Measure."""
    labels = {label.id: label.name for label in stmixer.load().labels}
    measured(labels)  # not counted: what is done once
    rounds = [measured(labels) for _ in range(ROUNDS)]
    found = {
        stream: {
            part: {
                "cpu_ms": round(statistics.median(each), 3),
                "lowest": round(min(each), 3), "highest": round(max(each), 3),
            }
            for part in rounds[0][stream]
            if (each := [one[stream][part] for one in rounds])
        }
        for stream in rounds[0]
    }  # fmt: skip
    result = {**measured_on(), "people": PEOPLE, "labels": len(labels)}
    output.write_text(json.dumps({**result, "streams": found}, indent=1) + "\n")
    typer.echo(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
