"""Overload: goodput stays where it was, streams have equal parts, and go back to all of it when there is time again."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean

import pytest
from crowd import Crowd, Source, crowd_of, goodput
from hypothesis import given, settings
from hypothesis import strategies as st

from stmixer.service.engine.turns import LONGEST_TURN_S

COSTS = {"frame_s": 0.038, "clip_s": 0.054}
"""Two cameras of 4 keyframes a second (3.75 on the grid) take all of a worker."""
PEAK = 7.5
QUIET = settings(max_examples=3, deadline=None, derandomize=True)


def runs_of(source: Source, since: float, until: float) -> list[list[int]]:
    """The keyframes that were served, in runs between which more than a keyframe was left out."""
    runs: list[list[int]] = []
    for pending in source.served(since, until):
        seq = pending.keyframe.seq
        if runs and seq - runs[-1][-1] <= 2:
            runs[-1].append(seq)
        else:
            runs.append([seq])
    return runs


@pytest.mark.parametrize(("cameras", "least"), [(2, 1.0), (3, 0.95), (4, 0.95), (8, 0.9), (16, 0.9)])
def test_overload_costs_no_keyframes(cameras: int, least: float) -> None:
    """Left to chance it is 1.0, 0.37, 0.37, 0.38, 0.38 of the peak."""
    assert goodput(crowd_of(cameras, **COSTS)) >= least * PEAK - 0.05


def test_left_to_chance_overload_costs_most_of_them() -> None:
    assert goodput(crowd_of(4, **COSTS, told=False)) < 0.5 * PEAK


@QUIET
@given(st.floats(0.01, 0.03), st.floats(0.5, 3.0), st.integers(2, 4), st.sampled_from([0.5, 1.0, 3.0]))
def test_goodput_at_any_cost(frame_s: float, clip: float, times: int, warm: float) -> None:
    """Whatever frames and clip cost, and however wrong the warm-up was: against all that the worker could do."""
    clip_s = clip * 2 * frame_s
    fit = int(1 / (3.75 * (2 * frame_s + clip_s)))
    if fit < 2:
        return
    crowd = crowd_of(times * fit, until=32.0, frame_s=frame_s, clip_s=clip_s, warm=warm)
    assert goodput(crowd, 10.0, 31.0) >= 0.88 * fit * 3.75


@pytest.fixture(scope="module")
def twice() -> Crowd:
    """Twice as many cameras as there is time for, whose turns are short."""
    return crowd_of(4, until=90.0, frame_s=0.012, clip_s=0.1)


def test_equal_streams_have_equal_parts(twice: Crowd) -> None:
    served = [len(source.served(10.0, 88.0)) for source in twice.sources]
    assert max(served) <= 1.25 * min(served), served


def test_streams_that_all_run_share_what_is_missing() -> None:
    """A tenth too much: nobody waits, and the missing keyframes are not always the same one's."""
    crowd = crowd_of(3, until=100.0, frame_s=0.025, clip_s=0.05)
    served = [len(source.served(10.0, 98.0)) for source in crowd.sources]
    assert crowd.scheduler.turns.load == pytest.approx(1.125, rel=0.05)
    assert max(served) <= 1.25 * min(served), served


def test_a_turn_is_on_the_whole_grid_and_pauses_are_alike(twice: Crowd) -> None:
    for source in twice.sources:
        runs = runs_of(source, 10.0, 88.0)
        whole = [run for run in runs[1:-1] if len(run) > 5]
        assert len(whole) >= 3
        for run in whole:
            assert len(run) >= 0.85 * (run[-1] - run[0] + 1)
            assert run[-1] - run[0] <= LONGEST_TURN_S * 3.75 * 1.5
        pauses = [later[0] - earlier[-1] for earlier, later in pairwise(whole)]
        assert max(pauses) <= 1.6 * mean(pauses), pauses


def test_rates_are_respected() -> None:
    """A camera that asks for a keyframe a second takes less than its part, and has all of it."""
    crowd = Crowd(frame_s=0.012, clip_s=0.1)
    rare = crowd.add(hz=0.5)
    often = [crowd.add(hz=4.0, starts_at=0.07 * n) for n in range(4)]
    crowd.run(70.0)
    assert len(rare.served(10.0, 68.0)) >= 0.9 * 58 * rare.stream.schedule.hz
    served = [len(source.served(10.0, 68.0)) for source in often]
    assert max(served) < 58 * 3.75 * 0.75
    assert goodput(crowd, 10.0, 68.0) > 0.9 / 0.124 - 0.9 * 0.072 / 0.124 * rare.stream.schedule.hz


def test_who_leaves_gives_its_part_to_the_others_at_once() -> None:
    crowd = Crowd(**COSTS)
    stays = [crowd.add(starts_at=0.1 * n) for n in range(2)]
    for n in range(2):
        crowd.add(starts_at=0.15 + 0.1 * n, ends_at=30.0)
    crowd.run(60.0)
    assert crowd.scheduler.turns.crowded
    assert crowd.scheduler.turns.load == pytest.approx(0.975, abs=0.05)
    for source in stays:
        assert len(source.served(15.0, 30.0)) < 15 * 3.75 * 0.9
        assert len(source.served(34.0, 59.0)) >= 0.97 * 25 * 3.75


def test_the_whole_grid_comes_back_when_there_is_time() -> None:
    crowd = Crowd(**COSTS)
    stays = crowd.add()
    for n in range(5):
        crowd.add(starts_at=0.05 + 0.04 * n, ends_at=30.0)
    crowd.run(50.0)
    assert not crowd.scheduler.turns.crowded
    assert len(stays.served(32.0, 49.0)) >= 17 * 3.75 - 2


def test_a_newcomer_gets_its_part_and_no_more() -> None:
    crowd = Crowd(**COSTS)
    for n in range(4):
        crowd.add(starts_at=0.06 * n)
    late = crowd.add(starts_at=20.0)
    crowd.run(120.0)
    served = [len(source.served(40.0, 118.0)) for source in crowd.sources]
    assert late.served(20.0, 42.0)
    assert len(late.served(40.0, 118.0)) <= 1.6 * min(served), served


def test_where_nothing_is_kept_of_frames_nobody_waits_for_a_turn() -> None:
    """Even thinning costs such a model nothing: each is served in its turn, as ever."""
    crowd = crowd_of(6, until=40.0, frame_s=0.0125, clip_s=0.05, keeps=False)
    assert not crowd.scheduler.turns.crowded
    for source in crowd.sources:
        seqs = [p.keyframe.seq for p in source.served(10.0, 38.0)]
        steps = {later - earlier for earlier, later in pairwise(seqs)}
        assert max(steps) - min(steps) <= 1


def test_rare_keyframes_share_nothing_and_take_no_turns() -> None:
    crowd = crowd_of(12, hz=0.9, until=40.0, frame_s=0.015, clip_s=0.02)
    assert crowd.scheduler.turns.load > 1
    assert not crowd.scheduler.turns.crowded


def test_a_patient_stream_loses_nothing_and_has_its_part() -> None:
    crowd = Crowd(**COSTS)
    for n in range(4):
        crowd.add(starts_at=0.06 * n)
    upload = crowd.add(hz=2.0, policy="all", starts_at=0.3, ends_at=20.0)
    crowd.run(45.0)
    summary = upload.stream.summary
    assert upload.stream.finished
    assert summary.ok == summary.keyframes_due > 20
    assert summary.superseded == summary.deadline == 0
    assert goodput(crowd, 5.0, 44.0) > 0.8 * PEAK


def test_counts_add_up() -> None:
    crowd = crowd_of(8, until=40.0, **COSTS)
    for source in crowd.sources:
        counts = source.stream.snapshot()
        settled = counts.ok + counts.superseded + counts.deadline + counts.error + counts.worker_lost + counts.cancelled
        assert counts.keyframes_due == settled + counts.pending
        assert counts.superseded > counts.ok > 0
        assert counts.error == counts.worker_lost == counts.cancelled == 0


def test_batches_stay_as_full_as_without_turns() -> None:
    """Where a batch costs much and a keyframe little, as on a GPU."""
    costs = {"frame_s": 0.0004, "clip_s": 0.002, "batch_s": 0.012}
    sizes = []
    for told in (True, False):
        crowd = crowd_of(24, until=8.0, **costs, told=told)
        sizes.append(sum(crowd.batches) / len(crowd.batches))
        assert goodput(crowd, 2.0, 7.0) >= 0.98 * 24 * 3.75
    assert sizes[0] == sizes[1]


def test_a_keyframe_that_died_with_its_batch_runs_though_it_is_not_its_turn() -> None:
    crowd = crowd_of(4, until=20.0, **COSTS)
    stream = crowd.sources[0].stream
    suspect = next(p for p in stream.ready() if not p.attempts)
    stream.take(suspect, 20.0)
    stream.release(suspect)
    crowd.run(20.5)
    assert suspect.outcome is None or suspect.outcome == "ok"
    crowd.run(22.0)
    assert suspect.outcome == "ok"


def test_who_has_gone_is_no_load() -> None:
    crowd = crowd_of(3, until=5.0, **COSTS)
    for source in crowd.sources:
        crowd.scheduler.turns.forget(source.stream)
    assert crowd.scheduler.turns.load == 0


def test_a_camera_that_stops_between_two_turns_is_finished() -> None:
    """What its look-ahead kept waiting runs, though no turn of its comes any more."""
    crowd = Crowd(**COSTS)
    for n in range(8):
        crowd.add(starts_at=0.03 * n, ends_at=20 + 0.4 * n if n % 2 else 1e9, finishes=True)
    crowd.run(25.0)
    assert crowd.scheduler.turns.crowded
    for source in crowd.sources[1::2]:
        assert source.stream.finished, source.stream.snapshot()
        last = [pending.outcome for pending in source.settled[-2:]]
        assert last == ["ok", "ok"], "those of its look-ahead"


def test_uploads_that_have_nothing_to_run_take_nothing() -> None:
    def served(uploads: int) -> float:
        crowd = Crowd(**COSTS)
        for n in range(3):
            crowd.add(starts_at=0.03 * n)
        for n in range(uploads):
            crowd.add(starts_at=0.01 * n, policy="all").stream.undelivered = 1000  # nobody reads its results
        crowd.run(40.0)
        return goodput(crowd, 10.0, 39.0)

    assert served(6) == pytest.approx(served(0), rel=0.03)


def test_a_new_worker_knows_nobodys_frames() -> None:
    crowd = crowd_of(2, until=5.0, **COSTS)
    turns = crowd.scheduler.turns
    assert all(turn.known for turn in turns._of.values())
    turns.forget_frames()
    assert not any(turn.known for turn in turns._of.values())
