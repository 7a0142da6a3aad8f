"""Results in words, for a terminal: who did what, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stmixer.media.limits import DRAWN_ACTION_SCORE as SAID_FROM
from stmixer.service.schemas import Actor, Result

PERSON = "person"
MOST_PEOPLE = 12
"""So many are told one by one, longest first; of more there is a line for each action."""


def in_words(keyframes: Sequence[Result]) -> list[str]:
    """A line for each person: when they were there, what they did when. Of many people a line for each action."""
    people: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, result in enumerate(keyframes):
        for actor in result.actors:
            for name in _said(actor) or [PERSON]:
                people[actor.track_id or 0][name].append(place)
    if not people:
        return ["nobody"]
    if len(people) > MOST_PEOPLE:
        return [f"{len(people)} people", *_by_action(keyframes)]
    return [f"person {number}: {_deeds(keyframes, deeds)}" for number, deeds in sorted(people.items())]


def at_once(result: Result) -> str:
    """What goes on at one keyframe: everybody with what they do."""
    people = [f"person {actor.track_id or 0} {', '.join(_said(actor))}".rstrip() for actor in result.actors]
    return "; ".join(people[:MOST_PEOPLE]) or "nobody"


def clock(pts_us: int) -> str:
    """A time as people write it: 0:05, 1:02:03."""
    minutes, seconds = divmod(pts_us // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _deeds(keyframes: Sequence[Result], deeds: dict[str, list[int]]) -> str:
    """What one person did, what took longest first; the whole time for one who does nothing that is known."""
    known = sorted(((n, p) for n, p in deeds.items() if n != PERSON), key=lambda item: (-len(item[1]), item[0]))
    if not known:
        places = deeds[PERSON]
        return f"{_span(keyframes, places[0], places[-1])}, nothing that it knows"
    return "; ".join(f"{name} {_times(keyframes, places)}" for name, places in known)


def _by_action(keyframes: Sequence[Result]) -> list[str]:
    often: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for place, result in enumerate(keyframes):
        for actor in result.actors:
            for name in _said(actor):
                often[name][place] += 1
    lines = []
    for name, counts in sorted(often.items(), key=lambda item: (-len(item[1]), item[0])):
        people = max(counts.values())
        lines.append(
            f"{name}: {_times(keyframes, sorted(counts))}" + (f", up to {people} people" if people > 1 else "")
        )
    return lines


def _said(actor: Actor) -> list[str]:
    return [a.name for a in sorted(actor.actions, key=lambda action: -action.said) if a.said >= SAID_FROM]


def _times(keyframes: Sequence[Result], places: Sequence[int]) -> str:
    return ", ".join(_span(keyframes, first, last) for first, last in _runs(places))


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of neighbours, those with one keyframe missing in between included."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and place - runs[-1][1] <= 2:
            runs[-1] = runs[-1][0], place
        else:
            runs.append((place, place))
    return runs


def _span(keyframes: Sequence[Result], first: int, last: int) -> str:
    start, end = clock(keyframes[first].pts_us), clock(keyframes[last].pts_us)
    return start if start == end else f"{start}–{end}"
