"""Cameras of many rates: which frames a model really sees, against a brute-force reading of docs/protocol.md, Time.

Session, engine, scheduler and decoder processes are the real ones; see ``in_process`` for what stands in the worker's
place.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Any

import pytest
from in_process import hand_over, running_engine
from ws_client import jpeg, prefixed, read_number

from stmixer.model.clip import window
from stmixer.model.zoo import variant
from stmixer.service.engine.stream import Policy
from stmixer.service.schemas import DetectOptions, Result
from stmixer.service.sources.pictures import PictureSource

HALF_RAW = Fraction(1, 60)
FRAMES = 120


def camera(kind: str) -> list[Fraction]:
    """Exact capture times in seconds, from 0."""
    if kind == "jitter":
        chance = random.Random(3)
        times = [Fraction(n, 25) + Fraction(chance.randrange(-15_000, 15_000), 10**6) for n in range(FRAMES)]
        return [t - times[0] for t in times]
    if kind == "gap":
        return [Fraction(n, 30) + (2 if n >= 80 else 0) for n in range(160)]
    fps = int(kind)
    return [Fraction(n, fps) for n in range(9 * fps // 2)]


@dataclass
class Wanted:
    """What the Time section says of one keyframe."""

    numbers: list[int]
    warming: bool


def wanted(times: list[Fraction], model: str, hz: Fraction, lookahead_ms: float | None, k: int, newest: int) -> Wanted:
    """Keyframe k, knowing the frames up to number ``newest``. No arithmetic is shared with the service."""
    table = window(variant(model).clip)
    step, known = table.grid_s, times[: newest + 1]
    t = k / hz
    centre = min(range(len(known) * 20), key=lambda i: (abs(i * step - t), -i))
    last_allowed = centre + max(
        j for j in range(40) if lookahead_ms is None or j * step <= Fraction(lookahead_ms) / 1000
    )
    indices = [min(centre + offset, last_allowed) for offset in table.offsets]

    def number_at(index: int) -> int:
        moment = max(0, index) * step + HALF_RAW  # before t = 0 the frame of t = 0 repeats
        return max(n for n, pts in enumerate(known) if pts <= moment)

    warming = indices[0] < 0
    for n in range(1, len(known)):
        interval = known[n] - known[n - 1]
        before = [b - a for a, b in zip(times[max(0, n - 32) :], times[max(0, n - 32) + 1 : n], strict=False)]
        limit = max(Fraction(1, 4), 3 * median(before)) if before else None
        if limit is None or interval <= limit:
            continue
        first, last = number_at(indices[0]), number_at(indices[-1])
        across = first < n <= last
        too_old = any(
            number_at(i) == n - 1 and i * step + HALF_RAW - known[n - 1] >= limit
            for i in range(indices[0], indices[-1] + 1)
        )
        warming |= across or too_old
    return Wanted([number_at(i) for i in indices], warming)


@dataclass
class Seen:
    """What one run saw: window numbers and ``warming`` per keyframe, and the last counts."""

    numbers: dict[int, list[int]]
    warming: dict[int, bool]
    summary: dict[str, Any]


async def run(times: list[Fraction], model: str, policy: Policy, options: DetectOptions) -> Seen:
    results: list[Result] = []
    async with running_engine(model) as running, running.session(policy, options) as session:

        async def collect() -> None:
            results.extend([r async for r in session.results()])

        collecting = asyncio.create_task(collect())
        source = PictureSource(session.context, stamped=True)
        await session.open(source)
        for number, pts in enumerate(times):
            await hand_over(source, prefixed(round(pts * 1_000_000), jpeg(number)))
            if policy == "latest":  # let what has fallen due run before the next frame is known
                while any(p.state != "early" for p in session.stream._in_order):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        await source.ended()
        await asyncio.wait_for(collecting, 60)
        summary = session.summary().model_dump()
        numbers = running.worker.seen[session.stream.id]
    return Seen(numbers, {r.seq: r.warming for r in results}, summary)


def check_summary(seen: Seen, times: list[Fraction]) -> None:
    s = seen.summary
    assert s["received"] == len(times) == s["sampled"] + s["not_sampled"]
    assert s["dropped"] == {}
    assert s["keyframes_due"] == s["ok"] + s["superseded"]
    assert s["ok"] == len(seen.warming)


CASES = [
    ("10", "tiny", 2, None),
    ("25", "tiny", 2, None),
    ("60", "tiny", 4, None),
    ("jitter", "tiny", 3, None),
    ("gap", "tiny", 2, None),
    ("25", "tiny", 4, 0),
    ("jitter", "tiny", 2, 300),
    ("60", "slowfast_r50", 1, 500),
    ("gap", "slowfast_r50", 2, None),
]


@pytest.mark.parametrize(("kind", "model", "hz", "lookahead_ms"), CASES)
def test_a_stream_that_loses_nothing_sees_exactly_the_frames_of_the_time_section(
    kind: str, model: str, hz: int, lookahead_ms: float | None
) -> None:
    times = camera(kind)
    options = DetectOptions(keyframe_hz=hz, lookahead_ms=lookahead_ms)
    seen = asyncio.run(run(times, model, "all", options))
    count = int(times[-1] * hz) + 1
    expected = [wanted(times, model, Fraction(hz), lookahead_ms, k, len(times) - 1) for k in range(count)]
    assert sorted(seen.numbers) == list(range(count))
    assert [seen.numbers[k] for k in range(count)] == [w.numbers for w in expected]
    assert [seen.warming[k] for k in range(count)] == [w.warming for w in expected]
    assert seen.summary["ok"] == count
    check_summary(seen, times)
    # so that the comparison says something: windows differ from one another, and are cold at the start and the gap
    assert len({tuple(w.numbers) for w in expected}) > count // 2
    assert expected[0].warming
    assert not expected[-1].warming
    cold = [w.warming for w in expected]
    assert (True in cold[cold.index(False) :]) is (kind == "gap")


@pytest.mark.parametrize(("kind", "model", "hz", "lookahead_ms"), CASES)
def test_a_live_stream_sees_the_frames_that_were_there_when_its_keyframe_fell_due(
    kind: str, model: str, hz: int, lookahead_ms: float | None
) -> None:
    times = camera(kind)
    own = window(variant(model).clip).lookahead_s
    lookahead = own if lookahead_ms is None else min(own, Fraction(lookahead_ms) / 1000)
    options = DetectOptions(keyframe_hz=hz, lookahead_ms=lookahead_ms)
    seen = asyncio.run(run(times, model, "latest", options))
    count = int(times[-1] * hz) + 1
    last = len(times) - 1
    due_with = {
        k: next((n for n, t in enumerate(times) if t >= Fraction(k, hz) + lookahead), None) for k in range(count)
    }
    # those that fall due with one and the same frame: the newest wins
    superseded = {k for k in range(count - 1) if due_with[k] is not None and due_with[k] == due_with[k + 1]}
    expected = {
        k: wanted(times, model, Fraction(hz), lookahead_ms, k, last if n is None else n)
        for k, n in due_with.items()
        if k not in superseded
    }
    assert seen.numbers == {k: w.numbers for k, w in expected.items()}
    assert seen.warming == {k: w.warming for k, w in expected.items()}
    assert seen.summary["superseded"] == len(superseded)
    assert bool(superseded) is (kind == "gap")
    check_summary(seen, times)


def test_the_numbers_survive_jpeg_and_resizing() -> None:
    from stmixer.media.encode import decode_jpeg
    from stmixer.media.limits import Limits
    from stmixer.media.resize import resize

    for number in (0, 1, 149, 2**11, 2**12 - 1):
        assert read_number(resize(decode_jpeg(jpeg(number), Limits()), 171, 128)) == number
