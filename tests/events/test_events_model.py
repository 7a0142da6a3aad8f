"""A model test of the whole desk with its file: streams, gaps, windows that are not whole, people who leave and come
back under other numbers, changed rules, restarts and kills, against a few lines that say what should come of them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scenes import PLACES, T0_US, fell, result

from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.desk import EventDesk
from stmixer.service.events.store import Wanted
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


class Machine(RuleBasedStateMachine):
    """One camera that is known by its name, ``hall``."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.settings = Settings(events_file=Path(self.folder.name) / "events.db")
        self.told: list[Event] = []
        self.places = [Expected() for _ in PLACES]
        self.tracks: list[int | None] = [None for _ in PLACES]
        self.ruled = True
        self.at_s, self.life_s, self.number = 0.0, 0.0, 0
        self.begin()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def begin(self) -> None:
        self.desk, self.first = EventDesk(self.settings, Metrics()), True
        self.run(self.desk.start(["fall"]))
        self.number += 1
        self.stream = self.desk.enter(self.number, "hall", "", 1.0)
        self.stream.tell = self.told.append
        self.run(self.desk.set_rules(self.stream, [FALL]))
        self.last_track, self.life_s = self.stream.first_track, self.at_s
        self.tracks = [None for _ in PLACES]

    def came(self, expected: Sequence[tuple[int, str | None]]) -> None:
        """What was told since, but for updates, is what was expected."""
        self.run(self.desk.flush())
        found = sorted((PLACES.index(event.box), event.state) for event in self.told[self.seen :])
        assert [told for told in found if told[1] != "update"] == sorted((p, s) for p, s in expected if s is not None)

    @property
    def seen(self) -> int:
        return self._seen

    @rule(
        who=st.tuples(*(st.sampled_from((ABSENT, UP, DOWN, DOWN)) for _ in PLACES)),
        keyframes=st.integers(1, 3),
        step_s=st.sampled_from((0.25, 1.0, 1.0, 2.0, 90.0)),
        warming=st.sampled_from((False, False, False, True)),
    )
    def look(self, who: tuple[str, ...], keyframes: int, step_s: float, warming: bool) -> None:
        for _ in range(keyframes):
            self.at_s += step_s
            people = []
            for place, how in enumerate(who):
                if how == ABSENT:
                    self.tracks[place] = None
                    continue
                if self.tracks[place] is None:
                    self.last_track += 1
                    self.tracks[place] = self.last_track
                track = self.tracks[place]
                assert track is not None
                people.append(fell(track, 0.9 if how == DOWN else 0.0, PLACES[place]))
            self._seen = len(self.told)
            since_us = T0_US + round(self.life_s * 1e6)
            self.stream.see(result(self.at_s - self.life_s, *people, warming=warming, since_us=since_us))
            watched_s, self.first = 0.0 if self.first else min(step_s, 2.0), False
            if self.ruled:
                steps = [
                    place.step(how == DOWN, warming, watched_s) for place, how in zip(self.places, who, strict=True)
                ]
                self.came(list(enumerate(steps)))
            else:
                self.came([])

    @rule(rules=st.booleans())
    def change_rules(self, rules: bool) -> None:
        self._seen = len(self.told)
        self.run(self.desk.set_rules(self.stream, [FALL] if rules else []))
        ends = [] if rules else [(n, place.over()) for n, place in enumerate(self.places)]
        self.ruled = rules
        self.came(ends)

    @precondition(lambda self: self.ruled)
    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        self._seen = len(self.told)
        if killed:
            self.kill()
        else:
            self.desk.leaving = True
            self.run(self.desk.exit(self.stream))
            self.run(self.desk.stop())
        assert len(self.told) == self._seen
        self.at_s += 30
        for place in self.places:
            place.restarted()
        before = self.last_track
        self.begin()
        assert self.stream.first_track >= before

    def kill(self) -> None:
        """As SIGKILL: nobody has the time to say anything."""
        desk = self.desk
        assert desk._ledger is not None
        for task in desk._tasks:
            task.cancel()
        self.run(asyncio.wait_for(asyncio.gather(*desk._tasks, return_exceptions=True), 10))
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
        self.run(self.desk.exit(self.stream))
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
