"""The time grid against docs/protocol.md's sentences, by brute force."""

from __future__ import annotations

from fractions import Fraction

import pytest

from stmixer.media.grid import FrameSampler, Sample, SampleHistory, TimeGrid

GRID = TimeGrid(Fraction(2, 30))


def brute_force(pts: list[Fraction], s: Fraction) -> int:
    """The frame at s is the last one with pts <= s + 1/60; before the first, the first."""
    return max([i for i, p in enumerate(pts) if p <= s + Fraction(1, 60)], default=0)


def sampled(pts: list[Fraction], grid: TimeGrid) -> SampleHistory[int]:
    history: SampleHistory[int] = SampleHistory(grid)
    sampler: FrameSampler[int] = FrameSampler(grid)
    for i, p in enumerate(pts):
        history.observe(round(p * 1_000_000))
        settled = sampler.feed(round(p * 1_000_000), i)
        if settled is not None:
            history.keep(settled)
    assert sampler.newest is not None
    history.keep(sampler.newest)
    return history


@pytest.mark.parametrize("step", [Fraction(1, 30), Fraction(2, 30), Fraction(16, 30)])
@pytest.mark.parametrize("fps", [5, 10, 15, 24, 25, Fraction(30000, 1001), 30, 50, 60, 120])
def test_the_frame_at_s_is_the_last_with_pts_up_to_half_a_raw_frame_later(fps: Fraction, step: Fraction) -> None:
    pts = [Fraction(i) / fps for i in range(int(6 * fps))]
    history = sampled(pts, TimeGrid(step))
    for index in range(int(pts[-1] / step) + 1):
        assert history.at([index])[0].frame == brute_force(pts, index * step), index


def test_jitter_and_gaps_follow_the_same_rule() -> None:
    pts, t = [], Fraction(0)
    for i in range(200):
        pts.append(t)
        t += Fraction(1 + (i * 7919) % 53, 1000) + (2 if i == 100 else 0)
    history = sampled(pts, GRID)
    for index in range(int(pts[-1] * 15) + 1):
        assert history.at([index])[0].frame == brute_force(pts, Fraction(index, 15)), index


def test_ends_repeat_the_edge_frame() -> None:
    history = sampled([Fraction(i, 30) for i in range(30)], GRID)
    assert history.at([-20, 0])[0] is history.at([-20, 0])[1]
    assert history.at([500])[0].frame == 29


@pytest.mark.parametrize("t_us", [0, 1, 33_333, 33_334, 66_667, 1_000_000, 59_999_999])
def test_nearest(t_us: int) -> None:
    index = GRID.nearest(t_us)
    distance = abs(GRID.time_us(index) - t_us)
    assert distance <= min(abs(GRID.time_us(index - 1) - t_us), abs(GRID.time_us(index + 1) - t_us))


def test_a_gap_is_over_250_ms_and_three_medians() -> None:
    fast: SampleHistory[int] = SampleHistory(GRID)
    slow: SampleHistory[int] = SampleHistory(GRID)
    for i in range(40):
        assert not fast.observe(i * 33_333)
        assert not slow.observe(i * 200_000)
    assert not fast.observe(39 * 33_333 + 249_000)
    assert fast.observe(39 * 33_333 + 249_000 + 251_000)
    assert not slow.observe(39 * 200_000 + 599_000)
    assert slow.observe(39 * 200_000 + 599_000 + 601_000)


def test_windows_are_whole_only_in_one_piece_of_the_stream() -> None:
    history: SampleHistory[int] = SampleHistory(GRID)
    times = [*range(0, 3_000_000, 33_333), *range(5_000_000, 9_000_000, 33_333)]
    for pts_us in times:
        history.observe(pts_us)
    at = GRID.nearest
    assert not history.is_whole(-1, 10)  # before the start
    assert history.is_whole(0, at(2_900_000))
    assert not history.is_whole(at(2_000_000), at(4_000_000))  # ends in the gap
    assert not history.is_whole(at(4_000_000), at(6_000_000))  # starts in it
    assert not history.is_whole(at(2_000_000), at(6_000_000))  # spans it
    assert history.is_whole(at(5_000_000), at(8_000_000))


def test_forgetting_keeps_what_an_index_still_needs() -> None:
    history: SampleHistory[int] = SampleHistory(GRID)
    for index in (0, 3, 6, 9):
        history.keep(Sample(index, GRID.time_us(index), index))
    assert [s.frame for s in history.forget_before(7)] == [0, 3]
    assert history.at([7])[0].frame == 6


def test_memory_is_bounded_by_forgetting_not_by_time() -> None:
    history: SampleHistory[int] = SampleHistory(GRID)
    for index in range(10_000):
        history.observe(index * 66_667)
        history.keep(Sample(index, index * 66_667, index))
        history.forget_before(index - 30)
    assert len(history) <= 32
