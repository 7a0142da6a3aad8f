"""Which system calls a decoder has left: a seccomp filter, assembled here, that allows what is listed and nothing else.

What is not listed fails with EPERM, so that FFmpeg meets an error and not its end. Listed is what Python, FFmpeg's
threads, memory, and descriptors that are open already need. There is no way to open or create a file, to make a socket
or connect one, to run a program, to reach another process, or to make memory executable.

A decoder that reads from a connection is given it, connected, as descriptor 0. FFmpeg wants to make a socket and to
connect it; it is answered 0, and nothing happens: as a descriptor that is the one it was given, as a result success.
One that reads a video device is given that, and FFmpeg, which wants to open it, is answered alike.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# linux/seccomp.h, linux/prctl.h, linux/bpf_common.h
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NR_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_BIT = 0x40000000

_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_CLONE_THREAD = 0x10000
_CLONE_OF_THREADS = 0x7D0F00
"""VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID, DETACHED."""
_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: no owner of signals, no seals, no leases."""
_IOCTL = (0x5421, 0x5450, 0x5451)
"""FIONBIO, FIONCLEX, FIOCLEX."""
_PRCTL = (15, 16)
"""PR_SET_NAME, PR_GET_NAME: threads have names."""


@dataclass(frozen=True, slots=True)
class Among:
    """The low word of an argument, which is all that the kernel reads of an int, is one of these."""

    argument: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Without:
    """None of these bits is set in an argument's low word."""

    argument: int
    bits: int


@dataclass(frozen=True, slots=True)
class With:
    """One of these bits at least is set in an argument's low word."""

    argument: int
    bits: int


@dataclass(frozen=True, slots=True)
class Null:
    """A pointer that is none."""

    argument: int


Check = Among | Without | With | Null


@dataclass(frozen=True, slots=True)
class Call:
    """A system call by its number on x86_64 and on aarch64, None where there is none; allowed where all checks hold.

    ``pretended``: it does not happen then, and returns 0.
    """

    name: str
    x86_64: int | None
    aarch64: int | None
    checks: tuple[Check, ...] = ()
    pretended: bool = False


def allowed_calls(pid: int) -> tuple[Call, ...]:
    """What process ``pid`` may do, the frequent first."""
    return (
        Call("futex", 202, 98),
        Call("read", 0, 63),
        Call("write", 1, 64),
        Call("lseek", 8, 62),
        Call("sendto", 44, 206, (Null(4),)),
        Call("recvfrom", 45, 207),
        Call("recvmsg", 47, 212),
        Call("poll", 7, None),
        Call("select", 23, None),
        Call("ppoll", 271, 73),
        Call("pselect6", 270, 72),
        Call("mmap", 9, 222, (Without(2, _PROT_EXEC),)),
        Call("munmap", 11, 215),
        Call("mprotect", 10, 226, (Without(2, _PROT_EXEC),)),
        Call("madvise", 28, 233),
        Call("brk", 12, 214),
        Call("mremap", 25, 216),
        Call("clock_gettime", 228, 113),
        Call("sched_yield", 24, 124),
        Call("clone", 56, 220, (Without(0, 0xFFFFFFFF & ~_CLONE_OF_THREADS), With(0, _CLONE_THREAD))),
        Call("set_robust_list", 273, 99),
        Call("rseq", 334, 293),
        Call("set_tid_address", 218, 96),
        Call("prctl", 157, 167, (Among(0, _PRCTL),)),
        Call("sched_getaffinity", 204, 123),
        Call("getcpu", 309, 168),
        Call("membarrier", 324, 283),
        Call("exit", 60, 93),
        Call("exit_group", 231, 94),
        Call("readv", 19, 65),
        Call("writev", 20, 66),
        Call("pread64", 17, 67),
        Call("pwrite64", 18, 68),
        Call("close", 3, 57),
        Call("dup", 32, 23),
        Call("fcntl", 72, 25, (Among(1, _FCNTL),)),
        Call("ioctl", 16, 29, (Among(1, _IOCTL),)),
        Call("fstat", 5, 80),
        # glibc's fstat is this one with an empty path
        Call("newfstatat", 262, 79, (With(3, _AT_EMPTY_PATH),)),
        Call("getsockname", 51, 204),
        Call("getsockopt", 55, 209),
        Call("rt_sigaction", 13, 134),
        Call("rt_sigprocmask", 14, 135),
        Call("rt_sigreturn", 15, 139),
        Call("sigaltstack", 131, 132),
        Call("restart_syscall", 219, 128),
        Call("kill", 62, 129, (Among(0, (pid,)),)),
        Call("tgkill", 234, 131, (Among(0, (pid,)),)),
        Call("getpid", 39, 172),
        Call("gettid", 186, 178),
        Call("getppid", 110, 173),
        Call("getuid", 102, 174),
        Call("geteuid", 107, 175),
        Call("getgid", 104, 176),
        Call("getegid", 108, 177),
        Call("getrandom", 318, 278),
        Call("getrusage", 98, 165),
        # its own alone; hard limits can only be lowered
        Call("prlimit64", 302, 261, (Among(0, (0, pid)),)),
        Call("sysinfo", 99, 179),
        Call("uname", 63, 160),
        Call("times", 100, 153),
        Call("time", 201, None),
        Call("gettimeofday", 96, 169),
        Call("clock_getres", 229, 114),
        Call("nanosleep", 35, 101),
        Call("clock_nanosleep", 230, 115),
    )


GIVEN = 0
"""The descriptor of what a decoder reads by itself: a connection to a camera, or a video device."""
_STREAM = tuple(socket.SOCK_STREAM | flags for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK))
CONNECTED = (
    Call("socket", 41, 198, (Among(0, (socket.AF_INET, socket.AF_INET6)), Among(1, _STREAM)), pretended=True),
    Call("connect", 42, 203, (Among(0, (GIVEN,)),), pretended=True),
)
"""What a decoder with a connection is made to believe: that it has made it."""

_READING_AND_WRITING = tuple(os.O_RDWR | flags for flags in (0, os.O_CLOEXEC))
_VIDEO = tuple(
    way << 30 | size << 16 | 0x56 << 8 | number
    for way, size, number in (
        (2, 104, 0), (3, 64, 2), (3, 208, 4), (3, 208, 5), (3, 20, 8), (3, 88, 9), (3, 88, 15), (3, 88, 17), (1, 4, 18),
        (1, 4, 19), (3, 204, 21), (3, 204, 22), (2, 8, 23), (1, 8, 24), (3, 72, 25), (3, 80, 26), (2, 4, 38),
        (3, 4, 39), (3, 44, 74), (3, 52, 75),
    )
)  # fmt: skip
"""linux/videodev2.h on 64 bits, direction, bytes and number each: QUERYCAP, ENUM_FMT, G_FMT, S_FMT, REQBUFS, QUERYBUF,
QBUF, DQBUF, STREAMON, STREAMOFF, G_PARM, S_PARM, G_STD, S_STD, ENUMSTD, ENUMINPUT, G_INPUT, S_INPUT, ENUM_FRAMESIZES,
ENUM_FRAMEINTERVALS."""
WITH_DEVICE = (
    Call("open", 2, None, (Among(1, _READING_AND_WRITING),), pretended=True),
    Call("openat", 257, 56, (Among(2, _READING_AND_WRITING),), pretended=True),
    Call("ioctl", 16, 29, (Among(1, (*_IOCTL, *_VIDEO)),)),
)
"""What a decoder with a video device is made to believe: that it has opened that; and what it may ask of it. Its other
descriptors know no such questions."""


_CLONE3 = 435
"""Its flags lie in memory, where a filter cannot look; told that there is none, glibc takes ``clone``."""


@dataclass(frozen=True, slots=True)
class _Machine:
    """``arch``: linux/audit.h's number; ``seccomp``: the number of that call."""

    arch: int
    seccomp: int
    has_x32: bool


_MACHINES: Final = {"x86_64": _Machine(0xC000003E, 317, True), "aarch64": _Machine(0xC00000B7, 277, False)}

_Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""


def _return(action: int) -> _Instruction:
    return (_RETURN, 0, 0, action)


def _low(argument: int) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument)


def _high(argument: int) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument + 4)


_DENY = _return(_ERRNO | errno.EPERM)


def _checked(check: Check) -> list[_Instruction]:
    """Goes on where the check holds, denies where it does not. Both architectures are little-endian."""
    match check:
        case Among(argument, values):
            found = [(_JUMP_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
            return [_low(argument), *found, _DENY]
        case Without(argument, bits):
            return [_low(argument), (_JUMP_SET, 0, 1, bits), _DENY]
        case With(argument, bits):
            return [_low(argument), (_JUMP_SET, 1, 0, bits), _DENY]
        case Null(argument):
            return [_low(argument), (_JUMP_EQUAL, 0, 2, 0), _high(argument), (_JUMP_EQUAL, 1, 0, 0), _DENY]


def program(calls: Sequence[Call], machine: str) -> bytes:
    """The filter as the kernel takes it, 8 bytes an instruction. Raises KeyError for a machine that is not known."""
    known = _MACHINES[machine]
    code = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_EQUAL, 1, 0, known.arch), _return(_KILL), (_LOAD, 0, 0, _NR_AT)]
    if known.has_x32:
        code += [(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT), _DENY]
    for call in calls:
        number = call.x86_64 if machine == "x86_64" else call.aarch64
        if number is not None:
            verdict = _return(_ERRNO | 0 if call.pretended else _ALLOW)
            block = [step for check in call.checks for step in _checked(check)] + [verdict]
            code += [(_JUMP_EQUAL, 0, len(block), number), *block]
    code += [(_JUMP_EQUAL, 0, 1, _CLONE3), _return(_ERRNO | errno.ENOSYS), _DENY]
    return b"".join(struct.pack("<HBBI", *step) for step in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine(calls: Sequence[Call]) -> str | None:
    """Put the filter on this process, all its threads included, for good; why not where that fails, else None.

    Needs ``no_new_privs``. What is said to hold was tried.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        return f"no list of system calls for {machine}"
    code = program(calls, machine)
    held = ctypes.create_string_buffer(code, len(code))
    filter_program = _Program(len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    number = _MACHINES[machine].seccomp
    if libc.syscall(number, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(filter_program)) != 0:
        why = os.strerror(ctypes.get_errno())
        # a kernel before 3.17, or a container that lets this alone through; other threads stay as they are
        if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter_program), 0, 0) != 0:
            return f"the kernel refuses a filter ({why})"
    try:
        socket.socket(socket.AF_UNIX).close()
    except PermissionError:
        return None
    return "the kernel took the filter and does not apply it"
