"""A day in an hour: a camera whose clock runs 1 % fast or slow against ours, for an hour, by made-up clocks."""

from __future__ import annotations

import struct
import time
from fractions import Fraction
from statistics import quantiles
from types import SimpleNamespace
from typing import cast

import pytest
from av import VideoFrame
from av.packet import Packet
from av.video.stream import VideoStream
from test_stream import Camera, conserved

from stmixer.media.capture_clock import CaptureClock
from stmixer.media.timeline import Timeline
from stmixer.service.engine.engine import result_of
from stmixer.service.metrics import Metrics
from stmixer.service.sessions.results import Results

TICKS = 90_000
FPS, SECONDS = 10, 3600
REPORTED_EVERY = 5 * FPS
WAY_S, RUN_S = 0.05, 0.03
"""From capture to arrival, and what the model takes."""
BEGAN = 1000.0
EPOCH_S = 1_800_000_000.0


def picture(ticks: int) -> VideoFrame:
    return cast(VideoFrame, SimpleNamespace(pts=ticks, time_base=Fraction(1, TICKS)))


def reported(ticks: int, captured_us: int) -> Packet[VideoStream]:
    """A packet on which FFmpeg has put what a sender report said."""
    side = struct.pack("=q", captured_us)
    told = SimpleNamespace(pts=ticks, has_sidedata=lambda _: True, get_sidedata=lambda _: side)
    return cast("Packet[VideoStream]", told)


@pytest.mark.parametrize("rate", [1.01, 0.99])
def test_freshness_stays_flat_for_an_hour(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = BEGAN
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: round((EPOCH_S + now - BEGAN) * 1e9))
    timeline: Timeline[int] = Timeline(Fraction(1, TICKS), Fraction(FPS), (1 << 32,))
    capture, camera, results = CaptureClock(), Camera("latest", hz=1.0), Results(Metrics())
    stream = camera.stream
    stream.deliver = lambda pending: results.add(stream, pending)
    first = (1 << 32) - 600 * TICKS  # FFmpeg counts on where RTP's 32 bits run over, as they do in the hour
    fresh: list[float] = []
    ages: list[float] = []
    for number in range(FPS * SECONDS):
        now = BEGAN + number / FPS
        ticks = round(first + number / FPS * rate * TICKS)
        if number and number % REPORTED_EVERY == 0:
            capture.read(reported(ticks, round((EPOCH_S + now - BEGAN - WAY_S) * 1e6)))
        for placed in timeline.place(number, ticks):
            assert placed.pts_us is not None
            capture.place(picture(ticks), placed.pts_us)
            assert camera.send(placed.pts_us, now)
        stream.expire(now)
        for pending in stream.ready():
            stream.take(pending, now)
            stream.copied(pending)
            now += RUN_S
            pending.done_at = now
            stream.settle(pending, "ok", result_of(pending, (), now, 0.0, "tiny"))
            now -= RUN_S
        now += RUN_S
        while (result := results.take(stream, None, capture.origin_us)) is not None:
            fresh.append((result.sent_at_us - result.received_at_us) / 1e6)
            if result.capture_at_us is not None:
                ages.append((result.sent_at_us - result.capture_at_us) / 1e6)
    counted = stream.snapshot()
    assert conserved(stream)
    assert (counted.ok, counted.superseded, counted.deadline) == (len(fresh), 0, 0)
    assert abs(counted.keyframes_due - SECONDS * rate) <= 1
    assert (timeline.resets, timeline.strays, timeline.left_out, timeline.wrapped) == (0, 0, 0, 0)
    lookahead_s = stream.schedule.lookahead_ms / 1000 / rate
    for seen, least in ((fresh, RUN_S), (ages, WAY_S + RUN_S)):
        begin, end = (quantiles(part, n=20)[-1] for part in (seen[:300], seen[-300:]))
        assert abs(end - begin) < 0.001, (begin, end)
        # a keyframe waits for the frame at its look-ahead; a report is 5 s old at most, in which 1 % is 50 ms
        assert max(seen) < least + lookahead_s + 2 / FPS + 0.05
        assert min(seen) > least + lookahead_s - 1 / FPS - 0.05
