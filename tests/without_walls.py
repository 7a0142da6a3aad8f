"""A machine that lacks walls: a container runtime without seccomp filters and namespaces, a kernel without Landlock.

``python -m without_walls MODULE ARGUMENTS…`` runs a module there, and whatever that starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from stmixer.service.decoder.cell import no_new_privileges

LACKING = {
    # seccomp, prctl (an old way to a filter), Landlock's first call, and unshare
    "x86_64": ((317, errno.EPERM), (444, errno.ENOSYS), (272, errno.EPERM)),
    "aarch64": ((277, errno.EPERM), (444, errno.ENOSYS), (97, errno.EPERM)),
}
PRCTL = {"x86_64": 157, "aarch64": 167}
PR_SET_SECCOMP = 22
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def take_walls_away() -> None:
    """From this process on down."""
    machine = platform.machine()
    code = [(0x20, 0, 0, 0)]
    for number, error in LACKING[machine]:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, ERRNO | error)]
    code += [(0x15, 0, 3, PRCTL[machine]), (0x20, 0, 0, 16), (0x15, 0, 1, PR_SET_SECCOMP), (0x06, 0, 0, ERRNO | 22)]
    code += [(0x06, 0, 0, ALLOW)]
    raw = b"".join(struct.pack("<HBBI", *step) for step in code)
    held = ctypes.create_string_buffer(raw, len(raw))
    program = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(held))
    no_new_privileges()
    if ctypes.CDLL(None).prctl(PR_SET_SECCOMP, 2, program, 0, 0) != 0:
        raise SystemExit(77)


if __name__ == "__main__":
    take_walls_away()
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
