"""The API process's side of ``decoder.nursery``: decoders as children, forked instead of started."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from os import pidfd_open
from pathlib import Path
from typing import TypeVar

from stmixer.service.ipc.channel import AsyncChannel, ChannelError
from stmixer.service.ipc.child import Child
from stmixer.service.ipc.last_words import LastWords
from stmixer.service.ipc.messages import (
    FROM_DECODER,
    FROM_NURSERY,
    Bear,
    Born,
    NurseryReady,
    RaiseDecoders,
    Reap,
    Reaped,
)

NURSERY_MODULE = "stmixer.service.decoder.nursery"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Numpy starts threads when it is imported, for products of matrices that a decoder never computes; a fork would lose
them, and Landlock (``decoder.landlock``) would not hold them."""
KILLED = -signal.SIGKILL
LOOK_S = 0.05
ANSWER_S = 60.0
START_S = 120.0
"""How long it may take to answer, and to import all that decoders need."""

T = TypeVar("T")


class NurseryGone(Exception):
    """The process that forks decoders has ended, and they with it."""


class Nursery:
    """That process, started when a decoder is first wanted, and again where it has ended."""

    def __init__(self, module: str, memory_mb: int) -> None:
        """``module``: what decoders run; each may have ``memory_mb`` of address space."""
        self._order = RaiseDecoders(module, memory_mb * 2**20)
        self._child: Child | None = None
        self._births: set[asyncio.Task[Child]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def bear(self, connection: int | None = None) -> Child:
        """A new decoder; ``connection``: the descriptor of what it is to read from. Raises NurseryGone, OSError."""
        # its own, since the birth goes on where we are cancelled
        birth = asyncio.create_task(self._bear(None if connection is None else os.dup(connection)))
        self._births.add(birth)
        birth.add_done_callback(self._births.discard)
        try:
            return await asyncio.shield(birth)
        except asyncio.CancelledError:
            birth.add_done_callback(_abandon)
            raise

    async def _bear(self, connection: int | None) -> Child:
        try:
            async with self._one_at_a_time:
                nursery = await self._raised()
                try:
                    return await self._borne_by(nursery, connection)
                except NurseryGone:  # it had ended, and nobody had noticed yet
                    return await self._borne_by(await self._raised(), connection)
        finally:
            if connection is not None:
                os.close(connection)

    async def _borne_by(self, nursery: Child, connection: int | None) -> Child:
        ours, theirs = socket.socketpair()
        words = LastWords()
        fds = [theirs.fileno(), words.writing, *([] if connection is None else [connection])]
        try:
            born = await self._asked(nursery, Bear(), Born, fds)
            process = ForkedProcess(born.pid, functools.partial(self._status_of, nursery, born.pid))
        except BaseException:
            ours.close()
            words.take()
            raise
        finally:
            theirs.close()
            os.close(words.writing)
        return Child(process, AsyncChannel(ours, FROM_DECODER), words)

    async def _status_of(self, nursery: Child, pid: int) -> int:
        """The exit status of a decoder that has ended: SIGKILL's where its nursery is gone, which none outlives."""
        async with self._one_at_a_time:
            with contextlib.suppress(NurseryGone):
                if nursery.alive:
                    return (await self._asked(nursery, Reap(pid), Reaped)).status
        return KILLED

    async def stop(self) -> None:
        """End it, and every decoder that still runs."""
        async with self._one_at_a_time:
            if self._child is not None:
                await self._child.kill()

    async def _raised(self) -> Child:
        if self._child is None or not self._child.alive:
            if self._child is not None:
                self._child.channel.close()
            child = await Child.spawn(NURSERY_MODULE, FROM_NURSERY, environment=ONE_THREAD, inherits=False)
            try:
                await self._asked(child, self._order, NurseryReady)
            except BaseException:
                await child.kill()
                raise
            self._child = child
        return self._child

    async def _asked(self, nursery: Child, question: object, answer: type[T], fds: list[int] | None = None) -> T:
        """One thing asked and answered. Raises NurseryGone, also where it does not answer for long."""
        try:
            async with asyncio.timeout(START_S if isinstance(question, RaiseDecoders) else ANSWER_S):
                await nursery.channel.send(question, fds=fds or ())
                received = await nursery.channel.receive()
        except (ChannelError, TimeoutError):
            received = None
        if received is None or not isinstance(received.message, answer):
            await nursery.kill()
            raise NurseryGone
        return received.message


class ForkedProcess:
    """A process that is the nursery's child, as asyncio has one of its own: watched by a descriptor of it.

    A kernel without those (before 5.3) is asked again and again. The id stays the process's own until ``status`` has
    taken its exit status.
    """

    def __init__(self, pid: int, status: Callable[[], Awaitable[int]]) -> None:
        """``status`` takes its exit status once it has ended. Raises OSError."""
        self.pid = pid
        self.returncode: int | None = None
        self._take_status = status
        self._gone = asyncio.Event()
        try:
            self._fd = pidfd_open(pid)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            self._look()
        else:
            asyncio.get_running_loop().add_reader(self._fd, self._on_end)
        self._status = asyncio.create_task(self._learn())

    def kill(self) -> None:
        """Send it SIGKILL. Raises ProcessLookupError where it has ended."""
        if self._gone.is_set():
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Until it has ended; its exit status, negative for a signal."""
        return await asyncio.shield(self._status)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        self._gone.set()
        os.close(self._fd)

    def _look(self) -> None:
        if has_ended(self.pid):
            self._gone.set()
        else:
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    async def _learn(self) -> int:
        await self._gone.wait()
        self.returncode = await self._take_status()
        return self.returncode


def has_ended(pid: int) -> bool:
    """Whether a process is there no more, or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("Z", "X")
    except OSError:
        return True


def _abandon(birth: asyncio.Task[Child]) -> None:
    """Nobody waits for it any more."""
    if not birth.cancelled() and birth.exception() is None:
        decoder = birth.result()
        decoder.channel.close()  # it ends by itself
        decoder.last_words()
