"""Ring memory across processes, and the framing between them."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from stmixer.service.engine.model_info import ModelInfo
from stmixer.service.engine.stream import Stream
from stmixer.service.engine.worker import Worker
from stmixer.service.ipc.channel import AsyncChannel, Channel, ChannelError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.messages import (
    FROM_WORKER,
    TO_WORKER,
    AttachRing,
    BatchFailed,
    Corridor,
    DetachRing,
    WorkerBroken,
)
from stmixer.service.ipc.ring import Ring, RingShape, create_ring
from stmixer.service.sources.mailbox import BoundedQueue, Closed, Mailbox

SHAPE = RingShape(width=6, height=4, capacity=5)
ROOT = Path(__file__).resolve().parents[2]


def frame(value: int) -> np.ndarray:
    return np.full((SHAPE.height, SHAPE.width, 3), value, np.uint8)


def test_what_one_side_writes_the_other_reads() -> None:
    fd = create_ring(SHAPE).fd
    writer = Ring(os.dup(fd), SHAPE, writable=True)
    reader = Ring(fd, SHAPE, writable=False)
    for slot in range(5):
        writer.write(slot, slot + 100, frame(slot))
    frames = reader.read([4, 0, 0], [104, 100, 100])
    assert frames is not None
    assert frames.shape == (3, 4, 6, 3)
    assert [int(f[0, 0, 0]) for f in frames] == [4, 0, 0]


def test_a_slot_rewritten_meanwhile_is_refused() -> None:
    fd = create_ring(SHAPE).fd
    writer = Ring(os.dup(fd), SHAPE, writable=True)
    reader = Ring(fd, SHAPE, writable=False)
    writer.write(0, 1, frame(1))
    writer.write(0, 6, frame(6))
    assert reader.read([0], [1]) is None
    assert reader.read([0], [6]) is not None
    assert reader.read([1], [2]) is None  # never written


def test_a_reader_cannot_write() -> None:
    reader = Ring(create_ring(SHAPE).fd, SHAPE, writable=False)
    with pytest.raises(ValueError, match="read-only"):
        reader.write(0, 1, frame(1))


def test_memory_outlives_the_process_that_wrote_it() -> None:
    fd = create_ring(SHAPE).fd
    code = (
        "import sys, numpy as np; from stmixer.service.ipc.ring import Ring, RingShape;"
        "Ring(int(sys.argv[1]), RingShape(6, 4, 5), writable=True).write(3, 42, np.full((4, 6, 3), 7, np.uint8))"
    )
    subprocess.run([sys.executable, "-c", code, str(fd)], pass_fds=(fd,), check=True, cwd=ROOT)
    frames = Ring(fd, SHAPE, writable=False).read([3], [42])
    assert frames is not None
    assert (frames == 7).all()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open nothing; what is open stays so.

    With a limit of 0 the kernel would refuse to pass descriptors on, too, while any are under way between processes of
    a user who may not exceed it: it counts those against the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_ring_that_is_closed_while_it_is_lent_is_open_to_the_end_of_that() -> None:
    ring = create_ring(SHAPE)
    fd, memory = ring.fd, os.fstat(ring.fd)
    with ring.lent() as lent:
        with ring.lent() as again:
            ring.close()
            ring.close()
            assert (lent, again, ring.fd) == (fd, fd, -1)
        with ring.lent() as once_more:
            assert os.path.samestat(os.fstat(once_more), memory)
        assert os.path.samestat(os.fstat(lent), memory)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_worker_gets_a_ring_of_a_process_that_has_no_descriptor_left() -> None:
    """A stream that changes its seat does so in the engine's round, which an error would end for everybody."""
    ours, theirs = socket.socketpair()
    ring = create_ring(SHAPE)
    memory = os.fstat(ring.fd)

    async def attach() -> None:
        child = cast(Child, SimpleNamespace(channel=AsyncChannel(ours, FROM_WORKER)))
        worker = Worker("0", child, cast(ModelInfo, None), {})
        with no_descriptor_left():
            await worker.attach(cast(Stream, SimpleNamespace(id=7, ring=ring)))
        child.channel.close()

    asyncio.run(attach())
    ring.close()
    received = Channel(theirs, TO_WORKER).receive()
    assert received is not None
    assert received.message == AttachRing(7, SHAPE.width, SHAPE.height, SHAPE.capacity)
    (fd,) = received.fds
    assert os.path.samestat(os.fstat(fd), memory)
    os.close(fd)
    theirs.close()


def test_messages_keep_their_payload_and_descriptors() -> None:
    ours, theirs = socket.socketpair()
    payload = os.urandom(3_000_000)
    reading, writing = os.pipe()

    async def parent() -> object:
        channel = AsyncChannel(ours, FROM_WORKER)
        await channel.send(WorkerBroken("é"), payload, [writing])
        answer = await channel.receive()
        end = await channel.receive()
        channel.close()
        assert answer is not None
        return answer.message, answer.payload == payload, end

    def child() -> None:
        channel = Channel(theirs, Corridor("both ways", WorkerBroken))
        received = channel.receive()
        assert received is not None
        os.write(received.fds[0], received.message.message.encode())
        os.close(received.fds[0])
        channel.send(BatchFailed(len(received.payload), "none", "error"), received.payload)
        theirs.close()

    async def both() -> object:
        answer, _ = await asyncio.gather(parent(), asyncio.to_thread(child))
        return answer

    assert asyncio.run(both()) == (BatchFailed(len(payload), "none", "error"), True, None)
    assert os.read(reading, 10) == "é".encode()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\0\0\0\0",
        b"\x04\0\0\0\0\0\0\0[12]",
        b"\x04\0\0\0\0\0\0\0{",
        b"\x04\0",
        b"\x0d\0\0\0\0\0\0\0DetachRing\n[]",
        b'\x1b\0\0\0\0\0\0\0DetachRing\n{"stream": -10}',
    ],
)
def test_broken_framing_or_a_message_out_of_place_is_an_error_not_a_hang(data: bytes) -> None:
    async def read() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(data)
        channel = AsyncChannel(ours, TO_WORKER)
        try:
            await channel.receive()
        finally:
            channel.close()

    with pytest.raises(ChannelError):
        asyncio.run(read())


def test_a_message_of_another_corridor_is_refused() -> None:
    ours, theirs = socket.socketpair()

    async def read() -> None:
        Channel(theirs, TO_WORKER).send(DetachRing(1))
        await AsyncChannel(ours, FROM_WORKER).receive()

    with ours, theirs, pytest.raises(ChannelError, match="DetachRing"):
        asyncio.run(read())


def test_newest_wins_in_a_mailbox() -> None:
    async def use() -> list[int]:
        box: Mailbox[int] = Mailbox()
        assert box.put(1) is None
        assert box.put(2) == 1
        got = [await box.get()]
        box.put(3)
        box.close()
        got.append(await box.get())
        with pytest.raises(Closed):
            await box.get()
        return got

    assert asyncio.run(use()) == [2, 3]


def test_a_bounded_queue_makes_the_writer_wait() -> None:
    async def use() -> list[int]:
        queue: BoundedQueue[int] = BoundedQueue(10)
        await queue.put(1, 6)
        blocked = asyncio.create_task(queue.put(2, 6))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not blocked.done()
        got = [await queue.get()]
        await blocked
        await queue.close()
        got.append(await queue.get())
        with pytest.raises(Closed):
            await queue.get()
        with pytest.raises(Closed):
            await queue.put(3, 1)
        return got

    assert asyncio.run(use()) == [1, 2]
