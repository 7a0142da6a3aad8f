"""Results in words, for a terminal: who did what, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stmixer.media.annotated import DRAWN_ACTION_SCORE as SAID_FROM
from stmixer.service.schemas import Result

PERSON = "person"


def in_words(keyframes: Sequence[Result]) -> list[str]:
    """A line for each action and one for people who do nothing that is known: its times, and how many at once."""
    if not any(result.actors for result in keyframes):
        return ["nobody"]
    often: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for place, result in enumerate(keyframes):
        for actor in result.actors:
            names = [action.name for action in actor.actions if action.score >= SAID_FROM]
            for name in names or [PERSON]:
                often[name][place] += 1
    most = sorted(often.items(), key=lambda item: (item[0] == PERSON, -len(item[1]), item[0]))
    lines = []
    for name, counts in most:
        spans = ", ".join(_span(keyframes, first, last) for first, last in _runs(sorted(counts)))
        people = max(counts.values())
        what = "person, nothing that it knows" if name == PERSON else name
        lines.append(f"{what}: {spans}" + (f", up to {people} people" if people > 1 else ""))
    return lines


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
    start, end = _clock(keyframes[first].pts_us), _clock(keyframes[last].pts_us)
    return start if start == end else f"{start}–{end}"


def _clock(pts_us: int) -> str:
    minutes, seconds = divmod(pts_us // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
