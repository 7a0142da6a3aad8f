"""All rules of one stream over its results. Pure: no clock but that of the results."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence

from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.runs import Meeting, Moment, Occurrence, Reason, RuleRuns
from stmixer.service.events.zone import foot, holds
from stmixer.service.ipc.messages import Actor
from stmixer.service.schemas import Result

LOOKED_S = 2.0
"""A keyframe speaks for so many seconds before it, or for two periods of its stream where that is more."""


def new_event_id() -> str:
    """One that no other event has."""
    return uuid.uuid4().hex


def rules_in_force(own: Iterable[Rule], common: Iterable[Rule]) -> tuple[Rule, ...]:
    """A stream's own and those of all streams; of one name, its own."""
    return tuple({rule.id: rule for rule in (*common, *own)}.values())


class Watch:
    """``stream``: its name in events; ``period_s``: from one keyframe to the next; ``newest_track``: the highest number
    of a person that there has been.
    """

    def __init__(
        self,
        stream: str,
        period_s: float,
        rules: Sequence[Rule],
        newest_track: int = 0,
        new_id: Callable[[], str] = new_event_id,
    ) -> None:
        self.stream, self.newest_track = stream, newest_track
        self._longest_s, self._new_id = max(LOOKED_S, 2 * period_s), new_id
        self._runs = {rule.id: RuleRuns(rule, stream, new_id) for rule in rules}
        self._pts_us: int | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those in force."""
        return tuple(runs.rule for runs in self._runs.values())

    @property
    def opened(self) -> list[Occurrence]:
        """The events that are open."""
        return [occurrence for runs in self._runs.values() for occurrence in runs.opened]

    def restore(self, occurrence: Occurrence) -> bool:
        """Go on with one of another process. False where its rule is not there any more, or says something else."""
        runs = self._runs.get(occurrence.rule)
        if runs is None or runs.terms != occurrence.terms:
            return False
        runs.restore(occurrence)
        return True

    def be_quiet(self, rule: str, seconds: float) -> None:
        """What is left of a rule's cool-down."""
        self._runs[rule].be_quiet(seconds)

    def change(self, rules: Sequence[Rule]) -> list[Event]:
        """Other rules from now on; what is open of those that are gone, or are otherwise now, ends."""
        before, self._runs = self._runs, {}
        for rule in rules:
            kept = before.get(rule.id)
            if kept is not None and kept.rule == rule:
                self._runs[rule.id] = before.pop(rule.id)
            else:
                self._runs[rule.id] = RuleRuns(rule, self.stream, self._new_id)
        return [event for runs in before.values() for event in runs.end("rule_changed")]

    def end(self, reason: Reason) -> list[Event]:
        """No more results come."""
        return [event for runs in self._runs.values() for event in runs.end(reason)]

    def see(self, result: Result) -> list[Event]:
        """What comes of the next result."""
        passed_s = 0.0 if self._pts_us is None else max(0, result.pts_us - self._pts_us) / 1e6
        self._pts_us = result.pts_us
        people = [actor for actor in result.actors if actor.track_id is not None]
        tracks = frozenset(actor.track_id for actor in people if actor.track_id is not None)
        # those who come in this keyframe are above the mark of whoever was seen before it
        self.newest_track = max(self.newest_track, *tracks) if tracks else self.newest_track
        moment = Moment(
            result.received_at_us, min(passed_s, self._longest_s), passed_s, result.warming, self.newest_track, tracks
        )
        return [event for runs in self._runs.values() for event in runs.see(moment, _who_meet(runs, people))]


def _who_meet(runs: RuleRuns, people: Sequence[Actor]) -> list[Meeting]:
    rule, floor, found = runs.rule, runs.floor, []
    for actor in people:
        score = _score(rule, actor)
        if score >= floor and (rule.zone is None or holds(rule.zone, foot(actor.box))):
            found.append(Meeting(actor.track_id, actor.box, score))
    return found


def _score(rule: Rule, actor: Actor) -> float:
    """-1 where the action is not among the actor's."""
    label = rule.label
    if label is None:
        return actor.person_score
    for action in actor.actions:
        if action.name == label:
            return action.said
    return -1.0
