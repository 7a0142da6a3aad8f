"""From frames to ring slots, without a process: what is written, what is told, and at which moments at once."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.service.decoder.sampling import AwaitedMoments, Sampling
from stmixer.service.ipc.messages import Frames, FramesDropped, Instants, Opened, SampleWritten, SamplingOrder
from stmixer.service.ipc.ring import Ring, RingShape, create_ring

STEP = Fraction(1, 15)
CAPACITY = 8


class Plain:
    """A frame of one value everywhere, or a broken one."""

    def __init__(self, value: int, *, broken: bool = False) -> None:
        self.width, self.height, self.value, self.broken = 64, 48, value, broken

    def resized(self, width: int, height: int, antialias: bool = False) -> np.ndarray:
        if self.broken:
            raise MediaError("unreadable", "broken")
        return np.full((height, width, 3), self.value, np.uint8)


class Sink:
    """Takes everything down; its ring has room whenever it is asked for some."""

    def __init__(self) -> None:
        self.told: list[Frames | SampleWritten | FramesDropped] = []
        self.limit = CAPACITY
        self.opened: Opened | None = None
        self.asked: list[int] = []

    def open(self, message: Opened) -> Ring:
        self.opened = message
        shape = RingShape(message.input_width, message.input_height, CAPACITY)
        memory = create_ring(shape)
        self.ring = Ring(memory.fd, shape, writable=True)
        return self.ring

    def tell(self, message: Frames | SampleWritten | FramesDropped) -> None:
        self.told.append(message)

    def room(self, number: int) -> None:
        self.asked.append(number)
        self.limit = number + 1


def order(instants: Instants | None = None) -> SamplingOrder:
    return SamplingOrder((STEP.numerator, STEP.denominator), 24, False, Limits(), instants)


def run(rate: float, count: int, *, prompt: bool, broken: frozenset[int] = frozenset()) -> Sink:
    sink = Sink()
    sampling = Sampling(order(), sink, prompt=prompt)
    sampling.open(64, 48, rate)
    for number in range(count):
        sampling.frame(round(number / rate * 1e6), Plain(number % 251, broken=number in broken), float(number))
    sampling.commit()
    sampling.tell_frames()
    return sink


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("rate", [7.0, 15.0, 30.0, 60.0])
def test_every_frame_is_told_once_and_written_or_not_kept(rate: float, prompt: bool) -> None:
    sink = run(rate, 200, prompt=prompt)
    frames = [m for m in sink.told if isinstance(m, Frames)]
    written = [m for m in sink.told if isinstance(m, SampleWritten)]
    assert [t for m in frames for t in m.pts_us] == [round(n / rate * 1e6) for n in range(200)]
    assert [m.number for m in written] == list(range(len(written)))
    assert len(written) + sum(m.not_sampled for m in frames) == 200
    assert len(written) == pytest.approx(200 * min(1, 15 / rate), abs=1)
    assert sink.asked == list(range(CAPACITY, len(written)))
    assert len(frames) >= 200 if prompt else len(frames) <= len(written) + 7
    newest = written[-1]
    assert sink.ring.generation(newest.number % CAPACITY) == newest.generation


def test_a_broken_frame_is_dropped_once_and_no_slot_is_taken_for_it() -> None:
    sink = run(10.0, 50, prompt=True, broken=frozenset({3, 4, 20}))
    dropped = [m for m in sink.told if isinstance(m, FramesDropped)]
    assert dropped == [FramesDropped("corrupt", 1, told=True)] * 3
    written = [m for m in sink.told if isinstance(m, SampleWritten)]
    not_sampled = sum(m.not_sampled for m in sink.told if isinstance(m, Frames))
    assert len(written) + not_sampled + len(dropped) == 50


@pytest.mark.parametrize(("hz", "after_us"), [(1.0, 0), (30.0, 466_667), (0.3, 100_000), (29.97, 1)])
def test_awaited_moments_are_those_of_the_keyframes_whatever_is_jumped_over(hz: float, after_us: int) -> None:
    chance, awaited = random.Random(1), AwaitedMoments(Instants(hz, after_us))
    pts_us, passed = 0, 0  # ``passed``: moments at or before the newest frame
    for _ in range(300):
        pts_us += chance.choice([1, 33_333, 100_000, 2_000_000, 30_000_000])
        before = passed
        while round(passed * 1e6 / hz) + after_us <= pts_us:
            passed += 1
        assert awaited.reached(pts_us) is (passed > before)


def test_a_leap_of_an_hour_costs_few_steps() -> None:
    awaited = AwaitedMoments(Instants(1000.0, 0))
    assert awaited.reached(3_600_000_000)
    assert awaited._number == 3_600_001
