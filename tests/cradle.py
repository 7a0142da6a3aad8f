"""Nurseries in milliseconds, for tests whose engines have no server: forked by one that has imported all they need.

It is a nursery itself (``decoder.nursery``), whose "decoders" are nurseries, one for each engine; pytest's process has
one as long as it runs. That a nursery starts by itself is tried by services and by ``test_nursery.py``.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stmixer.service.decoder import nursery, process
from stmixer.service.ipc.channel import AsyncChannel, Channel
from stmixer.service.ipc.child import Child, child_environment
from stmixer.service.ipc.messages import FROM_NURSERY, TO_NURSERY, Bear, Corridor, RaiseDecoders, Reap, encode
from stmixer.service.sources import nursery as nurseries

ONE_THREAD = dict(nurseries.ONE_THREAD)
ANSWER_S = 60.0
"""How long it may take to answer, or to import all that decoders need."""


# -- in the process that forks


def prepare() -> None:
    """All that decoders share."""
    process.prepare()


def run(connection: socket.socket, memory_bytes: int) -> None:
    """A nursery's whole life. First comes a line: where it finds modules, as JSON."""
    line = b""
    while (byte := connection.recv(1)) not in (b"\n", b""):
        line += byte
    if byte:
        sys.path[:] = json.loads(line)
        nursery.serve(Channel(connection, TO_NURSERY))


# -- in pytest's


class Cradle:
    """That process. It ends with ours, and all nurseries that it has borne with it."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        """Whoever asks it waits no longer than ``answer_s``."""
        self._ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cradle", str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd="/",
            env={**ONE_THREAD, **child_environment(inherits=False)},
        )  # fmt: skip
        theirs.close()
        self._channel = Channel(self._ours, FROM_NURSERY)
        self._ours.settimeout(answer_s)
        atexit.register(self.end)
        self._asked(RaiseDecoders("cradle", 2**62))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def bear(self, connection: socket.socket) -> int:
        """A nursery with this end of a channel; its process id."""
        pid: int = self._asked(Bear(), [connection.fileno(), 2]).pid
        return pid

    def reap(self, pid: int) -> int:
        """The exit status of one that has ended: SIGKILL's where the cradle is gone, which none outlives."""
        if not self.alive:
            return nurseries.KILLED
        status: int = self._asked(Reap(pid)).status
        return status

    def end(self) -> None:
        """At once, whatever it is at."""
        atexit.unregister(self.end)
        self._ours.close()
        self._process.kill()
        self._process.wait()

    def _asked(self, question: object, fds: Sequence[int] = ()) -> Any:
        raw, received = encode(question), None
        try:
            socket.send_fds(self._ours, [struct.pack("<II", len(raw), 0) + raw], fds)
            received = self._channel.receive()
        finally:
            if received is None:  # it has ended, or is to: an answer that comes later would be taken for the next one
                self.end()
        assert received is not None, "what forks nurseries has ended"
        return received.message


_cradles: list[Cradle] = []


def the_cradle() -> Cradle:
    """One a process, and another where that has ended."""
    if not _cradles or not _cradles[-1].alive:
        _cradles[:] = [Cradle()]
    return _cradles[-1]


class Cradled(Child):
    """A child that is forked where it is a nursery as any, and else started."""

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
        """As ``Child.spawn`` has it."""
        if module != nursery.MODULE or environment != ONE_THREAD:
            return await Child.spawn(module, incoming, arguments, environment, inherits=inherits)
        ours, theirs = socket.socketpair()
        with theirs:
            cradle = the_cradle()
            pid = cradle.bear(theirs)
        ours.sendall(json.dumps(sys.path).encode() + b"\n")

        async def status() -> int:
            return cradle.reap(pid)

        return cls(nurseries.ForkedProcess(pid, status), AsyncChannel(ours, incoming))


@contextlib.contextmanager
def cradled() -> Iterator[None]:
    """Within, nurseries are forked."""
    before = nurseries.Child
    nurseries.Child = Cradled  # type: ignore[misc]
    try:
        yield
    finally:
        nurseries.Child = before  # type: ignore[misc]


if __name__ == "__main__":
    nursery.main()
