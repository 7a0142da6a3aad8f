"""A camera whose clock leaps: keyframes that it jumped over are counted, and cost nobody anything."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from in_process import Running, hand_over, running_engine
from ws_client import check_conservation, jpeg, prefixed

from stmixer.service.engine.stream import LONGEST_STILL_US, Pending, Policy, Stream
from stmixer.service.schemas import DetectOptions, Result
from stmixer.service.sessions.results import Results
from stmixer.service.sessions.session import Session
from stmixer.service.sources.pictures import PictureSource

HZ, PICTURES, INTERVAL_US = 30, 40, 100_000
LEAP_US = 58 * 60 * 1_000_000
FIRST_US = 1_700_000_000_000_000


def stamp(number: int, leap_us: int) -> int:
    """Of a camera of ten pictures a second, set forward after half of them."""
    return FIRST_US + number * INTERVAL_US + (leap_us if number >= PICTURES // 2 else 0)


async def collect(session: Session, results: list[Result]) -> None:
    async for result in session.results():
        results.append(result)


def check(session: Session, results: list[Result], last_us: int) -> None:
    """Every keyframe up to the last picture is counted once, and each result says how many were left out before it."""
    summary = session.summary().model_dump()
    check_conservation(summary)
    assert summary["received"] == PICTURES == summary["sampled"] + summary["not_sampled"]
    assert summary["keyframes_due"] == last_us * session.stream.schedule.hz // 1_000_000 + 1
    assert summary["keyframes_due"] == summary["ok"] + summary["superseded"]
    before = -1
    for result in results:
        assert result.dropped_since_last == result.seq - before - 1
        before = result.seq


def counted(running: Running, outcome: str) -> float:
    value = running.engine.metrics.registry.get_sample_value(
        "stmixer_keyframes_total", {"source": "ws", "outcome": outcome}
    )
    return value or 0.0


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_a_leap_of_58_minutes_makes_no_keyframes_and_disturbs_no_other_stream(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: Counter[int] = Counter()
    add = Results.add

    def counting(self: Results, stream: Stream, pending: Pending) -> None:
        settled[stream.id] += 1
        add(self, stream, pending)

    monkeypatch.setattr(Results, "add", counting)

    async def film() -> None:
        options = DetectOptions(keyframe_hz=HZ, lookahead_ms=0)
        async with (
            running_engine() as running,
            running.session(policy, options) as leaping,
            running.session("all", options) as steady,
        ):
            results: dict[Session, list[Result]] = {leaping: [], steady: []}
            collecting = [asyncio.create_task(collect(session, found)) for session, found in results.items()]
            leaps, runs = (PictureSource(s.context, stamped=True) for s in (leaping, steady))
            await leaping.open(leaps)
            await steady.open(runs)
            for number in range(PICTURES):
                await hand_over(leaps, prefixed(stamp(number, LEAP_US), jpeg(number)))
                await hand_over(runs, prefixed(stamp(number, 0), jpeg(number)))
            for source in (leaps, runs):
                await source.ended()
            async with asyncio.timeout(60):
                await asyncio.gather(*collecting)

            usual = (PICTURES - 1) * INTERVAL_US
            check(leaping, results[leaping], usual + LEAP_US)
            check(steady, results[steady], usual)
            assert steady.summary().superseded == 0
            assert leaping.summary().keyframes_due > 100_000
            assert counted(running, "superseded") == leaping.summary().superseded
            assert counted(running, "ok") == leaping.summary().ok + steady.summary().ok
            # as many objects as without the leap, and of what it jumped over those for which the frame before may stand
            stands_s = 1 if policy == "latest" else LONGEST_STILL_US // 1_000_000
            assert settled[leaping.stream.id] <= settled[steady.stream.id] + stands_s * HZ
            assert results[leaping][-1].pts_us > LEAP_US

    asyncio.run(film())
