"""Child processes of the API: spawned fresh, spoken to over a channel, never outliving their parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from service.engine.channel import AsyncChannel


class Child:
    """A running child. It sees the end of its channel when we die, and ends."""

    def __init__(self, process: asyncio.subprocess.Process, channel: AsyncChannel) -> None:
        self._process = process
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
    async def spawn(cls, module: str, arguments: Sequence[str] = ()) -> Child:
        """Start ``python -m module FD arguments…`` with one end of a new channel as descriptor FD."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(theirs.fileno()), *arguments,
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, env=_environment(),
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, AsyncChannel(ours))

    async def end(self, timeout_s: float = 5.0) -> int:
        """Close the channel, wait for the child to end by itself, kill it if it does not. Returns its exit status."""
        self.channel.close()
        try:
            return await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        status = await self._process.wait()
        self.channel.close()
        return status

    async def wait(self) -> int:
        """Until it ends; its exit status, negative for a signal."""
        return await self._process.wait()


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _environment() -> dict[str, str]:
    """Ours, with modules found wherever the parent was started from, and OpenMP threads that sleep while they wait.

    By default they spin; beside decoders on the same cores that turned a 15 ms batch of ``tiny`` into over a second.
    """
    path = os.pathsep.join(path for path in sys.path if path)
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path}
