"""No network: a namespace of its own without one. What is connected already stays so, our channel among it.

It comes with a user namespace, in which nobody is root outside: of other users' processes, and of those of its own user
that stayed where they were, nothing can be traced or read.
"""

from __future__ import annotations

import ctypes
import os
import socket

_NEW_USERS, _NEW_NETWORK = 0x10000000, 0x40000000
_LOOPBACK = {"lo"}
"""Which is down in a new one."""


def leave() -> str | None:
    """Leave the network for good; why we are in it still, else None. Of a process with one thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USERS | _NEW_NETWORK) != 0:
        return f"no namespace without one is let be made ({os.strerror(ctypes.get_errno())})"
    if {name for _, name in socket.if_nameindex()} <= _LOOPBACK:
        return None
    return "the kernel made a namespace that has one"
