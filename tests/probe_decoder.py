"""A decoder that has been taken over, as far as it gets: what it tries from inside the cell, and what comes of it.

``python -m probe_decoder PLAN_JSON``: the plan is a list of [attempt, walls that stand]; printed is a list of outcomes,
``works``, the name of an errno, or why a wall does not stand on this machine. Each is tried in a process of its own,
with the real walls (``service.decoder.cell``), some of which are left out. ``seal`` is the ring's own wall.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from stmixer.service.decoder import cell, seccomp
from stmixer.service.ipc.child import hide
from stmixer.service.ipc.ring import RingShape, create_ring

MEMORY_BYTES = 3 << 30
FOLDER = tempfile.gettempdir()
"""Asked for before any wall stands."""
SEAL = "seal"
CONNECTION, DEVICE = "connection", "device"
"""Among the walls: descriptor 0 is one of these, which FFmpeg is to take for its own."""
WALLS = (*cell.walls(MEMORY_BYTES), SEAL)
LIBC = ctypes.CDLL(None, use_errno=True)
SHAPE = RingShape(8, 8, 4)

Attempt = Callable[[], object]


def called(result: int) -> int:
    """What a C function returned. Raises OSError where that is -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), "failed")
    return result


def victim(*, hidden: bool = False) -> int:
    """Another process of the same user, without privileges that would keep us out."""
    ready, tell = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(REPORT)  # or whoever reads it would wait for us
        cell.drop_capabilities()
        if hidden:
            hide()
        os.write(tell, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    return pid


def connecting() -> Attempt:
    listening = socket.create_server(("127.0.0.1", 0))
    ours = socket.socket()
    return lambda: (ours.connect(listening.getsockname()), listening)


def reaching(kind: socket.SocketKind) -> Attempt:
    """Of a socket that is made inside."""
    listening = socket.socket(socket.AF_INET, kind)
    listening.bind(("127.0.0.1", 0))
    if kind is socket.SOCK_STREAM:
        listening.listen()
    address = listening.getsockname()

    def attempt() -> None:
        with socket.socket(socket.AF_INET, kind) as ours:
            ours.connect(address)
            ours.send(b"word")
        listening.close()

    return attempt


def executing() -> Attempt:
    os.dup2(REPORT, 1)  # it says itself that it runs
    return lambda: os.execv("/bin/echo", ["echo", "-n", "works"])


def forking_by_clone3() -> Attempt:
    arguments = (ctypes.c_uint64 * 8)()
    arguments[4] = signal.SIGCHLD

    def attempt() -> None:
        if called(LIBC.syscall(435, arguments, ctypes.c_size_t(64))) == 0:
            os._exit(0)

    return attempt


def forking() -> Attempt:
    def attempt() -> None:
        if os.fork() == 0:
            os._exit(0)

    return attempt


def tracing() -> Attempt:
    pid = victim()
    return lambda: called(LIBC.ptrace(0x4206, pid, None, None))  # PTRACE_SEIZE


def reading_memory(*, hidden: bool = False) -> Attempt:
    word = ctypes.create_string_buffer(b"there")
    pid = victim(hidden=hidden)
    into = ctypes.create_string_buffer(5)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(into), 5)
    remote = (ctypes.c_void_p * 2)(ctypes.addressof(word), 5)
    return lambda: called(LIBC.process_vm_readv(pid, local, 1, remote, 1, 0))


def opening_memory() -> Attempt:
    pid = victim()
    return lambda: os.open(f"/proc/{pid}/mem", os.O_RDONLY)


def resizing(change: int) -> Attempt:
    if SEAL in STANDING:
        fd = create_ring(SHAPE).fd
    else:
        fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, SHAPE.total_bytes)
    return lambda: os.ftruncate(fd, SHAPE.total_bytes + change)


def turning_executable() -> Attempt:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    first = ctypes.c_char.from_buffer(memory)
    return lambda: called(LIBC.mprotect(ctypes.byref(first), ctypes.c_size_t(mmap.PAGESIZE), 7))


def raising_a_limit() -> Attempt:
    limits = (ctypes.c_uint64 * 2)(cell.MAX_DESCRIPTORS + 1, cell.MAX_DESCRIPTORS + 1)
    return lambda: called(LIBC.prlimit(0, resource.RLIMIT_NOFILE, limits, None))


def sending_a_descriptor() -> Attempt:
    ours, theirs = socket.socketpair()
    return lambda: (socket.send_fds(ours, [b"x"], [0]), theirs)


def signalling_by_descriptor() -> Attempt:
    pid, (fd, _) = victim(), os.pipe()
    return lambda: fcntl.fcntl(fd, fcntl.F_SETOWN, pid)


def remembering() -> Attempt:
    os.environ["A_SECRET"] = "s3cr3t"

    def attempt() -> None:
        if "A_SECRET" not in os.environ:
            raise OSError(errno.ENODATA, "no such variable")

    return attempt


def writing_what_was_to_be_read() -> Attempt:
    path = f"{FOLDER}/upload-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(path)

    def attempt() -> None:
        if "limits" in STANDING:
            cell.write_no_file()
        os.write(fd, b"x")

    return attempt


def running_a_thread() -> Attempt:
    def attempt() -> None:
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        thread.start()
        thread.join(10)
        assert done.is_set()

    return attempt


def using_the_ring() -> Attempt:
    fd = create_ring(SHAPE).fd

    def attempt() -> None:
        with mmap.mmap(fd, SHAPE.total_bytes) as memory:
            memory[:4] = b"word"

    return attempt


def reading_what_is_open() -> Attempt:
    file = open(__file__, "rb")  # noqa: SIM115 - the process ends with it

    def attempt() -> None:
        file.seek(3)
        assert file.read(10)

    return attempt


def talking() -> Attempt:
    ours, theirs = socket.socketpair()

    def attempt() -> None:
        ours.sendall(b"word")
        assert theirs.recv(4) == b"word"

    return attempt


def ending_itself() -> Attempt:
    def attempt() -> None:
        signal.signal(signal.SIGABRT, lambda *_: None)
        signal.raise_signal(signal.SIGABRT)
        os.kill(os.getpid(), signal.SIGABRT)

    return attempt


def at_victim(act: Callable[[int], object]) -> Callable[[], Attempt]:
    """An attempt at another process."""

    def prepare() -> Attempt:
        pid = victim()
        return lambda: act(pid)

    return prepare


BOTH = frozenset({"landlock", "seccomp"})
READING = BOTH | {"network"}
"""Another process's memory: by its namespace of users too."""
SECCOMP = frozenset({"seccomp"})

ATTEMPTS: dict[str, tuple[Callable[[], Attempt], frozenset[str]]] = {
    "open a file": (lambda: lambda: os.open(__file__, os.O_RDONLY), BOTH),
    "make a file": (lambda: lambda: os.open(f"{FOLDER}/probe-{os.getpid()}", os.O_WRONLY | os.O_CREAT), BOTH),
    "make a folder": (lambda: lambda: os.rmdir(os.mkdir(p := f"{FOLDER}/probe-{os.getpid()}") or p), BOTH),
    "list a folder": (lambda: lambda: os.listdir("/"), BOTH),
    "look at a file": (lambda: lambda: os.stat(__file__), SECCOMP),
    "make a socket": (lambda: socket.socket, SECCOMP),
    "make a pair of sockets": (lambda: socket.socketpair, SECCOMP),
    "connect": (connecting, BOTH),
    "execute": (executing, BOTH),
    "fork": (forking, SECCOMP),
    "fork by clone3": (forking_by_clone3, SECCOMP),
    "kill": (at_victim(lambda pid: os.kill(pid, signal.SIGTERM)), BOTH),
    "kill a thread": (at_victim(lambda pid: called(LIBC.tgkill(pid, pid, signal.SIGTERM))), BOTH),
    "take a process's descriptor": (at_victim(os.pidfd_open), SECCOMP),
    "bound another process": (
        at_victim(lambda pid: called(LIBC.prlimit(pid, resource.RLIMIT_CPU, None, (ctypes.c_uint64 * 2)()))),
        SECCOMP,
    ),
    "reach a network": (lambda: reaching(socket.SOCK_STREAM), READING),
    "send a datagram": (lambda: reaching(socket.SOCK_DGRAM), frozenset({"network", "seccomp"})),
    "trace": (tracing, READING),
    "read another's memory": (reading_memory, READING),
    "open another's memory": (opening_memory, READING),
    "grow the ring": (lambda: resizing(1), frozenset({SEAL, "seccomp"})),
    "shrink the ring": (lambda: resizing(-SHAPE.total_bytes), frozenset({SEAL, "seccomp"})),
    "make memory": (lambda: lambda: os.memfd_create("more"), SECCOMP),
    "map code": (lambda: lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=7), SECCOMP),
    "turn data into code": (turning_executable, SECCOMP),
    "raise a limit": (raising_a_limit, frozenset({"limits"})),
    "be readable again": (lambda: lambda: called(LIBC.prctl(4, 1, 0, 0, 0)), SECCOMP),
    "outlive the parent": (lambda: lambda: called(LIBC.prctl(1, 0, 0, 0, 0)), SECCOMP),
    "leave its namespaces": (lambda: lambda: called(LIBC.unshare(0x200)), SECCOMP),
    "change a priority": (lambda: lambda: os.setpriority(os.PRIO_PROCESS, 0, 19), SECCOMP),
    "hand a descriptor out": (sending_a_descriptor, SECCOMP),
    "signal by a descriptor": (signalling_by_descriptor, SECCOMP),
    "read the environment": (remembering, frozenset({"environment"})),
    "write what was to be read": (writing_what_was_to_be_read, frozenset({"limits"})),
}
"""What is tried, and the walls of which each alone keeps it from working."""

WORK = {
    "threads": running_a_thread,
    "the ring": using_the_ring,
    "an open file": reading_what_is_open,
    "the channel": talking,
    "its own end": ending_itself,
    "a lower limit": lambda: lambda: cell.lower(resource.RLIMIT_CPU, 100),
    "time": lambda: lambda: time.sleep(0.001),
}
"""What a decoder needs, and still can do."""


def given() -> tuple[socket.socket, socket.socket]:
    """The other end of the connection that descriptor 0 is from here on, and one who listens elsewhere."""
    far, near = socket.socketpair()
    os.dup2(near.fileno(), seccomp.GIVEN)
    near.close()
    return far, socket.create_server(("127.0.0.1", 0))


def taking_what_is_given() -> Attempt:
    """As FFmpeg does it."""
    far, elsewhere = given()
    place = elsewhere.getsockname()

    def attempt() -> None:
        ours = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        ours.connect(place)
        ours.send(b"hello")
        assert (ours.fileno(), far.recv(10)) == (seccomp.GIVEN, b"hello")
        ours.detach()

    return attempt


def reaching_elsewhere() -> Attempt:
    """By the socket that it believes to have made, whatever it says it connects it to."""
    _, elsewhere = given()
    place = elsewhere.getsockname()

    def attempt() -> None:
        ours = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        ours.connect(place)
        if not select.select([elsewhere], [], [], 0.2)[0]:
            raise OSError(errno.EAGAIN, "nobody came")

    return attempt


def connecting_what_it_has() -> Attempt:
    """Another descriptor than the one it was given."""
    _, elsewhere = given()
    ours, place = socket.socket(), elsewhere.getsockname()
    return lambda: ours.connect(place)


def making(family: socket.AddressFamily, kind: socket.SocketKind) -> Callable[[], Attempt]:
    """A socket of another kind."""

    def prepare() -> Attempt:
        given()
        return lambda: socket.socket(family, kind)

    return prepare


CONNECTED = {
    "take what is given": (taking_what_is_given, "works"),
    "reach elsewhere": (reaching_elsewhere, "EAGAIN"),
    "connect what it has": (connecting_what_it_has, "EPERM"),
    "make a datagram socket": (making(socket.AF_INET, socket.SOCK_DGRAM), "EPERM"),
    "make a raw socket": (making(socket.AF_INET, socket.SOCK_RAW), "EPERM"),
    "make a local socket": (making(socket.AF_UNIX, socket.SOCK_STREAM), "EPERM"),
    "make a packet socket": (making(socket.AF_PACKET, socket.SOCK_RAW), "EPERM"),
}
"""What a decoder with a connection tries, and what comes of it; everything else is as in any other."""


def given_a_device() -> None:
    """Descriptor 0 is a file from here on that no driver stands behind."""
    memory = os.memfd_create("device")
    os.dup2(memory, seccomp.GIVEN)
    os.close(memory)


def opening(path: str, flags: int) -> Callable[[], Attempt]:
    """By name. Raises AssertionError where that gives another descriptor than the one that was given."""

    def prepare() -> Attempt:
        given_a_device()

        def attempt() -> None:
            assert os.open(path, flags) == seccomp.GIVEN

        return attempt

    return prepare


def asking_the_driver(request: int, *, of_device: bool = True) -> Callable[[], Attempt]:
    """As FFmpeg does it, or something else."""

    def prepare() -> Attempt:
        given_a_device()
        return lambda: fcntl.ioctl(seccomp.GIVEN if of_device else REPORT, request, bytes(104))

    return prepare


QUERYCAP, STEAL_INPUT = 0x80685600, 0x5412
WITH_DEVICE = {
    "open a name": (opening("/dev/video7", os.O_RDWR), "works"),
    "open any other": (opening(__file__, os.O_RDWR), "works"),
    "open to read": (opening(__file__, os.O_RDONLY), "EPERM"),
    "open a new one": (opening(f"{FOLDER}/probe-device", os.O_RDWR | os.O_CREAT), "EPERM"),
    "ask the driver": (asking_the_driver(QUERYCAP), "ENOTTY"),
    "ask another thing": (asking_the_driver(STEAL_INPUT), "EPERM"),
    "ask of another": (asking_the_driver(QUERYCAP, of_device=False), "ENOTTY"),
}
"""What a decoder with a device tries, and what comes of it: whatever it names, it gets what it was given."""

HIDDEN = {
    "memory of one that hides": lambda: reading_memory(hidden=True),
    "memory of one that does not": reading_memory,
}

REPORT = -1
STANDING: frozenset[str] = frozenset()


def outcome(name: str, standing: Sequence[str]) -> str:
    """What comes of one attempt with these walls."""
    global REPORT, STANDING
    ours, REPORT = os.pipe()
    STANDING = frozenset(standing)
    if (pid := os.fork()) == 0:
        os.setsid()
        os.write(REPORT, _tried(name).encode())
        os._exit(0)
    os.close(REPORT)
    with open(ours) as said:
        found = said.read(1000)  # one that executes says it twice: another program, and not we
    os.kill(-pid, signal.SIGKILL)  # with its victim
    os.waitpid(pid, 0)
    return found


def _tried(name: str) -> str:
    try:
        prepare = {n: p for n, (p, _) in (*ATTEMPTS.items(), *CONNECTED.items(), *WITH_DEVICE.items())} | WORK | HIDDEN
        attempt = prepare[name]()
        besides = seccomp.CONNECTED if CONNECTION in STANDING else seccomp.WITH_DEVICE if DEVICE in STANDING else ()
        for wall, put_up in cell.walls(MEMORY_BYTES, besides).items():
            if wall in STANDING and (why := put_up()) is not None:
                return f"no {wall}: {why}"
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception:  # noqa: BLE001 - whatever it is belongs to the report
        return traceback.format_exc()
    return "works"


if __name__ == "__main__":
    print(json.dumps([outcome(*step) for step in json.loads(sys.argv[1])]))
