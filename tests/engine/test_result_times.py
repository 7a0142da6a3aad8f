"""What a result says of its times is what the metrics hold, however long the process stands between two readings."""

from __future__ import annotations

import time

import pytest
from test_stream import Camera

from stmixer.service.engine.engine import result_of
from stmixer.service.metrics import Metrics
from stmixer.service.sessions.results import Results

STEP_S = 0.005


class BusyClock:
    """Both clocks of a process that loses 5 ms to its neighbours at every look; the wall clock may be set."""

    def __init__(self) -> None:
        self.now, self.set_by = 1000.0, 0.0

    def monotonic(self) -> float:
        self.now += STEP_S
        return self.now

    def time_ns(self) -> int:
        return round((self.monotonic() + self.set_by) * 1e9)


@pytest.mark.parametrize("set_by_s", [0.0, -3600.0, 3600.0])
def test_latency_in_a_result_is_the_one_in_the_histogram(set_by_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = BusyClock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    metrics = Metrics()
    results, camera = Results(metrics), Camera("all", hz=10.0, lookahead_ms=0.0)
    stream = camera.stream
    stream.deliver = lambda pending: results.add(stream, pending)
    for number in range(10):
        camera.send(number * 100_000, clock.monotonic())
    ready = stream.ready()
    assert ready
    seen_us = {pending.keyframe.seq: round(pending.seen_at * 1e6) for pending in ready}
    for pending in ready:
        stream.take(pending, clock.monotonic())
        stream.copied(pending)
    finished = clock.monotonic()
    for pending in ready:  # a batch: all by the time at which it came back
        pending.done_at = finished
        stream.settle(pending, "ok", result_of(pending, (), finished, 0.0, "tiny"))
    clock.set_by = set_by_s
    told = list(iter(lambda: results.take(stream, None), None))
    assert len(told) == len(ready)
    held = metrics.registry.get_sample_value("stmixer_e2e_latency_seconds_sum", {"source": "ws"})
    said = sum((r.sent_at_us - r.received_at_us) / 1e6 - r.timings_ms.lookahead / 1e3 for r in told)
    assert said == pytest.approx(held, abs=1e-5)
    assert all(abs(r.received_at_us - seen_us[r.seq]) <= 2 * STEP_S * 1e6 for r in told)
