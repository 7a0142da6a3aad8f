"""What a new decoder costs: forked by a process that has imported everything, against an interpreter of its own.

    python -m bench.decoder_start -o bench/results/decoder_start.json

Both in turns, from being asked for until it is shut in and waits for its source. An interpreter of its own is one that
forks its first decoder: the fork's part of that is what the other figure says. Figures are medians; CPU and memory
(unique set size) are the new process's own: a fork's without what it shares, an interpreter's once nobody shares it.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from bench.hardware import processor
from stmixer.service.ipc.child import Child
from stmixer.service.sources.decoder_pool import DECODER_MODULE
from stmixer.service.sources.nursery import NURSERY_MODULE, Nursery

MEMORY_MB = 3072


def process_of(module: str) -> psutil.Process:
    """The newest process of ours that runs a module."""
    ours = (p for p in psutil.Process().children(recursive=True) if module in p.cmdline())
    return max(ours, key=lambda p: p.create_time())


async def timed(bear: Callable[[], Awaitable[Child]], module: str) -> dict[str, float]:
    """One start: seconds, and CPU seconds and megabytes of the process that it takes."""
    began = time.perf_counter()
    decoder = await bear()
    await decoder.channel.receive()
    seconds = time.perf_counter() - began
    process = process_of(module)
    cpu, forked_mb = process.cpu_times(), process.memory_full_info().uss / 2**20
    await decoder.end()
    own_mb = forked_mb if module == DECODER_MODULE else process.memory_full_info().uss / 2**20
    return {"seconds": seconds, "cpu_s": cpu.user + cpu.system, "own_mb": own_mb}


async def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians of both, taken in turns."""
    figures: dict[str, list[dict[str, float]]] = {"forked": [], "interpreter": []}
    shared = Nursery(DECODER_MODULE, MEMORY_MB)
    await (await shared.bear()).end()
    for _ in range(rounds):
        figures["forked"].append(await timed(shared.bear, DECODER_MODULE))
        alone = Nursery(DECODER_MODULE, MEMORY_MB)
        figures["interpreter"].append(await timed(alone.bear, NURSERY_MODULE))
        await alone.stop()
    await shared.stop()
    return {
        name: {key: round(statistics.median(one[key] for one in all_), 4) for key in all_[0]}
        for name, all_ in figures.items()
    }


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    rounds: Annotated[int, typer.Option(min=3, help="of each")] = 9,
) -> None:
    """Measure, and write down."""
    figures = asyncio.run(measure(rounds))
    forked, interpreter = figures["forked"], figures["interpreter"]
    result: dict[str, Any] = {
        "what": "a new decoder: forked, and by an interpreter of its own; medians, taken in turns",
        "hardware": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "av": metadata.version("av")},
        "rounds": rounds,
        **figures,
        "ratios": {key: round(forked[key] / max(interpreter[key], 1e-9), 4) for key in forked},
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
