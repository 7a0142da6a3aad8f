"""The process that learns: `stmixer teach` as a child of low priority, followed line by line, ended when asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stmixer.service.ipc.child import child_environment, describe_exit

BEGIN = "stmixer.service.teaching.begin"
GRACE_S = 1.5
"""What it gets to end by itself, keeping what is done; then it is killed, with all of its own."""
MOST_LINE = 2**18
MOST_STDERR = 4096


class LessonProcess:
    """One that runs, with its children a group of their own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stderr = b""

    @property
    def pid(self) -> int:
        """Its process id, and its group's."""
        return self._process.pid

    @classmethod
    async def begin(cls, module: str, arguments: Sequence[str], folder: Path) -> LessonProcess:
        """Start ``python -P -m module arguments…`` in a folder, with nothing of our environment but what starting
        Python takes; its temporary files lie in the folder too. Raises OSError."""
        temporary = folder / "tmp"
        await asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True)  # of one that was killed
        temporary.mkdir(mode=0o700, exist_ok=True)
        environment = {
            **child_environment(inherits=False), "HOME": str(folder), "TMPDIR": str(temporary),
            "XDG_CACHE_HOME": str(temporary),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", BEGIN, str(os.getpid()), module, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment, cwd=folder, start_new_session=True, limit=MOST_LINE,
        )  # fmt: skip
        return cls(process)

    async def follow(self, take: Callable[[bytes], None]) -> None:
        """Hand over each line that it writes, until it has ended and none of its own is left."""
        reading, listening = asyncio.create_task(self._read(take)), asyncio.create_task(self._listen())
        try:
            await self._process.wait()
        finally:
            self._kill_group()  # whom it started, and did not end
            await asyncio.gather(reading, listening)

    @property
    def how_it_ended(self) -> str:
        """In words, once it has: the last line of its stderr, or its status."""
        status = self._process.returncode
        assert status is not None
        lines = self._stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last.startswith("stmixer: "):
            return last.removeprefix("stmixer: ")
        how = f"the process that learns {describe_exit(status)}"
        return f"{how}: {last}" if last else how

    async def stop(self) -> None:
        """Ask it to end, then make it; it is gone afterwards."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self._kill_group()
            await self._process.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _read(self, take: Callable[[bytes], None]) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than any of ours: passed over
                continue
            if not line:
                return
            take(line)

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while some := await self._process.stderr.read(MOST_STDERR):
            self._stderr = (self._stderr + some)[-MOST_STDERR:]
