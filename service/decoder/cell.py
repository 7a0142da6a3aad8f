"""What a decoder shuts behind itself before it touches a byte from outside. docs/security.md has it as a table.

Each wall is a function of its own that says why it does not stand where it cannot, and the decoder then goes without:
a service on an old kernel, or in a container that forbids some of this, starts all the same and says what is missing.
The order matters: what a wall needs comes before the wall that takes it away.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Callable, Sequence

from stmixer.service.decoder import landlock, network, seccomp
from stmixer.service.ipc.child import hide, more_expendable

_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_V3 = 0x20080522
NICENESS = 5
MORE_EXPENDABLE = 600
"""What is added to our parent's ``oom_score_adj``: the kernel ends a decoder before a worker, and that before the
API process."""
MAX_DESCRIPTORS = 64

_BOUNDS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, MAX_DESCRIPTORS),
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
    (resource.RLIMIT_RTPRIO, 0),
)

Wall = Callable[[], str | None]
"""Puts itself up; why it does not stand, or None."""


def shut(memory_bytes: int, besides: Sequence[seccomp.Call] = ()) -> tuple[str, ...]:
    """Shut this process in for good; the walls that do not stand on this machine, a line each.

    Called once, when everything that a decoder imports or loads is there. ``memory_bytes``: of address space;
    ``besides``: what one may call that was given a connection or a device as descriptor 0 (``decoder.seccomp``).
    """
    standing = walls(memory_bytes, besides)
    said = [f"{name}: {why}" for name, wall in standing.items() if (why := wall()) is not None]
    return tuple(said)


def walls(memory_bytes: int, besides: Sequence[seccomp.Call] = ()) -> dict[str, Wall]:
    """All of them by name, in the order in which they are put up."""
    return {
        "oom": lambda: more_expendable(MORE_EXPENDABLE),
        "network": network.leave,
        "hidden": hide,
        "nice": be_nice,
        "environment": forget_environment,
        "no_new_privs": no_new_privileges,
        "capabilities": drop_capabilities,
        "limits": lambda: bound(memory_bytes),
        "threads": alone,
        "landlock": landlock.confine,
        "seccomp": lambda: seccomp.confine((*besides, *seccomp.allowed_calls(os.getpid()))),
    }


def be_nice() -> str | None:
    """Let the worker and the API process go first."""
    try:
        os.nice(NICENESS)
    except OSError as error:
        return f"no other niceness ({error.strerror})"
    return None


def forget_environment() -> str | None:
    """Leave no variable; a decoder is started with few (``ipc.child``)."""
    os.environ.clear()
    return None


def no_new_privileges() -> str | None:
    """Nothing that is executed can gain any; the walls after it need that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return f"the kernel has no such thing ({os.strerror(ctypes.get_errno())})"
    return None


def drop_capabilities() -> str | None:
    """Of a service that runs as root: no privilege is left, so hard limits stay where they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = struct.pack("<II", _CAPABILITIES_V3, 0), bytes(24)
    if libc.capset(header, none) != 0:
        return f"they stay ({os.strerror(ctypes.get_errno())})"
    return None


def bound(memory_bytes: int) -> str | None:
    """Limits, hard as well as soft."""
    refused = []
    for number, most in ((resource.RLIMIT_AS, memory_bytes), *_BOUNDS):
        try:
            lower(number, most)
        except OSError as error:
            refused.append(error.strerror or str(error))
    return f"some are not taken ({', '.join(refused)})" if refused else None


def lower(number: int, most: int) -> None:
    """Bound one resource, hard as well as soft, or leave it where it is lower already."""
    hard = resource.getrlimit(number)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(number, (most, most))


def write_no_file() -> None:
    """Take from this process, for good, the files that it was handed to read: they cannot be written any more."""
    lower(resource.RLIMIT_FSIZE, 0)


def alone() -> str | None:
    """Landlock is a thread's own: none may run yet that would stay outside of it."""
    try:
        others = len(os.listdir("/proc/self/task")) - 1
    except OSError as error:
        return f"nobody knows whether others run ({error.strerror})"
    return f"{others} run already, which Landlock does not hold" if others else None
