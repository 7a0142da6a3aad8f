"""People between keyframes: on their way where one is on both, in their place where not."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from stmixer.media.annotated import Moments

SECOND = 1_000_000
Box = tuple[float, float, float, float]


@dataclass
class Found:
    box_px: Box
    track_id: int | None = 1
    person_score: float = 0.9
    actions: list[Any] = field(default_factory=list)


@dataclass
class Keyframe:
    pts_us: int
    actors: list[Found]
    frame: Any = None


def standing(x: float, feet: float = 200.0, height: float = 100.0) -> Box:
    return (x - 20, feet - height, x + 20, feet)


def named(name: str, score: float = 0.9) -> list[Any]:
    return [SimpleNamespace(name=name, said=score)]


def boxes(moments: Moments, seconds: float) -> list[Box]:
    return [actor.box_px for actor in moments.at(round(seconds * SECOND))]


def test_a_walker_is_between_the_places_of_both_keyframes() -> None:
    moments = Moments([Keyframe(0, [Found(standing(100))]), Keyframe(SECOND, [Found(standing(180))])])
    assert [boxes(moments, t)[0][0] for t in (0, 0.25, 0.5, 0.75, 1)] == [80, 100, 120, 140, 160]
    assert boxes(moments, -1) == [standing(100)], "before the first"
    assert boxes(moments, 9) == [standing(180)], "after the last"


def test_what_is_done_is_said_as_on_the_nearer_keyframe() -> None:
    moments = Moments(
        [
            Keyframe(0, [Found(standing(100), actions=named("stand"))]),
            Keyframe(SECOND, [Found(standing(110), actions=named("walk"))]),
        ]
    )
    assert [moments.at(t)[0].labels[0][0] for t in (0, 500_000, 500_001, SECOND)] == ["stand", "stand", "walk", "walk"]


def test_two_who_cross_each_keep_their_own_way() -> None:
    first = [Found(standing(100), 1), Found(standing(300), 2)]
    second = [Found(standing(140), 2), Found(standing(260), 1)]
    moments = Moments([Keyframe(0, first), Keyframe(SECOND, second)])
    assert boxes(moments, 0.5) == [standing(180), standing(220)]
    assert boxes(moments, 0.75) == [standing(180), standing(220)], "in the order of the nearer keyframe"
    assert [actor.track_id for actor in moments.at(750_000)] == [2, 1]


def test_somebody_who_is_on_one_alone_stays_there() -> None:
    moments = Moments([Keyframe(0, [Found(standing(100), 1)]), Keyframe(SECOND, [Found(standing(110), 2)])])
    assert boxes(moments, 0.4) == [standing(100)]
    assert boxes(moments, 0.6) == [standing(110)]
    alone = Moments([Keyframe(0, [Found(standing(100))]), Keyframe(SECOND, [])])
    assert boxes(alone, 0.4) == [standing(100)]
    assert boxes(alone, 0.6) == []


def test_people_without_numbers_are_nobody_in_particular() -> None:
    unknown = Found(standing(100), None)
    moments = Moments([Keyframe(0, [unknown]), Keyframe(SECOND, [Found(standing(180), None)])])
    assert [boxes(moments, t) for t in (0.25, 0.75)] == [[standing(100)], [standing(180)]]
