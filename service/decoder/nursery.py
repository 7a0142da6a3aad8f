"""Where decoders come from: a process that has imported all that they need and opened nothing, and forks them.

A decoder is there in milliseconds so, and shares the pages of everything that is imported with all others. This process
meets no media. It has one thread, since a fork copies the thread that calls it and the locks of all; it does what the
API process says (``ipc.messages``, TO_NURSERY and FROM_NURSERY), one thing after another, and ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from stmixer.service.decoder.seccomp import GIVEN
from stmixer.service.ipc.channel import Channel, ChannelError
from stmixer.service.ipc.child import die_with_parent
from stmixer.service.ipc.messages import TO_NURSERY, Bear, Born, NurseryReady, RaiseDecoders, Reap, Reaped

MODULE = "stmixer.service.decoder.nursery"
_ARGUMENTS_AT = 47
"""Of /proc/self/stat, counted from 0: arg_start, and after it arg_end."""

Run = Callable[[socket.socket, int], None]
"""A decoder: its end of the channel, and the bytes of address space that it may have.

A module's ``run`` is one; its ``run_connected`` is one whose descriptor 0 is a connection or device that it reads.
"""


def serve(channel: Channel) -> None:
    """Decoders on demand until the parent closes. A decoder never comes back from here."""
    first = channel.receive()
    if first is None:
        return
    order: RaiseDecoders = first.message
    module = importlib.import_module(order.module)
    module.prepare()
    gc.collect()
    gc.freeze()  # or the first collection of each decoder would copy all pages
    channel.send(NurseryReady())
    while (received := channel.receive()) is not None:
        match received.message:
            case Bear():
                ourselves = os.getpid()
                pid = os.fork()
                if pid == 0:
                    channel.close()
                    _live(module, received.fds, order, ourselves)
                for fd in received.fds:
                    os.close(fd)
                channel.send(Born(pid))
            case Reap(pid):
                channel.send(Reaped(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _live(module: ModuleType, fds: list[int], order: RaiseDecoders, parent: int) -> NoReturn:
    """The forked process, from here to its end. ``fds``: its end of the channel, what its stderr is, what it reads."""
    status = 1
    try:
        die_with_parent()
        run: Run = module.run
        if len(fds) > 2:
            run = module.run_connected
            os.dup2(fds[2], GIVEN)
            os.close(fds[2])
        connection = socket.socket(fileno=fds[0])
        os.dup2(fds[1], 2)
        os.close(fds[1])
        if os.getppid() == parent:  # or it ended before we said so
            call_oneself(order.module)
            run(connection, order.memory_bytes)
            status = 0
    finally:
        try:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
        finally:  # whether or not anybody took that
            os._exit(status)


def call_oneself(module: str) -> None:
    """In lists of processes, have a decoder's module stand in the place of ours, where it is no longer than ours."""
    written = module.encode()
    if len(written) > len(MODULE):
        return
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = (int(value) for value in fields[_ARGUMENTS_AT - 2 : _ARGUMENTS_AT])
        line = ctypes.string_at(start, end - start)
    except (OSError, ValueError):
        return  # it is a help for people, and no more
    if found := re.search(rb"\x00" + re.escape(MODULE.encode()) + rb"\x00", line):
        ctypes.memmove(start + found.start() + 1, written.ljust(len(MODULE), b"\0"), len(MODULE))


def main() -> None:
    """``python -m stmixer.service.decoder.nursery FD``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    die_with_parent()
    with contextlib.suppress(ChannelError):
        serve(Channel(socket.socket(fileno=int(sys.argv[1])), TO_NURSERY))


if __name__ == "__main__":
    main()
