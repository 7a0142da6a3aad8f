"""Capacity from the warm-up's measure, and who fits beside whom."""

from __future__ import annotations

import pytest
from test_stream import Camera

from stmixer.service.engine.admission import capacity_of, fits, fits_share, weight
from stmixer.service.engine.engine import Engine
from stmixer.service.errors import CapacityError
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings


def test_capacity_follows_the_best_batch_size() -> None:
    assert capacity_of({1: 0.1}) == 8
    assert capacity_of({1: 0.1, 2: 0.1, 4: 0.4}) == 16
    assert capacity_of({1: 30.0}) == 2


def test_a_live_stream_weighs_its_rate_and_a_patient_one_what_is_left() -> None:
    assert weight("latest", 10) == 10
    assert weight("latest", 0.1) == 1
    assert weight("all", 30) == 1


def test_kept_features_make_a_fast_stream_lighter() -> None:
    """Windows of 1 s at 8 Hz share seven eighths of their frames; at 1 Hz they share none."""
    assert weight("latest", 8, saved=0.8, span_s=1.0) == pytest.approx(8 * (1 - 0.8 * 7 / 8))
    assert weight("latest", 1, saved=0.8, span_s=1.0) == 1
    assert weight("latest", 0.5, saved=0.8, span_s=1.0) == 1
    assert weight("all", 8, saved=0.8, span_s=1.0) == 1


@pytest.mark.parametrize(
    ("own", "wanted", "weighed", "fit"),
    [([], 30, True, True), ([3], 1, True, True), ([3], 2, True, False), ([1, 2], 1, True, True),
     ([1, 1], 3, True, False), ([], 9, False, True), ([9, 9, 9], 9, False, True), ([1, 1, 1, 1], 1, False, False)],
)  # fmt: skip
def test_a_share_of_half_the_capacity(own: list[float], wanted: float, weighed: bool, fit: bool) -> None:
    """One stream always, whatever it takes; where streams are counted each is one."""
    assert fits_share(own, wanted, 8, 50, weighed=weighed) == fit


def test_who_fits() -> None:
    assert fits([], 30, 2)  # alone, whatever it takes
    assert fits([30], 1, 2)  # a camera and a clip
    assert not fits([30, 1], 1, 2)
    assert fits([4, 2], 2, 8)
    assert not fits([4, 2], 3, 8)


@pytest.mark.parametrize("max_streams", [None, 2])
def test_the_engine_says_when_to_come_again(max_streams: int | None) -> None:
    metrics = Metrics()
    engine = Engine(Settings(max_streams=max_streams), metrics)
    engine.seats[0].capacity = 8
    assert engine.entry.capacity == (max_streams or 8)
    for _ in range(2):
        stream = Camera("latest", hz=4.0).stream
        stream.id = engine.entry.admit("latest", 4.0)
        engine.add(stream)
    with pytest.raises(CapacityError) as refused:
        engine.entry.admit("latest", 4.0)
    assert (refused.value.status, refused.value.code) == (503, "capacity")
    assert refused.value.retry_after_s > 0
    assert metrics.registry.get_sample_value("stmixer_streams_rejected_total", {"reason": "capacity"}) == 1
    engine.remove(engine.streams[1])
    assert engine.entry.admit("latest", 4.0) == 3
