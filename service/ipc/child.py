"""Child processes of the API: spawned fresh, spoken to over a channel, never outliving their parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from stmixer.service.ipc.channel import AsyncChannel
from stmixer.service.ipc.last_words import LastWords
from stmixer.service.ipc.messages import Corridor

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
_EXPENDABLE = Path("/proc/self/oom_score_adj")
_MOST_EXPENDABLE = 1000

KEEPS_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
"""Environment of a process that infers: glibc keeps up to half a gigabyte of what a batch frees for the next.

By default it gives tens of megabytes back with each tensor that dies, and the kernel clears them, page by page, for the
next one. In profiles of SlowOnly's decoder the last step of mixing then took 6 to 15 ms a stage instead of 1.
"""


class Process(Protocol):
    """What is asked of a process, as ``asyncio.subprocess`` has it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


class Child:
    """A running child. It sees the end of its channel when we die, and ends."""

    def __init__(self, process: Process, channel: AsyncChannel, words: LastWords | None = None) -> None:
        """``words``: its stderr, where that is not ours."""
        self._process, self._words = process, words
        self.channel = channel

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.returncode is None

    @classmethod
    async def spawn(
        cls,
        module: str,
        incoming: Corridor,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        inherits: bool = True,
    ) -> Child:
        """Start ``python -m module FD arguments…`` with one end of a new channel as descriptor FD, in ``/``.

        No file of the folder in which we were started is taken for a module.

        ``incoming``: the messages that may come from it.

        ``environment`` is set besides ours, but where ours has those variables already. One that does not inherit gets
        of ours only what starting Python takes.
        """
        ours, theirs = socket.socketpair()
        together = {**(environment or {}), **child_environment(inherits=inherits)}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments,
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, env=together, cwd="/",
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, AsyncChannel(ours, incoming))

    async def end(self, timeout_s: float = 5.0) -> int:
        """Close the channel, wait for the child to end by itself, kill it if it does not. Returns its exit status."""
        self.channel.close()
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._process.wait()
            self.last_words()
            return status
        except TimeoutError:
            return await self.kill()

    def end_now(self) -> None:
        """Send it SIGKILL; whoever listens to it notices.

        Not for one that may have ended already: subprocess would take the exit status before asyncio sees it.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def kill(self) -> int:
        """End it now."""
        self.end_now()
        status = await self._process.wait()
        self.channel.close()
        self.last_words()
        return status

    def last_words(self) -> str:
        """Of one that has ended: what it wrote to its stderr, a little of it; empty where that was ours."""
        return "" if self._words is None else self._words.take()

    async def wait(self) -> int:
        """Until it ends; its exit status, negative for a signal."""
        return await self._process.wait()


def die_with_parent() -> None:
    """Of a child: have the kernel end us when our parent ends, even in the middle of work that never looks up."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def hide() -> str | None:
    """Let no other process, of the same user included, read our memory or take our descriptors; root still may.

    Why it cannot be done, or None. Nor is a core dumped.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        return f"the kernel refuses ({os.strerror(ctypes.get_errno())})"
    return None


def more_expendable(by: int) -> str | None:
    """Where memory runs out, have the kernel end us before what is less expendable; why not, or None.

    ``by`` is added to our ``oom_score_adj``. Goes before ``hide``, after which the file is root's.
    """
    try:
        _EXPENDABLE.write_text(str(min(_MOST_EXPENDABLE, int(_EXPENDABLE.read_text()) + by)))
    except (OSError, ValueError) as error:
        return f"{_EXPENDABLE} cannot be written ({error})"
    return None


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


STARTS_PYTHON = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
"""Variables without which another interpreter may not start, or starts slower."""


def child_environment(*, inherits: bool) -> dict[str, str]:
    """Ours, with modules found wherever the parent was started from, and OpenMP threads that sleep while they wait.

    By default they spin; beside decoders on the same cores that turned a 15 ms batch of ``tiny`` into over a second.
    """
    path = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    ours = os.environ if inherits else {name: os.environ[name] for name in STARTS_PYTHON if name in os.environ}
    return {"OMP_WAIT_POLICY": "PASSIVE", **ours, "PYTHONPATH": path}
