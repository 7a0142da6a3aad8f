"""A socket's reader, waiting for room: it ends when it is told to, at whatever moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stmixer.service.sources.container import ContainerSource
from stmixer.service.sources.mailbox import QUEUE_BYTES


@pytest.mark.parametrize("steps", range(6))
def test_a_reader_that_is_told_to_end_just_when_there_is_room_ends(steps: int) -> None:
    """As where its decoder dies: that makes room, and ends the stream. ``wait_for`` of Python 3.11 forgot the end."""
    context: Any = SimpleNamespace(stream=SimpleNamespace(policy="latest"))

    async def talk() -> None:
        source = ContainerSource(context)
        await source.take(bytes(QUEUE_BYTES))
        reader = asyncio.create_task(source.take(b"more"))
        await asyncio.sleep(0.01)
        assert not reader.done()
        await source._queue.get()
        for _ in range(steps):
            await asyncio.sleep(0)
        had_ended = reader.done()
        reader.cancel()
        await asyncio.wait({reader})
        assert reader.cancelled() or had_ended

    asyncio.run(talk())
