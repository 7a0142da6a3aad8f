"""A model test of the whole desk with its file: two streams that go on beside each other, end and begin anew, gaps,
windows that are not whole, people who leave and come back under other numbers, changed rules, restarts and kills,
against a few lines that say what should come of them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scenes import PLACES, T0_US, fell, result

from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.desk import EventDesk
from stmixer.service.events.store import Wanted
from stmixer.service.events.watched import WatchedStream
from stmixer.service.ipc.messages import Actor
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

T = TypeVar("T")
FALL = Rule(id="fall", label="fall", min_score=0.5, for_s=2, clear_s=3)
ABSENT, UP, DOWN = "absent", "up", "down"


@dataclass
class Expected:
    """What is known of one place: the few lines."""

    met_s: float = 0.0
    away_s: float = 0.0
    there: bool = False
    opened: bool = False

    def step(self, down: bool, warming: bool, watched_s: float) -> str | None:
        """What should come of a keyframe."""
        if down and self.there:
            self.met_s, self.away_s = self.met_s + watched_s, 0.0
        elif down and not warming:
            self.met_s, self.away_s, self.there = 0.0, 0.0, True
        elif self.there and not down and not warming:
            self.met_s, self.away_s = self.met_s - watched_s, self.away_s + watched_s
            if self.away_s >= FALL.clear_s or (not self.opened and self.met_s <= 0):
                return self.over()
        if down and self.there and not self.opened and self.met_s >= FALL.for_s:
            self.opened = True
            return "start"
        return None

    def over(self) -> str | None:
        """It is, for whatever reason."""
        was, self.there, self.opened = self.opened, False, False
        return "end" if was else None

    def restarted(self) -> None:
        """Another process has only what was open."""
        self.there, self.away_s, self.met_s = self.opened, 0.0, FALL.for_s


@dataclass(eq=False)
class Camera:
    """One that is known by its name, and what is expected of it."""

    name: str
    stream: WatchedStream
    ruled: bool = True
    at_s: float = 0.0
    life_s: float = 0.0
    """At which its stream began."""
    first: bool = True
    last_track: int = 0
    places: list[Expected] = field(default_factory=lambda: [Expected() for _ in PLACES])
    tracks: list[int | None] = field(default_factory=list)

    def begins(self, stream: WatchedStream) -> None:
        """Another stream of this name."""
        self.stream, self.first, self.life_s = stream, True, self.at_s
        self.last_track, self.tracks = stream.first_track, [None for _ in PLACES]

    def people(self, who: Sequence[str]) -> list[Actor]:
        """Whoever is there, under the number that they have; who comes back has another."""
        found = []
        for place, how in enumerate(who):
            if how == ABSENT:
                self.tracks[place] = None
                continue
            if self.tracks[place] is None:
                self.last_track += 1
                self.tracks[place] = self.last_track
            found.append(fell(self.tracks[place] or 0, 0.9 if how == DOWN else 0.0, PLACES[place]))
        return found


class Machine(RuleBasedStateMachine):
    """Two cameras, ``hall`` and ``door``, each with the rule."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.settings = Settings(events_file=Path(self.folder.name) / "events.db")
        self.told: list[Event] = []
        self.seen = self.number = 0
        self.cameras: list[Camera] = []
        self.begin()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def begin(self) -> None:
        """The service."""
        self.desk = EventDesk(self.settings, Metrics())
        self.run(self.desk.start(["fall"]))
        if not self.cameras:
            self.cameras = [Camera(name, self.entered(name)) for name in ("hall", "door")]
        for camera in self.cameras:
            if self.desk._streams.get(camera.name) is not camera.stream:
                camera.stream = self.entered(camera.name)
            self.begin_stream(camera)

    def entered(self, name: str) -> WatchedStream:
        self.number += 1
        return self.desk.enter(self.number, name, "", 1.0)

    def begin_stream(self, camera: Camera) -> None:
        camera.stream.tell = self.told.append
        self.run(self.desk.set_rules(camera.stream, [FALL]))
        camera.ruled = True
        camera.begins(camera.stream)

    def came(self, camera: Camera, expected: Sequence[tuple[int, str | None]]) -> None:
        """What was told since, but for updates, is what was expected, and of no other camera."""
        self.run(self.desk.flush())
        found = [(e.stream, PLACES.index(e.box), e.state) for e in self.told[self.seen :] if e.state != "update"]
        assert sorted(found) == sorted((camera.name, place, state) for place, state in expected if state is not None)

    @rule(
        which=st.integers(0, 1),
        who=st.tuples(*(st.sampled_from((ABSENT, UP, DOWN, DOWN)) for _ in PLACES)),
        keyframes=st.integers(1, 3),
        step_s=st.sampled_from((0.25, 1.0, 1.0, 2.0, 90.0)),
        warming=st.sampled_from((False, False, False, True)),
    )
    def look(self, which: int, who: tuple[str, ...], keyframes: int, step_s: float, warming: bool) -> None:
        camera = self.cameras[which]
        for _ in range(keyframes):
            camera.at_s += step_s
            people, self.seen = camera.people(who), len(self.told)
            since_us = T0_US + round(camera.life_s * 1e6)
            camera.stream.see(result(camera.at_s - camera.life_s, *people, warming=warming, since_us=since_us))
            watched_s, camera.first = 0.0 if camera.first else min(step_s, 2.0), False
            steps = [
                place.step(how == DOWN, warming, watched_s)
                for place, how in zip(camera.places, who, strict=True) if camera.ruled
            ]  # fmt: skip
            self.came(camera, list(enumerate(steps)))

    @rule(which=st.integers(0, 1), rules=st.booleans())
    def change_rules(self, which: int, rules: bool) -> None:
        camera, self.seen = self.cameras[which], len(self.told)
        self.run(self.desk.set_rules(camera.stream, [FALL] if rules else []))
        ends = [] if rules else [(n, place.over()) for n, place in enumerate(camera.places)]
        camera.ruled = rules
        self.came(camera, ends)

    @rule(which=st.integers(0, 1))
    def end_a_stream(self, which: int) -> None:
        """And another one of its name begins, which goes on with nothing."""
        camera, self.seen = self.cameras[which], len(self.told)
        self.run(self.desk.exit(camera.stream))
        self.came(camera, [(n, place.over()) for n, place in enumerate(camera.places)])
        camera.at_s += 30
        camera.stream = self.entered(camera.name)
        self.begin_stream(camera)

    @precondition(lambda self: all(camera.ruled for camera in self.cameras))
    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        self.seen = len(self.told)
        if killed:
            self.kill()
        else:
            self.desk.leaving = True
            for camera in self.cameras:
                self.run(self.desk.exit(camera.stream))
            self.run(self.desk.stop())
        assert len(self.told) == self.seen
        before = [camera.last_track for camera in self.cameras]
        for camera in self.cameras:
            camera.at_s += 30
            for place in camera.places:
                place.restarted()
        self.begin()
        assert all(camera.stream.first_track >= last for camera, last in zip(self.cameras, before, strict=True))

    def kill(self) -> None:
        """As SIGKILL: nobody has the time to say anything."""
        desk = self.desk
        assert desk._ledger is not None
        for task in desk._tasks:
            task.cancel()
        self.run(asyncio.wait_for(asyncio.gather(*desk._tasks, return_exceptions=True), 60))
        self.run(desk._ledger.close())

    @invariant()
    def nobody_begins_twice_or_ends_before_it_began(self) -> None:
        found: dict[str, list[str]] = {}
        for event in self.told:
            found.setdefault(event.event_id, []).append(event.state)
        for states in found.values():
            assert states[0] == "start"
            assert states.count("start") == 1
            assert "end" not in states[:-1]
        opened = {event_id for event_id, states in found.items() if states[-1] != "end"}
        assert opened == {occurrence.event_id for occurrence in self.opened()}

    def opened(self) -> list[Any]:
        assert self.desk._ledger is not None
        return [one for some in self.desk._ledger.store.opened().values() for one in some]

    def teardown(self) -> None:
        for camera in self.cameras:
            self.run(self.desk.exit(camera.stream))
        ended = [event.event_id for event in self.told if event.state == "end"]
        assert sorted(ended) == sorted(event.event_id for event in self.told if event.state == "start")
        page = self.run(self.desk.page(Wanted(limit=1000)))
        assert {event.state for event in page.events} <= {"end"}
        assert {event.event_id for event in page.events} == set(ended)
        self.run(self.desk.stop())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()


Machine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.generate,),  # a failure is told as it was found: to make it smaller takes minutes
)
TestEvents = Machine.TestCase
