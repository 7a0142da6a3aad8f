"""Who is who from keyframe to keyframe: crossings, gaps, crowds, at any rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from stmixer.model.tracks import MAX_TRACKS, Tracks

HEIGHT = 360.0
Box = tuple[float, float, float, float]


def standing(x: float, feet: float = 300.0, height: float = 120.0) -> Box:
    return (x - 0.2 * height, feet - height, x + 0.2 * height, feet)


def numbers(tracks: Tracks, at_s: float, boxes: Sequence[Box], longest_s: float = 2.0) -> list[int]:
    return tracks.update(at_s, np.array(boxes).reshape(-1, 4), HEIGHT, longest_s).ids.tolist()


def test_numbers_count_from_one_and_are_never_used_again() -> None:
    tracks = Tracks()
    first = tracks.update(0.0, np.array([standing(100), standing(300)]), HEIGHT, 2.0)
    assert (first.ids.tolist(), first.started, first.ended) == ([1, 2], (1, 2), ())
    second = tracks.update(1.0, np.array([standing(620)]), HEIGHT, 2.0)
    assert (second.ids.tolist(), second.started, second.ended) == ([3], (3,), ())
    third = tracks.update(3.0, np.zeros((0, 4)), HEIGHT, 2.0)
    assert (third.ids.tolist(), third.started, third.ended) == ([], (), (1, 2))
    assert numbers(tracks, 3.0, [standing(100)]) == [4]
    assert tracks.end() == (3, 4)
    assert tracks.end() == ()


@pytest.mark.parametrize("hz", [1, 2, 4, 8])
def test_two_who_cross_keep_their_numbers(hz: int) -> None:
    """At a walk, 0.8 heights a second, in either order of the detections."""
    tracks, found = Tracks(), []
    for k in range(5 * hz):
        t = k / hz
        boxes = [standing(80 + 90 * t), standing(470 - 90 * t, feet=310)]
        order = [0, 1] if k % 2 else [1, 0]
        ids = numbers(tracks, t, [boxes[i] for i in order])
        found.append([ids[order.index(0)], ids[order.index(1)]])
    assert found == [found[0]] * len(found)


@pytest.mark.parametrize("hz", [1, 2, 4, 8])
def test_one_who_is_hidden_for_two_seconds_goes_on(hz: int) -> None:
    def walk(t: float) -> Box:
        return standing(100 + 70 * t)

    tracks = Tracks()
    ids = [numbers(tracks, k / hz, [] if 2 < k / hz < 4 else [walk(k / hz)]) for k in range(6 * hz)]
    assert {n for seen in ids for n in seen} == {1}


def test_who_comes_back_after_the_gap_is_somebody_new() -> None:
    tracks = Tracks()
    assert numbers(tracks, 0.0, [standing(100)]) == [1]
    assert numbers(tracks, 2.0, []) == []
    assert numbers(tracks, 2.1, [standing(100)]) == [2]
    longer = Tracks()
    assert [numbers(longer, t, boxes, 5.0) for t, boxes in ((0, [standing(100)]), (2, []), (4.9, [standing(100)]))] == [
        [1], [], [1],
    ]  # fmt: skip


def test_after_a_pause_without_keyframes_everybody_is_new() -> None:
    """A camera that was lost, a stream that had no turn: nobody was looked for, and all are away for longer."""
    tracks = Tracks()
    assert numbers(tracks, 0.0, [standing(100)]) == [1]
    changes = tracks.update(3600.0, np.array([standing(550)]), HEIGHT, 2.0)
    assert (changes.ids.tolist(), changes.ended) == ([2], (1,))


def test_keyframes_rarer_than_the_gap_still_follow() -> None:
    tracks = Tracks()
    assert [numbers(tracks, 10.0 * k, [standing(100 + k)], 15.0) for k in range(4)] == [[1]] * 4
    assert numbers(tracks, 50.0, [], 15.0) == []
    assert numbers(tracks, 60.0, [standing(100)], 15.0) == [2]


def test_nobody_costs_nothing_and_ends_what_is_over() -> None:
    tracks = Tracks()
    assert [numbers(tracks, t, []) for t in (0.0, 1.0)] == [[], []]
    assert numbers(tracks, 2.0, [standing(100)]) == [1]
    assert tracks.update(9.0, np.zeros((0, 4)), HEIGHT, 2.0).ended == (1,)


@pytest.mark.parametrize("hz", [1, 4])
def test_forty_at_once(hz: int) -> None:
    """Rows of people who sway by a tenth of their size, detections in any order."""
    rng, tracks, wrong = np.random.default_rng(0), Tracks(), 0
    places = [(30 + 60 * (n % 10), 90 + 80 * (n // 10)) for n in range(40)]
    for k in range(8):
        order = rng.permutation(40)
        sway = rng.normal(0, 3, (40, 2))
        boxes = [standing(places[i][0] + sway[i, 0], places[i][1] + sway[i, 1], 60) for i in order]
        ids = numbers(tracks, k / hz, boxes)
        if k == 0:
            known = dict(zip(order, ids, strict=True))
        wrong += sum(known[i] != n for i, n in zip(order, ids, strict=True))
    assert wrong == 0


def test_who_falls_is_still_the_same() -> None:
    """A box of 48 by 120 px becomes one of 120 by 48 within a keyframe of half a second."""
    tracks = Tracks()
    lying: Box = (180.0, 256.0, 300.0, 304.0)
    assert [numbers(tracks, 0.5 * k, [box]) for k, box in enumerate([standing(200)] * 3 + [lying] * 2)] == [[1]] * 5


def test_a_stranger_far_away_takes_nobodys_number() -> None:
    tracks = Tracks()
    assert numbers(tracks, 0.0, [standing(100)]) == [1]
    assert numbers(tracks, 0.5, [standing(550)]) == [2]
    assert numbers(tracks, 1.0, [standing(100), standing(100, feet=60, height=20)]) == [1, 3]


def test_nothing_depends_on_the_resolution() -> None:
    def run(scale: float) -> list[list[int]]:
        rng, tracks = np.random.default_rng(3), Tracks()
        people = rng.uniform((50, 150, 60), (590, 340, 140), (12, 3))
        found = []
        for k in range(10):
            people[:, 0] += rng.normal(0, 8, 12)
            boxes = np.array([standing(x, feet, h) for x, feet, h in people])[rng.random(12) > 0.2]
            found.append(tracks.update(k / 2, boxes * scale, HEIGHT * scale, 2.0).ids.tolist())
        return found

    assert run(1.0) == run(3.0)


def test_boxes_of_no_area_and_very_many() -> None:
    tracks = Tracks()
    with np.errstate(all="raise"):
        assert numbers(tracks, 0.0, [(5, 5, 5, 5), (0, 0, 0, 0)]) == [1, 2]
        assert numbers(tracks, 0.0, [(5, 5, 5, 5), (1e6, 1e6, -1e6, 0)])[0] == 1
    everybody = np.array([standing(3000.0 * n) for n in range(MAX_TRACKS + 50)])
    changes = tracks.update(1.0, everybody, HEIGHT, 2.0)
    assert len(set(changes.ids.tolist())) == MAX_TRACKS + 50
    assert len(tracks.end()) == MAX_TRACKS


def both(one: Callable[[float], Box], other: Callable[[float], Box], hz: int) -> int:
    """How often numbers change of two who are both seen all the time."""
    tracks, changes, before = Tracks(), 0, None
    for k in range(6 * hz):
        now = numbers(tracks, k / hz, [one(k / hz), other(k / hz)])
        changes += before is not None and now != before
        before = now
    return changes


@pytest.mark.parametrize("hz", [2, 8])
def test_one_passes_behind_another_who_stands(hz: int) -> None:
    assert both(lambda t: standing(300), lambda t: standing(150 + 60 * t, feet=285, height=110), hz) == 0


@pytest.mark.parametrize("hz", [2, 4, 8])
def test_a_second_box_around_somebody_takes_nobodys_place(hz: int) -> None:
    """A detector gives it once, to the side; from then on there is one box again, which swings by a few pixels."""
    tracks, seen = Tracks(), []
    for k in range(6 * hz):
        swing = 10 * (-1) ** k
        boxes = [standing(200 + swing)]
        if k == 3 * hz:
            boxes = [standing(200 - 4 * swing), standing(200 + 2 * swing)]
        seen.append(numbers(tracks, k / hz, boxes))
    assert [ids for ids in seen if len(ids) == 1] == [[1]] * (6 * hz - 1)


def told_apart(*steps: tuple[Sequence[Box], Sequence[Sequence[float]] | None]) -> list[list[int]]:
    """Numbers at a keyframe a second, of boxes and looks."""
    tracks, found = Tracks(), []
    for at, (boxes, looks) in enumerate(steps):
        known = None if looks is None else np.array(looks, np.float16)
        found.append(tracks.update(float(at), np.array(boxes), HEIGHT, 2.0, known).ids.tolist())
    return found


ONE, OTHER, NOBODY = (1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, 0.0, 0.0)
NEAR, SWAPPED = [standing(100), standing(130)], [standing(126), standing(104)]


def test_two_who_change_places_are_told_apart_by_what_the_decoder_knows_of_them() -> None:
    assert told_apart((NEAR, None), (SWAPPED, None)) == [[1, 2], [2, 1]]
    assert told_apart((NEAR, [ONE, OTHER]), (SWAPPED, [ONE, OTHER])) == [[1, 2], [1, 2]]
    alike = told_apart((NEAR, [ONE, ONE]), (SWAPPED, [ONE, ONE]))
    assert alike == [[1, 2], [2, 1]], "people who look the same are told apart by where they are"


def test_looks_bring_nobody_to_where_they_cannot_be_and_keep_nobody_from_where_they_were() -> None:
    far = [standing(600), standing(130)]
    assert told_apart((NEAR, [ONE, OTHER]), (far, [ONE, OTHER])) == [[1, 2], [3, 2]]
    turned = (0.5, 0.5, 0.7)
    assert told_apart((NEAR[:1], [ONE]), (NEAR[:1], [turned])) == [[1], [1]], "somebody who turns round"


def test_what_is_not_known_of_somebody_changes_nothing() -> None:
    assert told_apart((NEAR, [ONE, NOBODY]), (SWAPPED, [NOBODY, ONE])) == [[1, 2], [2, 1]]
    assert told_apart((NEAR, [ONE, OTHER]), (NEAR, [NOBODY] * 2), (SWAPPED, [ONE, OTHER])) == [[1, 2]] * 3
    assert told_apart((NEAR, [ONE, OTHER]), (NEAR, None), (SWAPPED, [ONE, OTHER])) == [[1, 2]] * 3


def test_looks_of_another_model_are_not_compared() -> None:
    assert told_apart((NEAR, [ONE, OTHER]), (SWAPPED, [(1.0, 0.0), (0.0, 1.0)])) == [[1, 2], [2, 1]]
    tracks = Tracks()
    tracks.update(0.0, np.array(NEAR), HEIGHT, 2.0, np.array([ONE, OTHER]))
    tracks.forget_looks()
    assert tracks.update(1.0, np.array(SWAPPED), HEIGHT, 2.0, np.array([ONE, OTHER])).ids.tolist() == [2, 1]
