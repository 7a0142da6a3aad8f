"""Freed memory stays with the process: the kernel is not asked for the same pages again and again."""

from __future__ import annotations

import subprocess
import sys

from stmixer.model.heap import keep_freed_memory

SCRIPT = """
import resource, sys
import numpy as np
from stmixer.model.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work(): [np.ones(2**20, np.float64) for _ in range(3)]  # 8 MB each
work()
before = faults()
for _ in range(20): work()
print(faults() - before)
"""


def pages(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_the_same_memory_is_used_again() -> None:
    """A page is zeroed once: 24 MB are 6144 pages of 4 KiB, twenty times over without it."""
    assert pages("kept") < pages("given back") / 5


def test_without_glibc_nothing_is_done(monkeypatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
