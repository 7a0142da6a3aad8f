"""Files that are played: long pauses in them, decoders that are lost, and how often one begins again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from cameras import pulled, says, told
from conftest import OWN_CLIPS
from in_process import running_engine
from posting import conserved
from ws_client import numbered

from stmixer.service.pulled_url import parse_url
from stmixer.service.sessions.backlog import Said
from stmixer.service.sources.addresses import AddressPolicy
from stmixer.service.sources.pulled import AGAIN_S, PulledSource, PullTerms
from stmixer.service.sources.trouble import Trouble


def test_a_pause_in_a_file_is_no_silence(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "slow.mp4"), "w") as output:
        track = output.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(numbered(number)[:96, :160].copy(), format="rgb24")
            frame.pts, frame.time_base = 10 * number, Fraction(1, 10)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))

    async def run() -> None:
        async with (
            running_engine() as engine,
            pulled(engine, "file:slow.mp4", folder=tmp_path, silent_s=0.1) as stream,
        ):
            await says(stream, "summary")
            assert (told(stream).state, told(stream).error) == ("ended", None)

    asyncio.run(run())


@pytest.mark.parametrize("loop", [True, False])
def test_a_summary_is_said_once_and_last_and_adds_up(loop: bool) -> None:
    async def run() -> None:
        async with running_engine() as engine, pulled(engine, "file:fall.mp4", folder=OWN_CLIPS, loop=loop) as stream:
            await says(stream, "result" if loop else "summary")
            await stream.close()
            said = [said async for said in stream.backlog.follow(0) if isinstance(said, Said)]
            assert [one.kind for one in said].index("summary") == len(said) - 1
            summary = json.loads(said[-1].text)["summary"]
            assert summary["ok"] > 0
            conserved(summary)

    asyncio.run(run())


def test_a_file_whose_decoder_is_lost_is_played_again() -> None:
    async def run() -> None:
        async with running_engine() as engine, pulled(engine, "file:walk.mp4", folder=OWN_CLIPS) as stream:
            live = await says(stream, "status", state="live")
            (decoder,) = engine.pool._busy
            os.kill(decoder.pid, signal.SIGKILL)
            lost = await says(stream, "status", state="reconnecting", after=live.number)
            assert told(stream).code == "decoder"
            await says(stream, "status", state="live", after=lost.number)

    asyncio.run(run())


@pytest.mark.parametrize(("reason", "state"), [("decoder", "ended"), ("capacity", "ended"), ("unreadable", "failed")])
def test_what_is_no_fault_of_the_file_is_tried_again(reason: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [Trouble(reason, "as it happens"), None]

    async def attempt() -> Trouble | None:
        return outcomes.pop(0)

    async def at_once(trouble: Trouble, began: float) -> None: ...

    async def run() -> str:
        context = SimpleNamespace(fail=lambda _: None, finish=None, changed=lambda: None, counts=None)
        source = PulledSource(context, PullTerms(parse_url("file:x"), AddressPolicy(())), lambda: None)  # type: ignore[arg-type]
        for name, stand_in in (("_attempt", attempt), ("_wait_after", at_once), ("_finish_stream", lambda _: None)):
            monkeypatch.setattr(source, name, stand_in)
        await source._run()
        return source.state

    assert asyncio.run(run()) == state


@pytest.mark.parametrize(("loop", "trouble"), [(True, None), (False, Trouble("unreadable", "it is no film"))])
def test_attempts_do_not_follow_one_another_at_once(
    loop: bool, trouble: Trouble | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []

    async def attempt() -> Trouble | None:
        return trouble

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    async def run() -> None:
        terms = PullTerms(parse_url("file:x"), AddressPolicy(()), loop=loop)
        context = SimpleNamespace(fail=lambda _: None, finish=None, changed=lambda: None, counts=None)
        source = PulledSource(context, terms, lambda: None)  # type: ignore[arg-type]
        monkeypatch.setattr(source, "_attempt", attempt)
        monkeypatch.setattr("stmixer.service.sources.pulled.AGAIN_S", 1000 * AGAIN_S)
        monkeypatch.setattr("stmixer.service.sources.pulled.asyncio.sleep", sleep)
        if loop:
            with pytest.raises(asyncio.CancelledError):
                await source._run()
        else:
            await source._run()

    asyncio.run(run())
    assert [pause > 900 for pause in pauses] == [True] * loop
