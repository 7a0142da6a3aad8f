"""Decoders that do not get on, or compute without end: noticed, ended, replaced where that can be, and counted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from faulty_decoder import module_of
from in_process import Running, hand_over, running_engine
from own_decoder import write_decoder
from ws_client import jpeg

from stmixer.media.errors import MediaError
from stmixer.media.jpeg import MAX_SCANS, decode_jpeg
from stmixer.media.limits import Limits
from stmixer.service.errors import CapacityError, InputError
from stmixer.service.ipc.child import Child
from stmixer.service.schemas import DetectOptions
from stmixer.service.settings import Settings
from stmixer.service.sources import decoder_pool, nursery, patience
from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.decoder_pool import DECODER_MODULE, DecoderPool
from stmixer.service.sources.patience import Computing, Patience, cpu_seconds
from stmixer.service.sources.pictures import PictureSource
from stmixer.service.sources.rendering import render
from stmixer.service.sources.upload import UploadSource

CLIP = Path(__file__).parents[1] / "clips" / "walk.mp4"
UNTIL_IT_HANGS_S = 60


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "STUCK_S", 0.4)
    monkeypatch.setattr(patience, "LOOK_S", 0.02)


def run(work: Callable[[Running], Coroutine[Any, Any, Any]], decoder_module: str = DECODER_MODULE) -> Any:
    async def whole() -> Any:
        async with running_engine(decoder_module=decoder_module) as running, asyncio.timeout(UNTIL_IT_HANGS_S):
            return await work(running)

    return asyncio.run(whole())


def lost(running: Running) -> dict[str, float]:
    metrics = running.engine.metrics.registry
    reasons = ("exit", "stuck", "cpu", "protocol")
    found = {r: metrics.get_sample_value("stmixer_decoders_lost_total", {"reason": r}) or 0.0 for r in reasons}
    return {reason: count for reason, count in found.items() if count}


def stop_it(source: Any) -> int:
    """Stop the decoder that a source has, before it can take anything more; its process id."""
    pid: int = source._link.pid
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)  # one that waits in a read takes what comes until it has been scheduled
    return pid


def test_a_debt_that_does_not_come_on_is_over_in_time() -> None:
    waits = Patience(20)
    assert [waits.over(9, state) for state in (1, 1, 1, 2, 2, None, 2, 2, 2, 2)] == [False] * 9 + [True]


def test_nobody_is_impatient_with_who_owes_nothing() -> None:
    waits = Patience(1)
    assert not any(waits.over(100, None) for _ in range(5))


@pytest.mark.parametrize(
    ("used", "exceeded"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], [False] * 8),  # a whole core, for ever
        ([5, 15, 16, 17, 18], [False] * 5),  # a burst; what it had used before does not count
        ([0, 4, 8, 12, 16, 20], [False] * 4 + [True, True]),  # four cores
    ],
)
def test_a_budget_grows_with_the_time(used: list[float], exceeded: list[bool]) -> None:
    budget = Computing(per_second=1.5, burst_s=9)
    assert [budget.exceeded(1.0, seconds) for seconds in used] == exceeded


def test_computing_is_seen_from_outside() -> None:
    assert cpu_seconds(os.getpid()) == pytest.approx(sum(psutil.Process().cpu_times()[:2]), abs=0.5)
    assert cpu_seconds(2**22 + 1) is None


def test_a_cameras_stopped_decoder_is_replaced(soon: None, caplog: pytest.LogCaptureFixture) -> None:
    async def work(running: Running) -> dict[str, Any]:
        async with running.session("latest", DetectOptions()) as session:
            source = PictureSource(session.context, stamped=False)
            await session.open(source)
            await hand_over(source, jpeg(1))
            pid = stop_it(source)
            with caplog.at_level(logging.ERROR):
                await hand_over(source, jpeg(2))  # comes back when another one has taken over
            assert source._link is not None
            assert source._link.pid != pid
            assert not psutil.pid_exists(pid)
            await hand_over(source, jpeg(3))
            await source.ended()
            async for _ in session.results():
                pass
            assert [notice.code for notice in session.context.notices] == ["decoder_lost"]
            assert lost(running) == {"stuck": 1}
            return session.summary().model_dump()

    summary = run(work)
    assert (summary["received"], summary["dropped"]) == (
        3,
        {"decoder": 2},
    )  # the newest that was written is not yet final
    (line,) = [record for record in caplog.records if record.name == "stmixer.source"]
    assert "made no progress for 20 s" in line.getMessage()
    assert line.fields == {"stream": 1, "reason": "stuck"}  # type: ignore[attr-defined]


def test_an_uploads_stopped_decoder_is_replaced_at_no_cost(soon: None) -> None:
    async def work(running: Running) -> dict[str, Any]:
        async with running.session("all", DetectOptions()) as session:
            with CLIP.open("rb") as file:
                stopped = await running.pool.acquire()
                os.kill(stopped.pid, signal.SIGSTOP)
                running.pool._idle.insert(0, stopped)  # the one that it gets
                await session.open(UploadSource(session.context, file.fileno()))
                session.stream.source = "upload"
                async for _ in session.results():
                    pass
            assert lost(running) == {"stuck": 1}
            return session.summary().model_dump()

    summary = run(work)
    assert summary["received"] > 0
    assert summary["dropped"] == {}
    assert summary["ok"] == summary["keyframes_due"] > 0


def test_a_containers_stopped_decoder_ends_it_by_name(soon: None) -> None:
    async def work(running: Running) -> None:
        async with running.session("latest", DetectOptions()) as session:
            container = ContainerSource(session.context)
            await session.open(container)
            stop_it(container)
            await container.take(CLIP.read_bytes()[:5000])
            with pytest.raises(InputError, match="this media held the decoder up") as raised:
                await anext(session.results())
            assert raised.value.code == "unreadable"
            assert lost(running) == {"stuck": 1}

    run(work)


def test_one_whose_client_sends_nothing_is_not_stuck(soon: None) -> None:
    async def work(running: Running) -> None:
        async with (
            running.session("latest", DetectOptions()) as cameras,
            running.session("latest", DetectOptions()) as streams,
        ):
            pictures, container = PictureSource(cameras.context, stamped=False), ContainerSource(streams.context)
            await cameras.open(pictures)
            await streams.open(container)
            await hand_over(pictures, jpeg(1))
            await container.take(CLIP.read_bytes()[:5000])
            for source in (pictures, container):
                assert source._link is not None
                while source._link._state() is not None or container._given < 5000:  # noqa: ASYNC110 - of a process
                    await asyncio.sleep(0.02)
            pids = [stop_it(source) for source in (pictures, container)]
            await asyncio.sleep(1)  # over twice as long as one that owes something has
            assert lost(running) == {}
            assert all(psutil.pid_exists(pid) for pid in pids)

    run(work)


SPINNING = """
while True:
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    channel.send(PictureWanted())
"""


def test_one_that_computes_more_than_time_goes_by_ends_its_stream(
    soon: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_decoder("spinning_decoder", SPINNING, tmp_path, monkeypatch)
    monkeypatch.setattr(patience, "CPU_PER_LIVE_SECOND", 0.1)
    monkeypatch.setattr(patience, "CPU_BURST_S", 0.2)

    async def work(running: Running) -> None:
        async with running.session("latest", DetectOptions()) as session:
            await session.open(PictureSource(session.context, stamped=False))
            with pytest.raises(InputError, match="took too much computing time"):
                await anext(session.results())
            assert lost(running) == {"cpu": 1}

    run(work, "spinning_decoder")


def test_drawing_that_does_not_get_on_ends(soon: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = module_of("no answer", tmp_path)

    async def work(running: Running) -> None:
        with (
            tempfile.TemporaryFile() as target, tempfile.TemporaryFile() as drawing, CLIP.open("rb") as source,
            pytest.raises(InputError, match="it made no progress for 20 s"),
        ):  # fmt: skip
            await render(
                running.pool, running.settings, running.engine.metrics, trained=True,
                source_fd=source.fileno(), target_fd=target.fileno(), drawing_fd=drawing.fileno(),
            )  # fmt: skip
        assert lost(running) == {"stuck": 1}

    run(work, module)


def test_a_stopped_nursery_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        pool = DecoderPool(Settings(idle_decoders=0))
        try:
            first = await pool.acquire()
            await pool.release(first, clean=False)
            monkeypatch.setattr(nursery, "ANSWER_S", 0.2)
            assert pool._nursery._child is not None
            os.kill(pool._nursery._child.pid, signal.SIGSTOP)
            second = await pool.acquire()
            assert second.alive
            await pool.release(second, clean=False)
        finally:
            await pool.stop()

    asyncio.run(asyncio.wait_for(work(), UNTIL_IT_HANGS_S))


def test_one_that_is_never_ready_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "START_S", 0.1)
    ended: list[bool] = []

    async def never() -> None:
        await asyncio.sleep(UNTIL_IT_HANGS_S)

    async def kill() -> None:
        ended.append(True)

    async def bear(connection: int | None = None) -> Child:
        return SimpleNamespace(channel=SimpleNamespace(receive=never), kill=kill)  # type: ignore[return-value]

    async def work() -> None:
        pool = DecoderPool(Settings(idle_decoders=0))
        monkeypatch.setattr(pool._nursery, "bear", bear)
        with pytest.raises(CapacityError, match="a decoder ended at its start"):
            await pool.acquire()

    asyncio.run(work())
    assert ended == [True]


def with_scans(count: int) -> bytes:
    """A JPEG with its one scan so many times."""
    whole = jpeg(1)
    at = whole.index(b"\xff\xda")
    return whole[:at] + whole[at:-2] * count + whole[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    assert decode_jpeg(with_scans(MAX_SCANS), Limits()).shape == (240, 320, 3)
    with pytest.raises(MediaError, match="has 101 scans, and may have 100"):
        decode_jpeg(with_scans(MAX_SCANS + 1), Limits())
