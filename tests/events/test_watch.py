"""Rules over results: dwell, clearing, hysteresis, zones, counts, cool-down, gaps, and who goes on with whose event."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from scenes import PLACES, T0_US, fell, person, result

from stmixer.service.event_schemas import Count, Event, Rule
from stmixer.service.events.watch import Watch, rules_in_force
from stmixer.service.ipc.messages import Action

FALL = Rule(id="fall", label="fall", min_score=0.5, for_s=2, clear_s=3)
HERE = Rule(id="here", person=True, min_score=0.5, for_s=0, clear_s=0)


def watching(*rules: Rule, newest_track: int = 0) -> Watch:
    numbers = count(1)
    return Watch("hall", 1.0, rules, newest_track, lambda: f"e{next(numbers)}")


def states(events: list[Event]) -> list[tuple[str, int | None]]:
    return [(event.state, event.track_id) for event in events]


def told(watch: Watch, scores: list[float | None], first: int = 0, track: int = 1) -> list[tuple[int, str]]:
    """One person at a keyframe a second, None where nobody is seen: (second, state) of what comes of it."""
    found = []
    for at, score in enumerate(scores, first):
        people = () if score is None else (fell(track, score),)
        found += [(at, event.state) for event in watch.see(result(at, *people))]
    return found


def test_an_event_from_its_start_to_its_end() -> None:
    watch = watching(FALL)
    found = [watch.see(result(at, fell(7, score))) for at, score in enumerate([0.1, 0.6, 0.7, 0.9, 0.6, 0, 0, 0, 0])]
    (start,), (end,) = found[3], found[7]
    assert [len(events) for events in found] == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert start == Event(
        event_id="e1", rule="fall", stream="hall", state="start", track_id=7, started_at_us=T0_US + 1_000_000,
        ended_at_us=None, score_max=0.9, box=PLACES[0], zone=None,
    )  # fmt: skip
    assert end == start.model_copy(update={"state": "end", "ended_at_us": T0_US + 4_000_000})
    assert "reason" not in end.model_dump()


def test_it_has_to_be_met_for_long_enough_and_a_miss_counts_back() -> None:
    assert told(watching(FALL), [0.9, 0.9, 0, 0.9, 0.9, 0]) == []
    assert told(watching(FALL), [0.9, 0.9, 0, 0.9, 0.9, 0.9]) == [(5, "start")]
    assert told(watching(FALL), [0.9, 0, 0.9, 0, 0.9, 0, 0.9, 0]) == []


def test_without_dwell_it_begins_at_once() -> None:
    rule = FALL.model_copy(update={"for_s": 0.0, "clear_s": 0.0})
    assert told(watching(rule), [0.9, 0.9, 0, 0.9]) == [(0, "start"), (2, "end"), (3, "start")]


def test_it_goes_on_with_less_than_it_begins_with() -> None:
    assert told(watching(FALL), [0.45, 0.45, 0.45, 0.45]) == []
    scores = [0.5, 0.42, 0.41, 0.4, 0.41, 0.39, 0.39, 0.39]
    assert told(watching(FALL), scores) == [(2, "start"), (7, "end")]


def test_a_short_absence_ends_nothing() -> None:
    assert told(watching(FALL), [0.9, 0.9, 0.9, None, None, 0.9, None, None, 0.9]) == [(2, "start")]
    assert told(watching(FALL), [0.9, 0.9, 0.9, None, None, None]) == [(2, "start"), (5, "end")]


def test_it_is_told_again_when_its_score_has_risen_much() -> None:
    watch = watching(FALL)
    scores = [0.5, 0.5, 0.5, 0.55, 0.61, 0.65, 0.72]
    found = [event for at, score in enumerate(scores) for event in watch.see(result(at, fell(1, score)))]
    assert [(event.state, event.score_max) for event in found] == [("start", 0.5), ("update", 0.61), ("update", 0.72)]


def test_the_smoothed_score_counts_where_there_is_one() -> None:
    watch = watching(FALL.model_copy(update={"for_s": 0.0}))
    at_once, goes_on = (replace(fell(1), actions=(Action(1, "fall", *said),)) for said in ((0.9, 0.3), (0.3, 0.9)))
    assert watch.see(result(0, at_once)) == []
    assert states(watch.see(result(1, goes_on))) == [("start", 1)]


def test_what_nobody_watched_counts_neither_way() -> None:
    watch = watching(FALL.model_copy(update={"for_s": 5.0}))
    found = [watch.see(result(at, fell(1))) for at in (0, 1, 100, 101, 102)]
    assert [states(events) for events in found] == [[], [], [], [], [("start", 1)]]  # 1 + 2 of the gap + 2
    assert states(watch.see(result(3700))) == []
    assert states(watch.see(result(3701))) == [("end", 1)]


def test_a_window_that_is_not_whole_goes_on_with_a_run_and_neither_begins_nor_breaks_one() -> None:
    watch = watching(FALL)
    for at in range(5):
        assert watch.see(result(at, fell(1), warming=True)) == []
    assert [states(watch.see(result(at, fell(1)))) for at in (5, 6, 7)] == [[], [], [("start", 1)]]
    for at in range(8, 20):
        assert watch.see(result(at, fell(1, 0.0), warming=True)) == []
    assert [states(watch.see(result(at, fell(1, 0.0)))) for at in (20, 21, 22)] == [[], [], [("end", 1)]]


def test_everybody_has_an_event_of_their_own() -> None:
    watch = watching(FALL)
    both = [fell(1, box=PLACES[0]), fell(2, box=PLACES[1])]
    found = [states(watch.see(result(at, *both))) for at in range(3)]
    assert found == [[], [], [("start", 1), ("start", 2)]]
    assert len({occurrence.event_id for occurrence in watch.opened}) == 2
    found = [states(watch.see(result(at, both[1]))) for at in range(3, 6)]
    assert found == [[], [], [("end", 1)]]


def test_who_is_seen_again_under_another_number_goes_on_with_the_event() -> None:
    watch = watching(FALL)
    told(watch, [0.9, 0.9, 0.9, None])
    near = (0.02, 0.22, 0.22, 0.92)
    (event,) = watch.see(result(4, fell(2, box=near), fell(3, box=PLACES[1])))
    assert (event.event_id, event.state, event.track_id, event.box) == ("e1", "update", 2, near)
    assert [o.track_id for o in watch.opened] == [2]


@pytest.mark.parametrize(
    ("back", "why"),
    [
        ([fell(1), fell(2)], "the first is still there"),
        ([fell(2, box=PLACES[1])], "elsewhere"),
        ([fell(2, score=0.45)], "does not meet it"),
    ],
)
def test_a_stranger_does_not(back: list, why: str) -> None:  # type: ignore[type-arg]
    watch = watching(FALL)
    told(watch, [0.9, 0.9, 0.9])
    assert all(event.track_id == 1 for event in watch.see(result(3, *back))), why
    assert [o.track_id for o in watch.opened] == [1]


def test_whoever_was_there_before_does_not_either() -> None:
    watch = watching(FALL)
    by_it = (0.05, 0.2, 0.25, 0.9)
    for at in range(3):
        watch.see(result(at, fell(1), fell(2, 0.0, by_it)))
    assert watch.see(result(3, fell(2, 0.9, by_it))) == []
    assert [o.track_id for o in watch.opened] == [1]


def test_a_zone_is_for_who_stands_in_it() -> None:
    floor = Rule(id="floor", person=True, for_s=0, clear_s=0, zone=((0.0, 0.8), (0.25, 0.8), (0.25, 1.0), (0.0, 1.0)))
    watch = watching(floor)
    (event,) = watch.see(result(0, person(1), person(2, PLACES[1])))
    assert (event.track_id, event.zone) == (1, floor.zone)
    assert states(watch.see(result(1, person(1, (0.0, 0.1, 0.2, 0.7))))) == [("end", 1)]  # its feet are not


def test_so_many_together_are_one_event_of_nobody() -> None:
    crowd = Rule(id="crowd", person=True, min_score=0.5, for_s=1, clear_s=1, count=Count(min=2))
    watch = watching(crowd)
    a, b, c = (person(n, PLACES[n], score) for n, score in enumerate((0.9, 0.8, 0.6)))
    assert watch.see(result(0, a)) == []
    assert watch.see(result(1, a, b)) == []
    (start,) = watch.see(result(2, a, b, c))
    assert (start.state, start.track_id, start.score_max, start.box) == ("start", None, 0.8, (0.0, 0.2, 0.8, 0.9))
    assert watch.see(result(3, b, c)) == []
    (end,) = watch.see(result(4, c))
    assert (end.state, end.event_id, end.ended_at_us) == ("end", start.event_id, T0_US + 3_000_000)


def test_after_an_end_a_rule_is_quiet_for_its_cool_down() -> None:
    rule = HERE.model_copy(update={"cooldown_s": 5.0})
    watch = watching(rule)
    seen = [[person(1)], [], [person(2)], [person(2)], [person(2)], [person(2)], [person(2)]]
    found = [states(watch.see(result(at, *people))) for at, people in enumerate(seen)]
    assert found == [[("start", 1)], [("end", 1)], [], [], [], [], [("start", 2)]]


def test_what_outlives_the_process_goes_on_with_who_is_seen_in_its_place() -> None:
    before = watching(FALL)
    told(before, [0.9, 0.9, 0.9])
    (open_one,) = before.opened
    after = watching(FALL, newest_track=100)
    assert after.restore(open_one)
    (event,) = after.see(result(0, fell(101), warming=True, since_us=T0_US + 60_000_000))
    assert (event.state, event.event_id, event.track_id) == ("update", "e1", 101)
    assert states(after.end("stream_ended")) == [("end", 101)]


def test_what_nobody_goes_on_with_is_lost() -> None:
    before = watching(FALL)
    told(before, [0.9, 0.9, 0.9])
    after = watching(FALL, newest_track=100)
    assert after.restore(before.opened[0])
    later = T0_US + 60_000_000
    found = [after.see(result(at, fell(101, box=PLACES[1]), since_us=later)) for at in range(4)]
    assert [states(events) for events in found] == [[], [], [("start", 101)], [("end", 1)]]
    (end,) = found[3]
    assert (end.event_id, end.reason, end.ended_at_us) == ("e1", "lost", T0_US + 2_000_000)


def test_only_an_occurrence_of_a_rule_that_is_there_is_gone_on_with() -> None:
    before = watching(FALL)
    told(before, [0.9, 0.9, 0.9])
    (open_one,) = before.opened
    assert not watching(HERE).restore(open_one)
    assert not watching(FALL.model_copy(update={"count": Count(min=2)})).restore(open_one)


def test_rules_change_while_it_runs() -> None:
    watch = watching(FALL, HERE)
    told(watch, [0.9, 0.9, 0.9])
    assert [o.rule for o in watch.opened] == ["fall", "here"]
    other = HERE.model_copy(update={"min_score": 0.6})
    (event,) = watch.change((FALL, other))
    assert (event.rule, event.state, event.reason) == ("here", "end", "rule_changed")
    assert [o.rule for o in watch.opened] == ["fall"]
    (event,) = watch.see(result(3, fell(1)))
    assert (event.rule, event.state) == ("here", "start")
    assert [e.rule for e in watch.change(())] == ["fall", "here"]
    assert watch.see(result(4, fell(1))) == []


def test_a_streams_own_rule_counts_before_that_of_all() -> None:
    own = FALL.model_copy(update={"min_score": 0.7})
    assert rules_in_force((own,), (FALL, HERE)) == (own, HERE)


def test_a_crowd_that_comes_and_goes_is_bounded() -> None:
    rule = HERE.model_copy(update={"clear_s": 86_400.0})
    watch, started, ended = watching(rule), 0, 0
    for at in range(10):
        top = at / 10  # nobody is where somebody was
        crowd = [person(at * 200 + n, (n / 200, top, n / 200 + 0.004, top + 0.05)) for n in range(1, 200)]
        events = watch.see(result(at, *(crowd if at % 2 == 0 else ())))
        started += sum(event.state == "start" for event in events)
        ended += sum(event.state == "end" for event in events)
    assert started == 995
    assert len(watch.opened) == started - ended == 512
