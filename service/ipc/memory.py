"""What this machine, or the container that we are in, has left of memory; and whether it has killed for it."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes that could still be had: the machine's or the container's, whichever is less; None where neither tells."""
    found = []
    for line in _text(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = _text(cgroup / "memory.max").strip(), _text(cgroup / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        # files that are merely cached count as used, and are given up first
        cached = dict(line.split() for line in _text(cgroup / "memory.stat").splitlines()).get("inactive_file", "0")
        found.append(max(0, int(limit) - int(used) + int(cached)))
    return min(found, default=None)


def oom_kills(cgroup: Path = CGROUP) -> int:
    """How often the kernel has killed something of our container for its memory; 0 where it does not say."""
    counts = dict(line.split() for line in _text(cgroup / "memory.events").splitlines())
    return int(counts.get("oom_kill", "0"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
