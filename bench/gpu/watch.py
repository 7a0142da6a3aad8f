"""How busy a GPU is meanwhile: its driver's own tool, which is asked twice a second."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bench.gpu.notes import Row

ASKED = ("utilization.gpu", "utilization.memory", "utilization.decoder", "memory.used")
NAMES = ("gpu_busy", "gpu_memory_busy", "gpu_decoder_busy", "gpu_memory_gib")


@contextmanager
def watched(row: Row) -> Iterator[None]:
    """Within: the first GPU is watched. Afterwards the row has means, shares of 1 and GiB; nothing without the tool."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits", "-lms", "500"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        row.update(means((process.communicate()[0] or "").splitlines()))


def means(lines: Iterable[str]) -> Row:
    """Of each column; what a GPU does not tell ("[N/A]") is left out."""
    columns: list[list[float]] = [[] for _ in NAMES]
    for line in lines:
        for place, text in enumerate(line.split(",")[: len(NAMES)]):
            try:
                columns[place].append(float(text))
            except ValueError:
                continue
    scale = {name: 1024 if name.endswith("gib") else 100 for name in NAMES}
    return {name: round(statistics.mean(c) / scale[name], 2) for name, c in zip(NAMES, columns, strict=True) if c}
