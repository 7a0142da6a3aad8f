"""Keyframes over a gap: counted exactly, created hardly, in order for who is told of them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from test_stream import WINDOW, Camera

from stmixer.service.engine.engine import Engine
from stmixer.service.engine.keyframes import Keyframe, KeyframeSchedule
from stmixer.service.engine.scheduler import Scheduler
from stmixer.service.engine.stream import LONGEST_STILL_US, Pending, Policy
from stmixer.service.ipc.messages import Frames
from stmixer.service.metrics import Metrics
from stmixer.service.schemas import FrameSize, Result, Timings
from stmixer.service.sessions.results import Results
from stmixer.service.settings import Settings

LEAP_US = 58 * 60 * 1_000_000


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of all keyframes that come into being."""
    numbers: list[int] = []
    real = KeyframeSchedule.keyframe

    def noted(schedule: KeyframeSchedule, seq: int) -> Keyframe:
        numbers.append(seq)
        return real(schedule, seq)

    monkeypatch.setattr(KeyframeSchedule, "keyframe", noted)
    return numbers


@dataclass
class Naive:
    """What a live stream without a worker did when it created every keyframe: due, superseded, what can run."""

    schedule: KeyframeSchedule
    due: int = 0
    superseded: int = 0
    early: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)

    def frame(self, pts_us: int) -> None:
        while self.schedule.keyframe(self.due).pts_us <= pts_us:
            self.early.append(self.due)
            self.due += 1
        complete = [seq for seq in self.early if self.schedule.keyframe(seq).due_pts_us <= pts_us]
        if complete:
            self.superseded += len(self.ready) + len(complete) - 1
            self.early, self.ready = self.early[len(complete) :], [complete[-1]]


@pytest.mark.parametrize("seed", range(8))
def test_the_last_keyframe_by_arithmetic_is_the_last_one_by_counting(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        schedule = KeyframeSchedule(
            WINDOW, chance.choice([0.001, 1, 2.9, 7.5, 29.97, 30, chance.uniform(0.1, 30)]), None
        )
        seq = chance.randrange(5000)
        exact = schedule.keyframe(seq).pts_us
        for pts_us in (exact - 1, exact, exact + 1, chance.randrange(-3, 2 * exact + 10)):
            found = schedule.last_at(pts_us)
            assert found == -1 or schedule.keyframe(found).pts_us <= pts_us
            assert schedule.keyframe(found + 1).pts_us > pts_us
    assert KeyframeSchedule(WINDOW, 30, None).last_at(2**62 - 1) > 2**46  # whatever a decoder says


@pytest.mark.parametrize("lookahead_ms", [0.0, 300.0, None])
@pytest.mark.parametrize("seed", range(6))
def test_live_counts_are_those_of_creating_every_keyframe(seed: int, lookahead_ms: float | None) -> None:
    chance = random.Random(seed)
    camera = Camera("latest", hz=chance.choice([1.0, 4.0, 29.97, 30.0]), lookahead_ms=lookahead_ms, deadline_s=1e9)
    naive, pts_us = Naive(KeyframeSchedule(WINDOW, camera.stream.schedule.hz, lookahead_ms)), 0
    for _ in range(120):
        assert camera.send(pts_us)
        naive.frame(pts_us)
        summary = camera.stream.snapshot()
        assert (summary.keyframes_due, summary.superseded) == (naive.due, naive.superseded)
        assert [p.keyframe.seq for p in camera.stream.ready()] == naive.ready
        pts_us += chance.choice([1, 16_667, 33_333, 33_333, 200_000, 3_000_000])
    told = sum(1 + p.skipped_before for p in camera.delivered) + sum(p.skipped_before for p in camera.stream._in_order)
    assert told == naive.superseded


@pytest.mark.parametrize("lookahead_ms", [0.0, None])
def test_a_leap_of_a_live_clock_costs_as_much_as_a_second(created: list[int], lookahead_ms: float | None) -> None:
    camera = Camera("latest", hz=30.0, lookahead_ms=lookahead_ms)
    for i in range(30):
        assert camera.send(i * 33_333)
    created.clear()
    camera.stream.note_frame(LEAP_US, 60.0, 60.0)
    assert len(created) <= (camera.stream.schedule.lookahead_ms / 1000 + 1) * 30
    summary = camera.stream.snapshot()
    assert summary.keyframes_due == LEAP_US * 30 // 1_000_000 + 1
    assert summary.superseded + summary.pending == summary.keyframes_due
    assert [p.keyframe.due_pts_us <= LEAP_US for p in camera.stream.ready()] == [True]


@pytest.mark.parametrize("hz", [1.0, 30.0])
@pytest.mark.parametrize("first_interval", [True, False])
def test_a_gap_of_a_stream_that_loses_nothing_is_counted_but_for_its_first_seconds(
    created: list[int], hz: float, first_interval: bool
) -> None:
    """Also where no frame has told yet how far apart frames are."""
    camera = Camera("all", hz=hz)
    if first_interval:
        camera.stream._timeline._intervals.clear()  # type: ignore[union-attr]
        assert camera.send(0)
        before = 0
    else:
        for before in range(0, 2_000_000, 40_000):
            assert camera.send(before)
    created.clear()
    skipped = camera.stream.note_frame(LEAP_US, 60.0, 60.0)
    assert len(created) <= LONGEST_STILL_US / 1e6 * hz + 2
    moments = [round(k * 1e6 / hz) for k in range(int(LEAP_US * hz / 1e6) + 1)]
    counted = [k for k, t in enumerate(moments) if before + LONGEST_STILL_US < t < LEAP_US]
    summary = camera.stream.snapshot()
    assert skipped == summary.superseded == len(counted) > 1000
    assert summary.keyframes_due == len(moments)
    assert [p.keyframe.seq for p in camera.stream._in_order] == sorted(set(range(len(moments))) - set(counted))
    assert {p.keyframe.seq: p.skipped_before for p in camera.stream._in_order if p.skipped_before} == {
        counted[-1] + 1: len(counted)
    }
    assert summary.pending == len(camera.stream._in_order)


def test_counted_ones_behind_the_last_keyframe_are_in_the_summary_all_the_same() -> None:
    camera = Camera("all", hz=1.0)
    for pts_us in range(0, 2_000_000, 40_000):
        assert camera.send(pts_us)
    assert camera.send(99_500_000)  # keyframes 12 to 99 fall into the gap; 100 never comes
    camera.stream.end(100.0)
    camera.stream.cancel()
    summary = camera.stream.snapshot()
    assert summary.keyframes_due == 100
    assert (summary.superseded, summary.cancelled, summary.pending) == (88, 12, 0)


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_a_first_frame_that_comes_late_is_a_gap_too(created: list[int], policy: Policy) -> None:
    """Pictures before it were broken: nobody was told of them, and t = 0 was theirs."""
    camera = Camera(policy, hz=30.0)
    created.clear()
    skipped = camera.stream.note_frame(LEAP_US, 60.0, 60.0)
    assert len(created) <= LONGEST_STILL_US / 1e6 * 30 + 3
    summary = camera.stream.snapshot()
    assert summary.keyframes_due == LEAP_US * 30 // 1_000_000 + 1 == skipped + summary.pending
    assert camera.stream.ready() == [], "no sample is written yet that they could run on"
    camera.stream.note_sample(0, 1, camera.stream.schedule.grid.first_served(LEAP_US), LEAP_US)
    assert camera.stream.ready()
    camera.stream.take(camera.stream.ready()[0], 60.0)


def test_a_slow_stream_has_no_gaps() -> None:
    """A picture every five seconds, as always or all at once: each stands for its five seconds."""
    camera = Camera("all", hz=1.0)
    camera.stream._timeline._intervals.clear()  # type: ignore[union-attr]
    for pts_us in range(0, 50_000_000, 5_000_000):
        assert camera.send(pts_us)
    assert (camera.stream.summary.keyframes_due, camera.stream.summary.superseded) == (46, 0)
    assert LONGEST_STILL_US > 5_000_000


@pytest.mark.parametrize("written", [0, 1, 20])
def test_frames_that_are_never_written_bring_no_keyframes_without_end(created: list[int], written: int) -> None:
    """Of broken pictures, or as a decoder says that was taken over: ten seconds apart, each would stand for them."""
    camera = Camera("all", hz=30.0)
    for number in range(written + 1):  # the last one is not written before the next one comes
        assert camera.send(number * 100_000)
    created.clear()
    moments = [written * 100_000 + k * LONGEST_STILL_US for k in range(1, 200)]
    for pts_us in moments:
        camera.stream.note_frame(pts_us, 60.0, 60.0)
    summary = camera.stream.snapshot()
    assert summary.pending <= 2 * LONGEST_STILL_US / 1e6 * 30 + written * 3 + 2
    assert len(created) <= summary.pending + len(moments) + 1
    assert summary.keyframes_due == moments[-1] * 30 // 1_000_000 + 1 == summary.superseded + summary.pending


class Looked(deque[Pending]):
    """A line that counts who is looked at."""

    at = 0

    def __iter__(self) -> Iterator[Pending]:
        for pending in super().__iter__():
            Looked.at += 1
            yield pending

    def __reversed__(self) -> Iterator[Pending]:
        for pending in super().__reversed__():
            Looked.at += 1
            yield pending


def test_many_that_wait_cost_no_frame_and_no_round_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pictures, ten seconds apart, leave thousands of keyframes of a stream that loses none."""
    camera, scheduler = Camera("all", hz=30.0, lookahead_ms=0.0), Scheduler(8, 0.0)
    for number in range(10):
        assert camera.send(number * LONGEST_STILL_US)
    camera.stream._in_order = Looked(camera.stream._in_order)
    assert len(camera.stream._in_order) > 2000
    monkeypatch.setattr(Looked, "at", 0)
    camera.stream.note_frame(9 * LONGEST_STILL_US + 1, 90.0, 90.0)
    assert Looked.at <= 310, "those of the last picture wait for what comes after it"
    monkeypatch.setattr(Looked, "at", 0)
    choice = scheduler.choose([camera.stream], 100.0)
    assert [pending.keyframe.seq for pending in choice.batch] == list(range(8))
    assert Looked.at <= 17


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_metrics_and_dropped_since_last_hold_the_counted_ones(policy: Policy) -> None:
    metrics = Metrics()
    engine, results = Engine(Settings(max_streams=1), metrics), Results(metrics)
    camera = Camera(policy, hz=10.0, lookahead_ms=0.0)
    stream = camera.stream
    stream.deliver = lambda pending: results.add(stream, pending)
    engine.add(stream)
    times = [*range(0, 2_000_000, 40_000), *range(600_000_000, 602_000_000, 40_000)]
    number, told = -1, list[Result]()
    for pts_us in times:
        index = stream.schedule.grid.first_served(pts_us)
        number += stream.newest is None or index > stream.newest.index
        stream.note_sample(number, number + 1, index, pts_us)
        engine.frames(stream, Frames((pts_us,), (pts_us / 1e6,), 0), pts_us / 1e6)
        for pending in stream.ready():
            stream.take(pending, pts_us / 1e6)
            stream.copied(pending)
            stream.settle(pending, "ok", result_of(pending.keyframe.seq))
        if policy == "all":  # nothing more is run for a subscriber that is far behind
            told += iter(lambda: results.take(stream, None), None)
    summary = stream.snapshot()
    told += iter(lambda: results.take(stream, None), None)
    assert summary.superseded > 5800
    counted = {
        outcome: metrics.registry.get_sample_value(
            "stmixer_keyframes_total", {"source": "ws", "outcome": outcome}
        ) for outcome in ("ok", "superseded")
    }  # fmt: skip
    assert counted == {"ok": summary.ok, "superseded": summary.superseded}
    if policy == "all":
        assert [r.seq for r in told if r.dropped_since_last] == [6000]
        assert len(told) == summary.ok
    # a live subscriber that took nothing meanwhile has one result, and the number of all others
    assert sum(1 + r.dropped_since_last for r in told) == summary.ok + summary.superseded


def result_of(seq: int) -> Result:
    timings = Timings(lookahead=0, decode=0, queue=0, inference=0, postprocess=0)
    return Result(
        seq=seq, pts_us=0, received_at_us=0, sent_at_us=0, warming=False, timings_ms=timings, dropped_since_last=0,
        frame=FrameSize(width=1, height=1), actors=(),
    )  # fmt: skip
