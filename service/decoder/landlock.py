"""No file by its name: a Landlock ruleset without a single rule. What is open already stays usable.

From ABI 4 on it also takes TCP, from 6 on signals and abstract sockets of processes outside. All of that is denied by
``decoder.seccomp`` too: two walls, of which one holds where the other has a hole.
"""

from __future__ import annotations

import ctypes
import os
import struct

# linux/landlock.h; the numbers of its calls are the same on all architectures
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ASK_VERSION = 1
_FILE_RIGHTS = ((5, 0xFFFF), (3, 0x7FFF), (2, 0x3FFF), (1, 0x1FFF))
"""From which ABI on, which rights there are."""
_NET_FROM, _NET_RIGHTS = 4, 0b11
_SCOPES_FROM, _SCOPES = 6, 0b11


def confine() -> str | None:
    """Take this thread, and those it will start, from the file system for good; why not where that fails, else None.

    Needs ``no_new_privs``. What is said to hold was tried.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < 1:
        return f"the kernel has no Landlock ({os.strerror(ctypes.get_errno())})"
    rights = next(rights for since, rights in _FILE_RIGHTS if version >= since)
    attributes = struct.pack("<Q", rights)
    if version >= _NET_FROM:
        attributes += struct.pack("<Q", _NET_RIGHTS)
    if version >= _SCOPES_FROM:
        attributes += struct.pack("<Q", _SCOPES)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return f"the kernel makes no Landlock ruleset ({os.strerror(ctypes.get_errno())})"
    try:
        if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            return f"the kernel does not apply Landlock ({os.strerror(ctypes.get_errno())})"
    finally:
        os.close(ruleset)
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return None
    return "the kernel took a Landlock ruleset and does not apply it"
