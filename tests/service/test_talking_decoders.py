"""Decoders that talk without end, as one may that was taken over: the event loop is everybody's."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stmixer.service.ipc.channel import Received
from stmixer.service.ipc.messages import DrawnTo, PictureWanted, Rendered, SourceEnded
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings
from stmixer.service.sources import hearing
from stmixer.service.sources.allowance import LoopShare
from stmixer.service.sources.decoder_link import DecoderLink
from stmixer.service.sources.rendering import render

MESSAGES = 40


class Talks:
    """A decoder that says one thing over and over, and is never waited for; each takes a millisecond by its clock."""

    def __init__(self, says: object, at_last: object) -> None:
        self.pid, self.channel, self.since = os.getpid(), self, None
        self._says, self._at_last = says, at_last
        self.now, self.heard = 0.0, 0

    async def receive(self) -> Received:
        self.now, self.heard = self.now + 0.001, self.heard + 1
        return Received(self._says if self.heard < MESSAGES else self._at_last)

    async def send(self, *_: object, **__: object) -> None: ...


def most_at_once(decoder: Talks, work: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """How many messages were taken up without a turn for others."""
    found = [0]

    async def others() -> None:
        while True:
            found.append(decoder.heard)
            await asyncio.sleep(0)

    async def run() -> None:
        other = asyncio.create_task(others())
        await work()
        other.cancel()

    asyncio.run(run())
    assert decoder.heard == MESSAGES
    return max(later - sooner for sooner, later in itertools.pairwise([*found, decoder.heard]))


def test_what_a_decoder_says_without_end_has_a_share_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Talks(PictureWanted(), SourceEnded(()))
    monkeypatch.setattr(hearing, "LoopShare", lambda *_: LoopShare(lambda: decoder.now))

    async def work() -> None:
        context = SimpleNamespace(
            engine=None, stream=SimpleNamespace(source="ws", ring=None), counts=None, clips=None, room=asyncio.Event()
        )
        link = DecoderLink(cast(Any, decoder), cast(Any, context), asyncio.Event(), lambda: None)
        assert await link.work() == SourceEnded(())

    assert most_at_once(decoder, work) <= 6


def test_one_that_draws_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Talks(DrawnTo(1, None), Rendered())
    monkeypatch.setattr(hearing, "LoopShare", lambda *_: LoopShare(lambda: decoder.now))

    async def acquire() -> Talks:
        return decoder

    async def release(_: Talks, *, clean: bool) -> None:
        assert clean

    async def work() -> None:
        pool = SimpleNamespace(acquire=acquire, release=release)
        with tempfile.TemporaryFile() as file:
            await render(
                cast(Any, pool), Settings(), Metrics(), trained=True,
                source_fd=file.fileno(), target_fd=file.fileno(), drawing_fd=file.fileno(),
            )  # fmt: skip

    assert most_at_once(decoder, work) <= 6
