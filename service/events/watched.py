"""A running stream and its rules: what comes of its results goes to the desk, and from there back to who follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stmixer.service.event_schemas import Event, Rule
from stmixer.service.events.names import StreamName
from stmixer.service.events.runs import Occurrence
from stmixer.service.events.store import Change
from stmixer.service.events.watch import Watch, rules_in_force
from stmixer.service.schemas import Result

NOTED_US = 2_000_000
"""How often it is noted until when open events have been seen."""
RESERVED, LEAST_LEFT = 1024, 256
"""Numbers of people are noted this many ahead, and again when so few are left: what the disk has is never behind."""

Put = Callable[["WatchedStream", Change], None]


class WatchedStream:
    """``number``: the stream's; ``name`` stands in its events. ``returns``: after a restart of the service it is known
    by that name again. ``left``: what was open when the process before ended. ``tell`` is for who follows it.
    """

    def __init__(
        self,
        number: int,
        name: StreamName,
        period_s: float,
        *,
        returns: bool,
        common: Sequence[Rule],
        newest_track: int,
        left: Sequence[Occurrence],
        quiet_us: dict[str, int],
        put: Put,
    ) -> None:
        self.number, self.name, self.returns = number, name, returns
        self.first_track = newest_track
        self.own: tuple[Rule, ...] = ()
        self.tell: Callable[[Event], None] = lambda event: None
        self._common, self._put, self._period_s = tuple(common), put, period_s
        self._watch: Watch | None = None
        self._left, self._quiet_us = list(left), dict(quiet_us)
        self.ended_us = dict(quiet_us)
        """When an event of each of its rules ended last, epoch µs: cool-downs count from there."""
        self._noted_us, self._reserved = 0, newest_track

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those in force."""
        return rules_in_force(self.own, self._common)

    @property
    def open_count(self) -> int:
        """How many of its events are open."""
        return 0 if self._watch is None else len(self._watch.opened)

    def rule(self, rule_id: str) -> Rule | None:
        """One of them by its name."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)

    def set_rules(self, own: Sequence[Rule]) -> list[Occurrence]:
        """Other rules of its own from now on. Returns what was left to it and no rule goes on with."""
        before, self.own = self.rules, tuple(own)
        if self._watch is not None:
            events = self._watch.change(self.rules)
            if events:
                self._say(Change(self.name, tuple(events)))
            kept = [rule.id for rule in self.rules if rule in before and rule.id in self.ended_us]
            self.ended_us = {rule_id: self.ended_us[rule_id] for rule_id in kept}
            return []
        left, self._left = self._left, []
        if not self.rules:
            return left
        self._watch = Watch(self.name.name, self._period_s, self.rules, self.first_track)
        return [occurrence for occurrence in left if not self._watch.restore(occurrence)]

    def see(self, result: Result) -> None:
        """The next result, in order."""
        watch = self._watch
        if watch is None:
            return
        at_us = result.received_at_us
        self._be_quiet(watch, at_us)
        events = watch.see(result)
        newest_track = None
        if self.returns and watch.newest_track > self._reserved - LEAST_LEFT:
            newest_track = self._reserved = watch.newest_track + RESERVED
        opened: Sequence[Occurrence] = ()
        if at_us - self._noted_us >= NOTED_US or at_us < self._noted_us:
            opened, self._noted_us = watch.opened, at_us
        elif events:
            told = {event.event_id for event in events}
            opened = [occurrence for occurrence in watch.opened if occurrence.event_id in told]
        if events or opened or newest_track is not None:
            self._say(Change(self.name, tuple(events), tuple(opened), newest_track))

    def close(self, *, comes_back: bool) -> None:
        """No more results come. ``comes_back``: after a restart of the service, and then goes on with what is open."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        if comes_back:
            self._say(Change(self.name, opened=tuple(watch.opened)))
        elif events := watch.end("stream_ended"):
            self._say(Change(self.name, tuple(events)))

    def _say(self, change: Change) -> None:
        self.ended_us |= {event.rule: event.ended_at_us for event in change.events if event.ended_at_us is not None}
        self._put(self, change)

    def _be_quiet(self, watch: Watch, at_us: int) -> None:
        """What is left of cool-downs that began in another process, or before the stream of this name."""
        for rule in watch.rules if self._quiet_us else ():
            ended_us = self._quiet_us.pop(rule.id, None)
            if ended_us is not None and rule.cooldown_s is not None:
                watch.be_quiet(rule.id, rule.cooldown_s - (at_us - ended_us) / 1e6)
