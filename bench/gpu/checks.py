"""The tests that want a GPU, one after another in the order of what breaks most, however the ones before end."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.notes import Notes, read_rows
from bench.gpu.scene import TESTS, Scene

ROOT = TESTS.parent
ORDER = (
    "tests/service/test_gpu_service.py::*[[]eager]",
    "tests/model/test_gpu.py::*",
    "tests/model/test_cuda_rules.py::test_graphs_in_one_pool*",
    "tests/model/test_cuda_rules.py::test_a_forward_waits*",
    "tests/model/test_cuda_rules.py::test_frames_may_change*",
    "tests/model/test_runtimes.py::test_bf16_is_near[[]eager]",
    "tests/model/test_runtimes.py::test_bf16_is_near[[]cudagraph]",
    "tests/service/test_gpu_service.py::*",
    "tests/model/test_runtimes.py::*[[]rt_nano-cuda-eager*",
    "tests/model/test_runtimes.py::*[[]rt_nano-cuda-cudagraph*",
    "tests/model/test_cuda_rules.py::test_what_is_too_large*",
    "tests/model/test_cuda_rules.py::test_a_broken_context*",
    "tests/model/test_runtimes.py::test_results_are_the_callers*",
    "tests/model/test_runtimes.py::test_no_leak*",
    "tests/model/test_runtimes.py::*-cuda-cudagraph*",
    "tests/model/test_runtimes.py::*-cuda-eager*",
    "tests/model/test_runtimes.py::*-cuda-onnx*",
    "tests/model/test_cuda_rules.py::test_another_gpu*",
    "tests/model/test_runtimes.py::*compile*",
)
"""Patterns of tests' names; a test has the place of the first that it fits, whoever fits none comes last. What nothing
else works without comes first, then what CUDA's rules make fail, then what takes long."""
ROWS = "GPU_CHECKS_ROWS"
"""The environment variable that tells pytest's process (``bench.gpu.told``) where to write."""


def place(test: str) -> int:
    """Of a test among the others, 0 first."""
    return next((n for n, pattern in enumerate(ORDER) if fnmatch.fnmatchcase(test, pattern)), len(ORDER))


def checks(notes: Notes, scene: Scene, _: str) -> None:
    """Each test's end is a row. One that takes pytest's process with it, or hangs, is one too; the rest run on."""
    run(notes, sorted(collected(ROOT, gpu_files(ROOT)), key=place), ROOT)


def run(notes: Notes, tests: Sequence[str], root: Path) -> None:
    """These tests in this order, as many as there is time for; what was not run is told at the end."""
    waiting, told = list(tests), notes.folder / "checks.told.jsonl"
    while waiting and notes.left_s():
        told.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "bench.gpu.told", *waiting]
        environment = {**os.environ, ROWS: str(told)}
        ended: object = "hung"
        with subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                ended = process.wait(notes.left_s())
            except subprocess.TimeoutExpired:
                process.kill()
        rows = read_rows(told)
        over = {row["test"]: row for row in rows if "ended" in row}
        for row in over.values():
            notes.add(**row)
        begun = next((row["test"] for row in rows if row["test"] not in over), None)
        if begun is not None:
            notes.add(test=begun, ended="hung" if ended == "hung" else f"took its process along ({ended})")
        elif not rows:
            notes.add(test=waiting[0], ended=f"pytest ended with {ended} before any test")
            begun = waiting[0]
        waiting = [test for test in waiting if test not in over and test != begun]
    if waiting:
        notes.add(test=f"{len(waiting)} more, from {waiting[0]} on", ended="no time")


def gpu_files(root: Path) -> list[str]:
    """Files of tests in which the marker stands."""
    found = (path for path in sorted((root / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text())
    return [str(path.relative_to(root)) for path in found]


def collected(root: Path, files: Sequence[str]) -> list[str]:
    """Names of the tests with the marker ``gpu``, as pytest has them. Raises RuntimeError where it does not."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "-m", "gpu", *files]
    done = subprocess.run(command, check=False, cwd=root, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if re.match(r"tests/.*\.py::", line)]
    if done.returncode != 0 or not found:
        raise RuntimeError(f"pytest collects nothing ({done.returncode}): {(done.stdout + done.stderr)[-1500:]}")
    return found


def write(path: Path, **row: object) -> None:
    """A row more, on the disk when this returns."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
