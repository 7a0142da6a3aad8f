"""A decoder that was taken over gets nowhere; each thing that it tries works again once its walls are taken away."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import without_walls
from conftest import TESTS
from posting import DECODER, WORKER, at_rest, made_video, post
from probe_decoder import ATTEMPTS, CONNECTED, CONNECTION, DEVICE, HIDDEN, MEMORY_BYTES, WALLS, WITH_DEVICE, WORK
from serving import Server

from stmixer.service.api import server as server_module
from stmixer.service.decoder import cell, seccomp
from stmixer.service.errors import StartError
from stmixer.service.ipc.ring import Ring, RingShape, create_ring, why_unsealed
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DecoderPool

ALL = tuple(WALLS)
ALONE = [(name, guard) for name, (_, guards) in ATTEMPTS.items() for guard in sorted(guards)]
NEEDS_ROOT_OR_NOT = tuple(wall for wall in ALL if wall not in ("capabilities", "network"))

Outcomes = dict[tuple[str, tuple[str, ...]], str]


def without(name: str, *kept: str) -> tuple[str, ...]:
    """All walls but those that keep an attempt from working, of which ``kept`` stand all the same."""
    guards = ATTEMPTS[name][1] - set(kept)
    return tuple(wall for wall in ALL if wall not in guards)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Of every attempt with every set of walls that a test here asks for; tried by one process, in children."""
    plan = [(name, ALL) for name in (*ATTEMPTS, *WORK)]
    plan += [(name, without(name, guard)) for name, guard in ALONE]
    plan += [(name, without(name)) for name in ATTEMPTS]
    plan += [("raise a limit", NEEDS_ROOT_OR_NOT)]
    plan += [(name, ("capabilities",)) for name in HIDDEN]
    plan += [(name, (*ALL, CONNECTION)) for name in (*ATTEMPTS, *CONNECTED)]
    plan += [(name, (*ALL, DEVICE)) for name in (*ATTEMPTS, *WITH_DEVICE)]
    path = os.pathsep.join([*filter(None, sys.path), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-m", "probe_decoder", json.dumps(plan)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(plan, json.loads(done.stdout), strict=True))


def found(outcomes: Outcomes, name: str, standing: tuple[str, ...]) -> str:
    """The outcome; skips where this machine lacks a wall that it is about."""
    said = outcomes[name, standing]
    if said.startswith("no "):
        pytest.skip(said)
    return said


@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_works_inside_the_cell(name: str, outcomes: Outcomes) -> None:
    said = found(outcomes, name, ALL)
    assert said in errno.errorcode.values(), said


@pytest.mark.parametrize(("name", "guard"), ALONE)
def test_each_wall_holds_alone(name: str, guard: str, outcomes: Outcomes) -> None:
    said = found(outcomes, name, without(name, guard))
    assert said in errno.errorcode.values(), said


@pytest.mark.parametrize("name", ATTEMPTS)
def test_it_works_again_without_its_walls(name: str, outcomes: Outcomes) -> None:
    assert found(outcomes, name, without(name)) == "works"


@pytest.mark.parametrize("name", WORK)
def test_a_decoder_can_do_its_work(name: str, outcomes: Outcomes) -> None:
    assert found(outcomes, name, ALL) == "works"


@pytest.mark.parametrize("name", CONNECTED)
def test_a_decoder_with_a_connection_has_that_and_no_other(name: str, outcomes: Outcomes) -> None:
    assert found(outcomes, name, (*ALL, CONNECTION)) == CONNECTED[name][1]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_else_works_with_a_connection(name: str, outcomes: Outcomes) -> None:
    said = found(outcomes, name, (*ALL, CONNECTION))
    if name == "make a socket":  # it is told so; which one that is: "take what is given"
        assert said == "works"
    else:
        assert said in errno.errorcode.values(), said


@pytest.mark.parametrize("name", WITH_DEVICE)
def test_a_decoder_with_a_device_has_that_and_no_other(name: str, outcomes: Outcomes) -> None:
    assert found(outcomes, name, (*ALL, DEVICE)) == WITH_DEVICE[name][1]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_else_works_with_a_device(name: str, outcomes: Outcomes) -> None:
    said = found(outcomes, name, (*ALL, DEVICE))
    assert said in errno.errorcode.values(), said


CAP_SYS_RESOURCE = 1 << 24


def may_raise_limits() -> bool:
    """Whether we, and so whom we start, may raise hard limits."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) & CAP_SYS_RESOURCE)


@pytest.mark.skipif(not may_raise_limits(), reason="nobody here may raise limits anyhow (CAP_SYS_RESOURCE)")
def test_root_without_capabilities_raises_no_limit(outcomes: Outcomes) -> None:
    assert found(outcomes, "raise a limit", ALL) == "EPERM"
    assert found(outcomes, "raise a limit", NEEDS_ROOT_OR_NOT) == "works"


def test_who_hides_is_not_read_by_its_own_user(outcomes: Outcomes) -> None:
    assert found(outcomes, "memory of one that hides", ("capabilities",)) == "EPERM"
    assert found(outcomes, "memory of one that does not", ("capabilities",)) == "works"


# -- the filter's program, for both machines


ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID = 4711


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter says of a call, as the kernel would compute it."""
    code = list(struct.iter_unpack("<HBBI", seccomp.program(seccomp.allowed_calls(PID), machine)))
    data = struct.pack("<IIQ6Q", number, ARCHES[machine] if arch is None else arch, 0, *[*arguments, *[0] * 6][:6])
    at, loaded = 0, 0
    while True:
        operation, then, otherwise, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                loaded = struct.unpack_from("<I", data, operand)[0]
            case 0x15:
                at += then if loaded == operand else otherwise
            case 0x45:
                at += then if loaded & operand else otherwise
            case 0x35:
                at += then if loaded >= operand else otherwise
            case 0x06:
                return int(operand)


DENIED = {
    # name: x86_64, aarch64
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None), "socket": (41, 198),
    "connect": (42, 203), "bind": (49, 200), "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "ftruncate": (77, 46), "fallocate": (285, 47), "memfd_create": (319, 279), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "bpf": (321, 280), "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "keyctl": (250, 219), "seccomp": (317, 277), "pkey_mprotect": (329, 288), "setuid": (105, 146), "capset": (126, 91),
    "personality": (135, 92), "setpriority": (141, 140), "splice": (275, 76), "shmat": (30, 196), "link": (86, None),
    "unlinkat": (263, 35), "statx": (332, 291), "readlinkat": (267, 78), "chdir": (80, 49), "arch_prctl": (158, None),
}  # fmt: skip


@pytest.mark.parametrize("machine", ARCHES)
def test_what_is_not_listed_is_denied(machine: str) -> None:
    for name, numbers in DENIED.items():
        number = numbers[0 if machine == "x86_64" else 1]
        assert number is None or verdict(machine, number) == EPERM, name
    listed = {c.x86_64 if machine == "x86_64" else c.aarch64 for c in seccomp.allowed_calls(PID)} - {None}
    for number in set(range(500)) - listed - {435}:
        assert verdict(machine, number) == EPERM, number
    assert verdict(machine, 435) == ENOSYS


def test_another_architecture_is_the_end() -> None:
    assert verdict("x86_64", 0, arch=0x40000003) == KILL  # i386
    assert verdict("aarch64", 63, arch=0x40000028) == KILL  # 32-bit ARM
    assert verdict("x86_64", 0) == ALLOW


def test_x32_is_refused() -> None:
    assert verdict("x86_64", 0x40000000) == EPERM
    assert verdict("x86_64", 0x40000000 | 520) == EPERM  # its execve


CHECKED = [
    ("mmap", (0, 4096, 3), (0, 4096, 7)), ("mprotect", (0, 4096, 1), (0, 4096, 5)),
    ("clone", (0x3D0F00,), (0x11,)), ("clone", (0x3D0F00,), (0x3D0F00 | 0x10000000,)),
    ("clone", (0x7D0F00,), (0x3C0F00,)), ("kill", (PID, 6), (PID + 1, 6)), ("kill", (PID, 6), (2**32 - 1, 9)),
    ("tgkill", (PID, PID + 3), (1, 1)), ("prlimit64", (0, 0), (1, 0)),
    ("sendto", (3, 1, 1, 0, 0), (3, 1, 1, 0, 1 << 32)), ("sendto", (3, 1, 1, 0, 0), (3, 1, 1, 0, 1)),
    ("fcntl", (3, 3), (3, 8)), ("fcntl", (3, 1030), (3, 1033)), ("ioctl", (3, 0x5421), (3, 0x5412)),
    ("prctl", (15,), (4,)), ("newfstatat", (3, 1, 1, 0x1000), (3, 1, 1, 0)),
]  # fmt: skip


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize(("name", "good", "bad"), CHECKED)
def test_arguments_are_looked_at(machine: str, name: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    call = next(call for call in seccomp.allowed_calls(PID) if call.name == name)
    number = call.x86_64 if machine == "x86_64" else call.aarch64
    assert number is not None
    assert (verdict(machine, number, *good), verdict(machine, number, *bad)) == (ALLOW, EPERM)


# -- machines that lack walls


def test_a_machine_without_walls_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    walls = {"landlock": lambda: "the kernel has none", "nice": lambda: None, "seccomp": lambda: "refused"}
    monkeypatch.setattr(cell, "walls", lambda _, besides=(): walls)
    assert cell.shut(MEMORY_BYTES) == ("landlock: the kernel has none", "seccomp: refused")


def test_an_unknown_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert seccomp.confine(seccomp.allowed_calls(PID)) == "no list of system calls for riscv64"


WALKS_WITHOUT = """
import asyncio, json
from stmixer.service.settings import Settings
from stmixer.service.sources.decoder_pool import DecoderPool

async def start():
    pool = DecoderPool(Settings(idle_decoders=1))
    await pool.start()
    decoder = await pool.acquire()
    print(json.dumps([decoder.alive, pool.missing_walls]))
    await pool.stop()

asyncio.run(start())
"""


@pytest.mark.skipif(platform.machine() not in without_walls.LACKING, reason="its calls have other numbers here")
def test_decoders_start_where_walls_are_missing(tmp_path: Path) -> None:
    (tmp_path / "walks_without.py").write_text(WALKS_WITHOUT)
    path = os.pathsep.join([*filter(None, sys.path), str(TESTS), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", "without_walls", "walks_without"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path}, timeout=120,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no seccomp filter to take walls away with")
    assert done.returncode == 0, done.stderr[-3000:]
    alive, missing = json.loads(done.stdout)
    assert alive
    assert missing == [
        "network: no namespace without one is let be made (Operation not permitted)",
        "landlock: the kernel has no Landlock (Function not implemented)",
        "seccomp: the kernel refuses a filter (Operation not permitted)",
    ]


# -- rings


def test_a_reader_of_a_ring_outlives_whoever_would_shrink_it() -> None:
    if (why := why_unsealed()) is not None:
        pytest.skip(why)
    memory = create_ring(RingShape(64, 64, 8))
    ring = Ring(os.dup(memory.fd), memory.shape, writable=False)
    for size in (0, memory.shape.total_bytes - 1, memory.shape.total_bytes + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)
    assert ring.read([7], [0]) is not None
    memory.close()


# -- a service's own decoders


def test_a_decoder_meets_one_source(tiny_weights: Path) -> None:
    async def pids() -> list[int]:
        pool = DecoderPool(Settings(idle_decoders=1))
        await pool.start()
        met = []
        try:
            for clean in (True, False, True):
                met.append(await pool.acquire())
                await pool.release(met[-1], clean=clean)
        finally:
            await pool.stop()
        assert not any(decoder.alive for decoder in met)
        return [decoder.pid for decoder in met]

    assert len(set(asyncio.run(pids()))) == 3


def test_a_services_decoders_are_shut_in(server: Server) -> None:
    at_rest(server)
    api = psutil.Process(server.process.pid)
    missing = [line for line in server.log if "go without" in line]
    children = server.children_of(DECODER)
    assert len(children) == 2
    try:
        children[0].environ()
    except psutil.AccessDenied:
        pytest.skip("decoders hide from all but root")
    for decoder in children:
        proc = Path(f"/proc/{decoder.pid}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        assert set(decoder.environ()) <= {
            "PYTHONPATH", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH",
            "PYTHONHOME", "PYTHONPYCACHEPREFIX", "LC_CTYPE",
        }  # fmt: skip
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == 0
        assert status["Seccomp"] == ("0" if any("seccomp" in line for line in missing) else "2")
        assert decoder.nice() == min(19, api.nice() + cell.NICENESS)
        assert decoder.rlimit(psutil.RLIMIT_NOFILE) == (cell.MAX_DESCRIPTORS, cell.MAX_DESCRIPTORS)
        assert decoder.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert len(set(decoder.rlimit(psutil.RLIMIT_AS))) == 1


def test_what_is_missing_is_in_the_status_and_in_the_log(server: Server) -> None:
    missing = httpx.get(server.url + "/v1/status").json()["missing_walls"]
    said = [line for line in server.log if "go without some walls" in line]
    assert len(said) == bool(missing)
    assert all(wall in line for line in said for wall in missing)


def test_memory_is_taken_from_decoders_first_and_from_the_api_last(server: Server) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    at_rest(server)
    api = score(server.process.pid)
    workers = {score(worker.pid) for worker in server.children_of(WORKER)}
    decoders = {score(decoder.pid) for decoder in server.children_of(DECODER)}
    assert api < min(workers) <= max(workers) < min(decoders)


def test_the_next_upload_has_a_decoder_of_its_own(server: Server) -> None:
    at_rest(server)
    before = {child.pid for child in server.children_of(DECODER)}
    for _ in range(2):
        assert post(server, made_video(128, 96, 8)).status_code == 200
    at_rest(server)
    assert not before & {child.pid for child in server.children_of(DECODER)}


def test_the_api_process_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = []
    monkeypatch.setattr(server_module, "hide", lambda: hidden.append(True))
    with pytest.raises(StartError):
        server_module.run_server(Settings(host="192.0.2.1", allow_anonymous=True))
    assert hidden == [True]
