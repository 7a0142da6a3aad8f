"""Memory that a process has freed stays its own. Imports no torch."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc give freed memory to the next tensor rather than back to the kernel; whether there is a glibc.

    A CPU's tensors of a few MB are mapped one by one and unmapped again, and the kernel zeroes every page of them
    anew. Kept, the kernel's part of a keyframe's CPU time is half, all of it together hardly less on an idle machine
    (`bench/results/freed_memory.json`); it counts where memory is short or other processes map too. The process stays
    as large as it ever was. For commands that run a network and end, before they begin; a worker has its bound from
    ``ipc.child``.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
