"""One rule in one stream: who meets it, since when, and what has come of that. Pure: told what a keyframe shows.

A **run** is somebody (of a ``count``, the stream) who meets the rule. It is opened, which is an event's start, once it
has been met for ``for_s``, and ends once it has not been for ``clear_s``. Seconds are those in which somebody looked:
what a gap takes counts neither way, and a keyframe whose window is not whole (``warming``) may go on with a run, but
neither begins nor breaks one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.zone import Box, around, overlap

HOLD = 0.8
"""A run goes on with this share of ``min_score``."""
LEAST_OVERLAP = 0.1
"""Of two boxes (intersection over union) that may be one person, seen again under another number."""
TOLD_STEP = 0.1
"""An event is told again when its highest score has risen by this much."""
MOST_RUNS = 512
"""Of a rule in a stream; beyond that whoever has been away for longest is given up."""

Reason = Literal["lost", "stream_ended", "rule_changed"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A keyframe. ``at_us``: epoch µs; ``watched_s`` since the one before, what nobody watched left out, ``passed_s``
    with it; ``newest_track``: the highest number of a person so far; ``present``: the people in it.
    """

    at_us: int
    watched_s: float
    passed_s: float
    warming: bool
    newest_track: int
    present: frozenset[int]


@dataclass(frozen=True, slots=True)
class Meeting:
    """Somebody, or (``track_id`` None) the stream, who meets a rule with a score: with ``HOLD`` of it at least."""

    track_id: int | None
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event that is open, as it outlives the process. ``newest_track``: the highest number when it was seen last;
    ``terms``: what its rule said.
    """

    event_id: str
    rule: str
    track_id: int | None
    started_at_us: int
    seen_at_us: int
    score_max: float
    box: Box
    newest_track: int
    terms: str


@dataclass(eq=False, slots=True)
class Run:
    """What an ``Occurrence`` says of it so far, and ``met_s``: seconds in which it was met, less those in which it was
    not; ``away_s`` since it was. ``opened``: its event has begun. ``unseen``: taken over from another process, and not
    seen by this one yet.
    """

    event_id: str
    track_id: int | None
    started_at_us: int
    seen_at_us: int
    score_max: float
    box: Box
    newest_track: int
    opened: bool = False
    met_s: float = 0.0
    away_s: float = 0.0
    told_score: float = 0.0
    unseen: bool = False


class RuleRuns:
    """``new_id`` gives an event its name."""

    def __init__(self, rule: Rule, stream: str, new_id: Callable[[], str]) -> None:
        self.rule, self.terms = rule, rule.model_dump_json(exclude_defaults=True)
        self._stream, self._new_id = stream, new_id
        self._runs: dict[int | None, Run] = {}
        self._quiet_s = 0.0

    @property
    def opened(self) -> list[Occurrence]:
        """The events that are open."""
        return [
            Occurrence(
                run.event_id, self.rule.id, run.track_id, run.started_at_us, run.seen_at_us, run.score_max, run.box,
                run.newest_track, self.terms,
            )
            for run in self._runs.values() if run.opened
        ]  # fmt: skip

    @property
    def floor(self) -> float:
        """The least score of a person that can matter."""
        return self.rule.min_score * HOLD

    def restore(self, occurrence: Occurrence) -> None:
        """Go on with one of another process, if it is seen again. It has this rule's terms."""
        self._runs[occurrence.track_id] = Run(
            occurrence.event_id, occurrence.track_id, occurrence.started_at_us, occurrence.seen_at_us,
            occurrence.score_max, occurrence.box, occurrence.newest_track,
            opened=True, told_score=occurrence.score_max, unseen=True, met_s=self.rule.for_s,
        )  # fmt: skip

    def be_quiet(self, seconds: float) -> None:
        """Let none begin for so long."""
        self._quiet_s = max(self._quiet_s, seconds)

    def end(self, reason: Reason | None) -> list[Event]:
        """What is open ends where it was seen last."""
        events = [
            self._event(run, "end", "lost" if run.unseen else reason) for run in self._runs.values() if run.opened
        ]
        self._runs.clear()
        return events

    def see(self, moment: Moment, people: Sequence[Meeting]) -> list[Event]:
        """What comes of a keyframe in which these people meet the rule; each track at most once."""
        self._quiet_s = max(0.0, self._quiet_s - moment.passed_s)
        met = {person.track_id: person for person in self._counted(people)}
        told = self._hand_over(moment, met)
        for key, person in met.items():
            run = self._runs.get(key)
            if run is not None:
                self._go_on(run, moment, person)
            elif not moment.warming and person.score >= self.rule.min_score:
                self._begin(moment, person)
        ended = self._part([run for key, run in self._runs.items() if key not in met], moment)
        return [*ended, *self._tell(met, told)]

    # -- who it is

    def _counted(self, people: Sequence[Meeting]) -> Sequence[Meeting]:
        """Of a ``count`` one for all of them, with the lowest score that it takes, where they are enough."""
        if self.rule.count is None:
            return people
        least = self.floor if self._runs else self.rule.min_score
        enough = sorted((p for p in people if p.score >= least), key=lambda person: -person.score)
        if len(enough) < self.rule.count.min:
            return []
        return [Meeting(None, around([p.box for p in enough]), enough[self.rule.count.min - 1].score)]

    def _hand_over(self, moment: Moment, met: dict[int | None, Meeting]) -> set[int | None]:
        """Who is there no more, and whose place somebody new has taken, is that one from now on. Returns who took."""
        gone = [run for key, run in self._runs.items() if key is not None and key not in moment.present]
        if not gone:
            return set()
        pairs = sorted(
            (
                (overlap(run.box, person.box), run.track_id, key)
                for run in gone
                for key, person in met.items()
                if key is not None and key not in self._runs and key > run.newest_track
                and person.score >= self.rule.min_score
            ),
            key=lambda pair: -pair[0],
        )  # fmt: skip
        taken: set[int | None] = set()
        for share, old, new in pairs:
            if share >= LEAST_OVERLAP and old in self._runs and new not in taken:
                taken.add(new)
                run = self._runs[new] = self._runs.pop(old)
                run.track_id = new
        return taken

    # -- how it goes on

    def _begin(self, moment: Moment, person: Meeting) -> None:
        self._runs[person.track_id] = Run(
            self._new_id(), person.track_id, moment.at_us, moment.at_us, person.score, person.box, moment.newest_track
        )

    def _go_on(self, run: Run, moment: Moment, person: Meeting) -> None:
        run.met_s += moment.watched_s
        run.away_s, run.unseen = 0.0, False
        run.box, run.newest_track = person.box, moment.newest_track
        run.seen_at_us = max(moment.at_us, run.seen_at_us)
        run.score_max = max(run.score_max, person.score)

    def _part(self, absent: Sequence[Run], moment: Moment) -> list[Event]:
        """Those who do not meet it now: some of them have not for long enough."""
        over = []
        for run in absent:
            if moment.warming:
                continue
            run.away_s += moment.watched_s
            run.met_s -= moment.watched_s
            worth_it = run.opened or run.met_s > 0
            if not worth_it or run.away_s >= self.rule.clear_s:
                over.append(run)
        surplus = list[Run]()
        if len(self._runs) - len(over) > MOST_RUNS:
            kept = sorted((run for run in self._runs.values() if run not in over), key=lambda run: -run.away_s)
            surplus = kept[: len(kept) - MOST_RUNS]
        ended = []
        for run in (*over, *surplus):
            del self._runs[run.track_id]
            if run.opened:
                ended.append(self._event(run, "end", "lost" if run.unseen or run in surplus else None))
                self.be_quiet(self.rule.cooldown_s or 0.0)
        return ended

    def _tell(self, met: dict[int | None, Meeting], handed_over: set[int | None]) -> list[Event]:
        """Starts, and what has changed much."""
        told = []
        for key in met:
            run = self._runs.get(key)
            if run is None:
                continue
            if not run.opened:
                if run.met_s < self.rule.for_s or self._quiet_s > 0:
                    continue
                run.opened = True
                told.append(self._event(run, "start"))
            elif key in handed_over or run.score_max >= run.told_score + TOLD_STEP:
                told.append(self._event(run, "update"))
            else:
                continue
            run.told_score = run.score_max
        return told

    def _event(self, run: Run, state: Literal["start", "update", "end"], reason: Reason | None = None) -> Event:
        return Event(
            event_id=run.event_id, rule=self.rule.id, stream=self._stream, state=state, track_id=run.track_id,
            started_at_us=run.started_at_us, ended_at_us=run.seen_at_us if state == "end" else None,
            score_max=round(run.score_max, 4), box=run.box, zone=self.rule.zone, reason=reason,
        )  # fmt: skip
