"""The coordinator's table: who fetches what, and what becomes of it when somebody is gone."""

from __future__ import annotations

import pytest

from stmixer.service.cluster.orders import Order, PullRefusal
from stmixer.service.cluster.placing import AGAIN_S, GIVEN_UP_S, HEAD, LEASE_S, LOST_S, RANGE, SILENT_S, Placements
from stmixer.service.errors import AccessError, CapacityError, InputError, StmixerError

FULL = PullRefusal("capacity", "all 2 streams are in use", 503, 5)
WRONG = PullRefusal("bad_url", "no such camera", 422, None)
NO_KEY = PullRefusal("unauthorized", "this key is not known here", 401, None)


def table(*names: str, capacity: int = 10) -> Placements:
    """With these replicas, as they joined."""
    placements = Placements()
    for name in names:
        placements.join(name, 0.0)
        assert placements.report(name, 0, capacity, 0.0)
    return placements


def homes(placements: Placements, *names: str) -> list[list[int]]:
    """The numbers of what each is to fetch."""
    return [[order.number for order in placements.of(name)] for name in names]


def test_streams_go_to_where_most_room_is() -> None:
    placements = table("a", "b", "c")
    for _ in range(4):
        placements.order("{}", "", 0.0)
    assert homes(placements, "a", "b", "c") == [[1, 4], [2], [3]]
    placements.report("a", 5, 10, 1.0)
    placements.report("b", 0, 2, 1.0)  # half full with one
    placements.order("{}", "", 1.0)
    assert homes(placements, "a", "b", "c") == [[1, 4], [2], [3, 5]]


def test_late_ones_are_given_what_others_have_no_room_for() -> None:
    placements = table("late", "in time", capacity=10)
    placements.report("late", 1, 10, 0.0, late=True)
    placements.report("in time", 8, 10, 0.0)
    for _ in range(3):
        placements.order("{}", "", 0.0)
    assert homes(placements, "late", "in time") == [[3], [1, 2]]
    placements.report("late", 1, 10, 1.0)
    placements.report("in time", 0, 10, 1.0, late=True)
    placements.order("{}", "", 1.0)
    assert homes(placements, "late", "in time") == [[3, 4], [1, 2]]


def test_one_that_leaves_has_others_fetch_what_it_did() -> None:
    placements = table("a", "b", "c")
    for _ in range(3):
        placements.order("{}", "", 0.0)
    placements.leave("a", 1.0)
    assert homes(placements, "b", "c") == [[2], [3]]
    assert placements.look(1.0).changed
    assert homes(placements, "b", "c") == [[1, 2], [3]]
    assert not placements.look(1.0).changed


def test_a_silent_one_is_gone_only_once_it_has_ended_what_it_fetched() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    placements.report("b", 0, 10, LOST_S)
    assert not placements.look(LOST_S).changed
    assert placements.look(LOST_S + 0.1).changed
    assert homes(placements, "a", "b") == [[], [1]]
    assert not placements.report("a", 0, 10, LOST_S + 0.2), "it has to join anew"
    assert LEASE_S + 1 < LOST_S


def test_a_silent_one_that_is_heard_of_is_not_gone() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    now = SILENT_S + 0.1
    assert placements.silent(SILENT_S) == ()
    placements.report("b", 0, 10, now)
    assert placements.silent(now) == ("a",)
    placements.heard("a", now)
    assert placements.silent(now) == ("a",), "it has still not reported"
    assert not placements.look(now + LOST_S).changed
    placements.report("b", 0, 10, now + LOST_S)
    assert placements.look(now + LOST_S + 0.1).changed
    assert homes(placements, "a", "b") == [[], [1]]
    placements.heard("a", now + LOST_S + 0.2)
    assert placements.silent(now + LOST_S + 0.2) == ()
    assert SILENT_S + 1 < LOST_S, "signs are looked for in time"


def test_one_that_does_not_report_is_given_nothing_while_another_does() -> None:
    """It may reach Ray's store alone: it is there, and the emptiest, but hears of nothing."""
    placements = table("silent", "full")
    now = SILENT_S + 0.1
    placements.report("full", 9, 10, now)
    placements.heard("silent", now)
    placements.order("{}", "", now)
    assert homes(placements, "silent", "full") == [[], [1]]
    placements.refused("full", 1, FULL, now)
    assert homes(placements, "silent", "full") == [[1], []], "there is no other"


def test_what_a_silent_one_has_not_begun_moves_and_what_runs_there_stays() -> None:
    placements = table("a", "b")
    for number in (1, 2, 3):
        placements.order("{}", "", 0.0)
        placements.began("ab"[number % 2 - 1], number)
    placements.order("{}", "", 0.0)
    assert homes(placements, "a", "b") == [[1, 3], [2, 4]]
    for now in (1.0, LOST_S, LOST_S + 0.1):
        placements.heard("b", now)
        assert homes(placements, "a", "b") == [[1, 3], [2, 4]]
        placements.report("a", 0, 10, now)
        assert placements.look(now).changed == (now > LOST_S)
    assert homes(placements, "a", "b") == [[1, 3, 4], [2]]
    assert not placements.began("b", 4), "it is told to end it once it hears"


def test_what_waits_at_a_silent_one_stays_where_no_other_reports() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    now = LOST_S + 0.1
    for name in "ab":
        placements.heard(name, now)
    assert not placements.look(now).changed
    assert homes(placements, "a", "b") == [[1], []]


def test_without_a_replica_a_stream_waits_for_one() -> None:
    placements = table("a")
    placements.order("{}", "", 0.0)
    placements.leave("a", 1.0)
    assert placements.empty_since == 1.0
    assert not placements.look(2.0).changed
    placements.join("b", 3.0)
    assert placements.empty_since is None
    assert placements.look(3.0).changed
    assert homes(placements, "b") == [[1]]


def test_one_that_finds_no_room_is_tried_elsewhere_and_then_refused() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    assert placements.refused("a", 1, FULL, 0.0), "the other one is left"
    assert homes(placements, "a", "b") == [[], [1]]
    assert not placements.refused("b", 1, FULL, 0.0)
    assert homes(placements, "a", "b") == [[], []]
    assert not placements.look(1.0).changed, "it is forgotten"


def test_what_once_ran_or_stands_in_the_file_waits_for_room() -> None:
    placements = table("a")
    placements.order("{}", "", 0.0)
    assert placements.began("a", 1)
    placements.leave("a", 0.0)
    placements.join("b", 0.0)
    placements.file({"door": "{}"}, 0.0)
    placements.look(0.0)
    assert homes(placements, "b") == [[1, 2]]
    assert placements.refused("b", 1, FULL, 1.0)
    assert placements.refused("b", 2, FULL, 1.0)
    assert homes(placements, "b") == [[]]
    assert not placements.look(1.0 + AGAIN_S - 0.1).changed
    assert placements.look(1.0 + AGAIN_S).changed
    assert homes(placements, "b") == [[1, 2]]


def test_what_can_never_be_fetched_is_tried_once() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    assert not placements.refused("a", 1, WRONG, 0.0)
    assert homes(placements, "a", "b") == [[], []]


def test_what_once_ran_is_not_given_up_for_an_error_of_one_machine() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    placements.began("a", 1)
    placements.file({"door": "{}"}, 0.0)
    assert homes(placements, "a", "b") == [[1], [2]]
    placements.leave("a", 1.0)
    placements.look(1.0)
    placements.join("c", 1.0)
    for number in (1, 2):
        assert placements.refused("b", number, WRONG, 1.0), "the other home is left"
    assert homes(placements, "b", "c") == [[], [1, 2]]
    for number in (1, 2):
        assert placements.refused("c", number, WRONG, 2.0)
    assert homes(placements, "b", "c") == [[], []]
    placements.look(2.0 + AGAIN_S)
    assert sorted(order.number for name in "bc" for order in placements.of(name)) == [1, 2]
    assert {order.lasts for order in (*placements.of("b"), *placements.of("c"))} == {True}


def test_what_once_ran_ends_with_its_key() -> None:
    placements = table("a", "b")
    placements.order("{}", "me", 0.0)
    placements.began("a", 1)
    placements.leave("a", 1.0)
    placements.look(1.0)
    assert not placements.refused("b", 1, NO_KEY, 1.0)
    assert not placements.knows(1)


def test_for_what_nobody_waits_any_more_is_not_begun() -> None:
    placements = table("a")
    placements.order("{}", "", 0.0)
    placements.leave("a", 0.0)
    placements.file({"door": "{}"}, 0.0)
    placements.look(GIVEN_UP_S)
    assert placements.knows(1)
    assert placements.look(GIVEN_UP_S + 1).changed
    assert [placements.knows(number) for number in (1, 2)] == [False, True]


def test_the_same_question_is_one_stream() -> None:
    placements = table("a")
    first = placements.order("{}", "", 0.0, key="k1")
    assert placements.order("{}", "", 1.0, key="k1") == first
    assert placements.order("{}", "", 1.0, key="k2").number == 2
    placements.began("a", 1, "what it is")
    after = Placements.read(placements.written(), 2.0)
    assert after.order("{}", "", 2.0, key="k1").number == 1
    assert (after.running(1), after.running(2)) == ("what it is", "")
    after.forget(1)
    assert after.order("{}", "", 2.0, key="k1").number == 3


def test_other_rules_go_with_a_stream() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    placements.file({"door": "{}"}, 0.0, "d1")
    placements.began("a", 1)
    placements.began("b", 2)
    assert placements.change("a", 1, '{"rules":1}')
    assert placements.change("b", 2, '{"rules":2}')
    assert not placements.change("b", 1, "{}"), "it is not there"
    placements.file({"door": "{}"}, 1.0, "d2")
    placements.leave("a", 1.0)
    placements.look(1.0)
    assert [(order.number, order.text) for order in placements.of("b")] == [(1, '{"rules":1}'), (2, '{"rules":2}')]


def test_what_has_come_to_its_end_does_not_begin_elsewhere() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    placements.began("a", 1)
    placements.report("a", 0, 10, 1.0, over=(1, 77))
    assert placements.where(1) == "a"
    after = Placements.read(placements.written(), 1.0)
    after.leave("a", 2.0)
    after.look(2.0)
    assert homes(after, "b") == [[]]
    assert not after.knows(1)


def test_others_are_told_nothing_of_a_stream() -> None:
    placements = table("a")
    placements.order("{}", "me", 0.0)
    placements.order("{}", "you", 0.0)
    assert placements.knows(1, "me", sees_all=False)
    assert not placements.knows(1, "you", sees_all=False)
    assert [order.number for order in placements.listed("you", sees_all=False)] == [2]
    assert [order.number for order in placements.listed("you", sees_all=True)] == [1, 2]
    assert not placements.forget(1, "you", sees_all=False)
    assert placements.forget(1, "me", sees_all=False)
    assert not placements.forget(1, "me", sees_all=False)


def test_a_replica_that_was_taken_for_gone_is_not_believed() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    placements.leave("a", 0.0)
    placements.look(0.0)
    assert homes(placements, "a", "b") == [[], [1]]
    assert not placements.began("a", 1), "it has to end it"
    assert placements.refused("a", 1, WRONG, 0.0), "and what it says of it changes nothing"
    assert placements.began("b", 1)
    placements.forget(1)
    assert not placements.began("b", 1)


def test_where_a_stream_is() -> None:
    placements = table("a", "b")
    placements.order("{}", "", 0.0)
    assert (placements.where(1), placements.knows(1)) == (None, True)
    placements.began("a", 1)
    assert (placements.where(1), placements.knows(1)) == ("a", True)
    placements.leave("a", 0.0)
    assert (placements.where(1), placements.knows(1)) == (None, True)
    assert [placements.where(number) for number in (2 * RANGE, 3 * RANGE - 1, 3 * RANGE, 2)] == ["b", "b", None, None]
    assert not placements.knows(2 * RANGE)
    placements.forget(1)
    assert not placements.knows(1)


def test_no_number_is_given_twice() -> None:
    placements = table("a")
    placements.leave("a", 0.0)
    assert placements.join("b", 0.0) == 2
    assert placements.join("b", 1.0) == 2
    assert placements.join("a", 0.0, 1) == 1, "one that comes back keeps its own"
    assert placements.join("c", 0.0) == 3


def test_the_file_of_streams_ends_and_begins_what_is_other_in_it() -> None:
    placements = table("a")
    placements.file({"door": "1", "yard": "2"}, 0.0)
    placements.order("9", "", 0.0)
    placements.file({"door": "1", "yard": "3", "hall": "4"}, 0.0)
    told = {order.number: (order.filed, order.text) for order in placements.of("a")}
    assert told == {1: ("door", "1"), 3: (None, "9"), 4: ("yard", "3"), 5: ("hall", "4")}
    placements.file({}, 0.0)
    assert [order.number for order in placements.of("a")] == [3], "there is no file any more"


def test_a_deployment_files_once() -> None:
    placements = table("a")
    placements.file({"door": "1"}, 0.0, "d1")
    placements.forget(1)
    placements.file({"door": "1"}, 1.0, "d1")
    assert homes(placements, "a") == [[]], "what was ended by hand stays so"
    placements.file({"door": "2"}, 2.0, "d2")
    placements = Placements.read(placements.written(), 3.0)
    placements.report("a", 0, 10, 3.0)
    placements.file({"door": "1"}, 3.0, "d1")  # one of before that joins anew
    assert [(order.number, order.text) for order in placements.of("a")] == [(2, "2")]


def test_it_goes_on_where_the_coordinator_died() -> None:
    before = table("a", "b")
    before.order('{"url":"x"}', "key", 0.0)
    before.order("{}", "", 0.0)
    before.began("a", 1)
    after = Placements.read(before.written(), 100.0)
    assert after.of("a") == (Order(1, '{"url":"x"}', "key", lasts=True),)
    assert (after.where(1), after.where(2), tuple(after.names)) == ("a", None, ("a", "b"))
    assert not after.look(100.0 + LOST_S).changed
    after.report("b", 0, 10, 100.0 + LOST_S)
    assert after.look(100.1 + LOST_S).changed, "who does not report is gone"
    assert homes(after, "b") == [[1, 2]]
    assert after.join("c", 200.0) == 3
    assert after.order("{}", "", 200.0).number == 3


def test_a_replica_that_left_as_the_coordinator_died_has_no_stream() -> None:
    before = table("a", "b")
    before.order("{}", "", 0.0)
    before.began("a", 1)
    rows = before.written()
    before.leave("a", 1.0)
    after = Placements.read({**rows, HEAD: before.written()[HEAD]}, 2.0)
    assert after.look(2.0).changed
    assert homes(after, "a", "b") == [[], [1]]
    assert after.where(1) is None, "it has still to begin"


def test_no_more_is_written_than_has_changed() -> None:
    placements = table("a", "b")
    for _ in range(3):
        placements.order("{}", "", 0.0)
    assert set(placements.changes()) == {HEAD, "1", "2", "3"}
    assert set(placements.changes()) == {HEAD}
    written = placements.written()
    for name, row in placements_changed(placements).items():
        if row is None:
            del written[name]
        else:
            written[name] = row
    assert written == placements.written()


def placements_changed(placements: Placements) -> dict[str, str | None]:
    """What is written of all that can happen to three streams."""
    placements.began("a", 1, "x")
    placements.change("a", 1, '{"x":1}')
    changed = placements.changes()
    assert set(changed) == {HEAD, "1"}
    placements.forget(2)
    placements.report("a", 0, 10, 0.0, over=[3])
    changed |= placements.changes()
    assert changed["2"] is None
    placements.leave("a", 1.0)
    placements.look(1.0)
    placements.refused("b", 1, FULL, 1.0)
    placements.file({"door": "{}"}, 1.0, "d1")
    return changed | placements.changes()


@pytest.mark.parametrize(
    "error",
    [CapacityError("capacity", "full", 503, 7), InputError("bad_url", "no"), AccessError("unauthorized", "who", 401)],
)
def test_an_error_is_the_same_on_the_other_side(error: StmixerError) -> None:
    same = PullRefusal.of(error).error()
    assert (type(same), str(same), vars(same)) == (type(error), str(error), vars(error))
