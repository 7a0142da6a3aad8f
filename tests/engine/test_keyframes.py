"""Keyframes of models that keep frame features lie on the sampling grid (docs/protocol.md, Time)."""

from __future__ import annotations

from fractions import Fraction

import pytest

from stmixer.model.clip import window
from stmixer.model.config import ClipConfig
from stmixer.service.engine.keyframes import KeyframeSchedule

SHARED = window(ClipConfig(frames=8, stride=4, grid=4))


@pytest.mark.parametrize(
    ("hz", "steps"), [(1, 8), (2, 4), (4, 2), (7.5, 1), (8, 1), (30, 1), (0.5, 15), (0.001, 7500), (2.9, 3)]
)
def test_the_period_is_a_whole_number_of_grid_steps(hz: float, steps: int) -> None:
    schedule = KeyframeSchedule(SHARED, hz, None, snap=True)
    assert schedule.hz == pytest.approx(float(1 / (steps * Fraction(4, 30))))
    keyframes = [schedule.keyframe(seq) for seq in (0, 1, 2, 1000)]
    assert [k.indices[4] for k in keyframes] == [0, steps, 2 * steps, 1000 * steps]
    assert [k.pts_us for k in keyframes] == [schedule.grid.time_us(k.indices[4]) for k in keyframes]


def test_neighbouring_windows_share_all_but_the_new_frames() -> None:
    schedule = KeyframeSchedule(SHARED, 7.5, None, snap=True)
    for seq in range(20):
        before, after = (set(schedule.keyframe(s).indices) for s in (seq, seq + 1))
        assert len(after - before) == 1


def test_without_snapping_the_rate_is_what_was_asked_for() -> None:
    assert KeyframeSchedule(SHARED, 8, None).hz == 8
