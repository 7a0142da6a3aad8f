"""The process that forks decoders: what they share, and what becomes of them when it, one or whoever asked is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ws_client import poll

from stmixer.service.errors import CapacityError
from stmixer.service.ipc.child import Child
from stmixer.service.settings import Settings
from stmixer.service.sources import nursery as nursery_module
from stmixer.service.sources.decoder_pool import DECODER_MODULE, DecoderPool
from stmixer.service.sources.nursery import NURSERY_MODULE, Nursery

MEMORY_MB = 3072


class Kept(Nursery):
    """Remembers whom it has borne."""

    def __init__(self) -> None:
        super().__init__(DECODER_MODULE, MEMORY_MB)
        self.decoders: list[Child] = []

    async def bear(self) -> Child:
        self.decoders.append(await super().bear())
        return self.decoders[-1]


def run(test: Callable[[Nursery], Awaitable[None]]) -> None:
    """A test with a nursery; afterwards no process is left of it."""

    async def whole() -> list[psutil.Process]:
        nursery = Kept()
        try:
            await asyncio.wait_for(test(nursery), 60)
        finally:
            ours = processes()
            for decoder in nursery.decoders:
                await decoder.kill()
            await nursery.stop()
        return ours

    _, alive = psutil.wait_procs(asyncio.run(whole()), 30)
    assert not alive


def processes() -> list[psutil.Process]:
    """Nurseries of this process, and their decoders; a service that tests share has others of its own."""
    nurseries = [child for child in psutil.Process().children() if is_nursery(child)]
    return [*nurseries, *(decoder for nursery in nurseries for decoder in children_of(nursery))]


def children_of(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children()
    return []


def nursery_process() -> psutil.Process:
    """The one that this process has."""
    (found,) = (child for child in psutil.Process().children() if is_nursery(child))
    return found


def is_nursery(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return NURSERY_MODULE in process.cmdline()
    return False


def held(pid: int) -> list[str]:
    """What its descriptors are."""
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_decoder_is_forked_and_called_what_it_is() -> None:
    async def test(nursery: Nursery) -> None:
        decoders = [await nursery.bear() for _ in range(3)]
        parent = nursery_process()
        assert NURSERY_MODULE in parent.cmdline()
        assert parent.num_threads() == 1
        assert {child.pid for child in parent.children()} == {decoder.pid for decoder in decoders}
        for decoder in decoders:
            assert (await decoder.channel.receive()) is not None, "it is ready"
            here = psutil.Process(decoder.pid)
            assert DECODER_MODULE in here.cmdline()
            assert NURSERY_MODULE not in here.cmdline()
            assert here.memory_full_info().uss < 0.5 * here.memory_info().rss, "most pages are everybody's"

    run(test)


def test_a_decoder_has_its_channel_and_nothing_of_the_nursery() -> None:
    async def test(nursery: Nursery) -> None:
        first, second = await nursery.bear(), await nursery.bear()
        for decoder in (first, second):
            await decoder.channel.receive()
            places = held(decoder.pid)
            assert sum(place.startswith("socket:") for place in places) == 1
            assert len(places) == 4, places

    run(test)


@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGSEGV])
def test_how_a_decoder_ended_is_known(signalled: signal.Signals) -> None:
    async def test(nursery: Nursery) -> None:
        one, other = await nursery.bear(), await nursery.bear()
        await one.channel.receive()
        os.kill(one.pid, signalled)
        assert await one.wait() == -signalled
        assert not one.alive
        assert other.alive
        assert await other.end() == 0
        assert nursery_process().children() == [], "none is left unreaped"

    run(test)


def test_a_kernel_without_descriptors_of_processes_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(nursery_module, "pidfd_open", refuse)

    async def test(nursery: Nursery) -> None:
        one, other = await nursery.bear(), await nursery.bear()
        assert (await one.channel.receive()) is not None
        assert await one.kill() == -signal.SIGKILL
        assert not one.alive
        one.end_now()
        assert other.alive
        assert await other.end() == 0

    run(test)


def test_decoders_end_with_their_nursery_and_the_next_has_a_new_one() -> None:
    async def test(nursery: Nursery) -> None:
        decoder = await nursery.bear()
        parent = nursery_process()
        parent.kill()
        assert await decoder.wait() == -signal.SIGKILL
        again = await nursery.bear()
        assert (await again.channel.receive()) is not None
        assert psutil.Process(again.pid).ppid() != parent.pid
        assert await again.end() == 0

    run(test)


def test_a_decoder_of_the_nursery_before_does_not_disturb_the_next() -> None:
    async def test(nursery: Nursery) -> None:
        old = await nursery.bear()
        nursery_process().kill()
        new = await nursery.bear()
        statuses = await asyncio.gather(old.wait(), new.end())
        assert statuses == [-signal.SIGKILL, 0]

    run(test)


def test_whoever_stops_waiting_leaves_no_decoder_and_ends_nobody_elses() -> None:
    async def test(nursery: Nursery) -> None:
        other = await nursery.bear()
        for _ in range(5):
            birth = asyncio.create_task(nursery.bear())
            await asyncio.sleep(0)
            birth.cancel()
            with pytest.raises(asyncio.CancelledError):
                await birth
        last = await nursery.bear()
        left = await asyncio.to_thread(poll, lambda: len(processes()) == 3)
        assert left, "the nursery and two decoders"
        assert other.alive
        assert last.alive

    run(test)


def test_a_module_that_cannot_be_had_is_no_place_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_at_once.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def whole() -> None:
        pool = DecoderPool(Settings(idle_decoders=0), "breaks_at_once")
        try:
            for _ in range(2):
                with pytest.raises(CapacityError, match="no decoder could be started"):
                    await pool.acquire()
        finally:
            await pool.stop()

    asyncio.run(whole())
    assert not processes()


def test_a_long_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A faulty decoder of the tests may have one; the command line has only so much room."""
    from stmixer.service.decoder import nursery as inside

    assert inside.MODULE == nursery_module.NURSERY_MODULE
    before = Path("/proc/self/cmdline").read_bytes()
    inside.call_oneself("x" * (len(inside.MODULE) + 1))
    inside.call_oneself("this_process_is_no_nursery")
    assert Path("/proc/self/cmdline").read_bytes() == before
