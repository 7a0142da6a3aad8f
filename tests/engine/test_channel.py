"""The API process's end of the pipe to a child that may be gone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from stmixer.service.ipc.channel import _LENGTHS, AT_ONCE, AsyncChannel, Channel, ChannelError, Received
from stmixer.service.ipc.messages import FROM_WORKER, TO_WORKER, DetachRing, WorkerTells, encode

BIG = b"x" * 2**22


def test_descriptors_arrive_with_their_message_though_the_pipe_was_full() -> None:
    async def talk(ours: AsyncChannel, theirs: Channel) -> None:
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(ours.send(DetachRing(1), BIG))
        second = asyncio.create_task(ours.send(DetachRing(2), fds=[0]))
        await asyncio.sleep(0.05)
        assert not first.done()
        one, two = [await loop.run_in_executor(None, theirs.receive) for _ in range(2)]
        await asyncio.gather(first, second)
        assert one is not None
        assert two is not None
        assert (one.message, one.payload, one.fds) == (DetachRing(1), BIG, [])
        assert two.message == DetachRing(2)
        (fd,) = two.fds
        os.close(fd)

    over_a_pair(talk)


@pytest.mark.parametrize("fds", [[], [0]])
@pytest.mark.parametrize("closed", ["ours", "theirs"])
def test_a_channel_that_is_closed_says_so(fds: list[int], closed: str) -> None:
    """With descriptors too: a stream may open just when its worker has died."""

    async def talk(ours: AsyncChannel, theirs: Channel) -> None:
        ours.close() if closed == "ours" else theirs._sock.close()
        with pytest.raises(ChannelError):
            await ours.send(DetachRing(1), fds=fds)

    over_a_pair(talk)


@pytest.mark.parametrize("turns", range(4))
def test_who_is_cancelled_in_the_middle_of_a_message_has_lost_nothing(turns: int) -> None:
    """As a stream that is closed while its decoder talks, and has a last thing to ask of it."""
    message, payload = WorkerTells("the first of two"), b""
    raw = encode(message)
    data = _LENGTHS.pack(len(raw), len(payload)) + raw

    async def talk(ours: AsyncChannel, theirs: Channel) -> None:
        for at in range(len(data)):
            listening = asyncio.create_task(ours.receive())
            theirs._sock.sendall(data[:at])
            await asyncio.sleep(0.001)
            theirs._sock.sendall(data[at:])
            for _ in range(turns):
                await asyncio.sleep(0)
            listening.cancel()
            (heard,) = await asyncio.gather(listening, return_exceptions=True)
            if isinstance(heard, asyncio.CancelledError):
                heard = await ours.receive()
            assert isinstance(heard, Received)
            assert heard.message == message
        theirs._sock.close()
        assert await ours.receive() is None

    over_a_pair(talk)


def test_a_child_that_always_has_something_to_say_leaves_the_loop_to_others() -> None:
    """Nothing waits while messages are there; and who is told of a message was told whether others had a turn."""

    async def talk(ours: AsyncChannel, theirs: Channel) -> None:
        for number in range(10 * AT_ONCE):
            theirs.send(WorkerTells(str(number)))
        turns, waited = 0, list[bool]()

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        for number in range(10 * AT_ONCE):
            received = await ours.receive()
            assert received is not None
            assert received.message == WorkerTells(str(number))
            waited.append(ours.since is not None)
        assert turns == waited.count(True) == 9
        listening = asyncio.create_task(ours.receive())
        for _ in range(3):
            await asyncio.sleep(0)
        theirs.send(WorkerTells("at last"))
        assert await listening is not None
        assert ours.since is not None
        other.cancel()

    over_a_pair(talk)


def over_a_pair(talk: Callable[[AsyncChannel, Channel], Awaitable[None]]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asyncio.run(asyncio.wait_for(talk(AsyncChannel(ours, FROM_WORKER), Channel(theirs, TO_WORKER)), 60))
