"""What a decoder's cell costs: the same decoding in a child that has shut itself in and in one that has not, in turns.

    python -m bench.cell -o bench/results/cell.json

Both are forks of this process, which has imported everything, and decode the same clip from memory in one thread. CPU
seconds are the child's own; what putting the walls up takes is told apart. ``ratio`` is the median over the rounds of
shut in against free, ``spread`` the middle half of them.
"""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import av
import typer

from bench.decode import CODECS, SHORT_SIDE, make_clip
from bench.hardware import processor
from stmixer.media.decode import Limits, VideoReader
from stmixer.model.clip import input_size
from stmixer.service.decoder import cell

SIZE = (1280, 720)
MEMORY_BYTES = 16 * 2**30
"""Of address space, of which this process has more than a nursery of decoders."""


def decode(clip: bytes) -> int:
    """Decode and resize all of it, as a decoder does; how many frames it has."""
    count = 0
    with VideoReader(io.BytesIO(clip), limits=Limits.unlimited(), threads=1) as reader:
        for frame in reader:
            frame.resized(*input_size(frame.width, frame.height, SHORT_SIDE), antialias=True)
            count += 1
    return count


def in_a_child(clip: bytes, frames: int, *, shut: bool) -> dict[str, float]:
    """CPU seconds of a fork that decodes a clip, and what of them its walls took.

    Raises:
        RuntimeError: a wall is missing on this machine, or the child did not decode all frames.
    """

    def work() -> dict[str, Any]:
        walls_s, missing = 0.0, ()
        if shut:
            began = time.process_time()
            missing = cell.shut(MEMORY_BYTES)
            walls_s = time.process_time() - began
        began = time.process_time()
        return {
            "frames": decode(clip), "decode_s": time.process_time() - began, "walls_s": walls_s, "missing": missing
        }  # fmt: skip

    told = forked(work)
    if told.get("frames") != frames or told["missing"]:
        raise RuntimeError(f"of {frames} frames, shut in: {shut}: {told}")
    return {"decode_s": told["decode_s"], "walls_s": told["walls_s"]}


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a function gives in a fork of this process; nothing if it fails there."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told: dict[str, Any] = json.loads(pipe.read() or b"{}")
    os.waitpid(child, 0)
    return told


def encoded(codec: str, frames: int) -> bytes:
    """A clip, made in a fork: an encoder leaves threads and memory behind, for which a cell has no room."""
    with tempfile.NamedTemporaryFile(suffix=".mkv") as file:
        forked(lambda: {"made": make_clip(Path(file.name), CODECS[codec], *SIZE, frames, {})})
        return Path(file.name).read_bytes()


def row(clip: bytes, frames: int, rounds: int) -> dict[str, Any]:
    """One clip's figures."""
    free, confined = [], []
    for number in range(rounds):
        for shut in (False, True) if number % 2 else (True, False):
            (confined if shut else free).append(in_a_child(clip, frames, shut=shut))
    ratios = sorted(c["decode_s"] / f["decode_s"] for c, f in zip(confined, free, strict=True))
    quarter = len(ratios) // 4
    return {
        "free_s": round(statistics.median(f["decode_s"] for f in free), 4),
        "shut_in_s": round(statistics.median(c["decode_s"] for c in confined), 4),
        "ratio": round(statistics.median(ratios), 4),
        "spread": [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)],
        "walls_ms": round(1e3 * statistics.median(c["walls_s"] for c in confined), 2),
    }


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    frames: Annotated[int, typer.Option(min=30, help="per clip")] = 120,
    rounds: Annotated[int, typer.Option(min=4)] = 12,
) -> None:
    """Measure and write."""
    rows: dict[str, Any] = {}
    for codec, encoder in CODECS.items():
        if encoder not in av.codecs_available:
            rows[codec] = f"this build of FFmpeg has no {encoder} to make a clip with"
            continue
        clip = encoded(codec, frames)
        decode(clip)  # imports what comes late, which no child can
        rows[codec] = row(clip, frames, rounds)
        typer.echo(f"{codec}: {rows[codec]}")
    result = {
        "what": "CPU seconds of decoding a clip, in a decoder's cell and out of it, in turns; ratio: shut in / free",
        "frames": frames, "size": SIZE, "rounds": rounds, "rows": rows,
        "processor": processor(), "cores": os.cpu_count(), "kernel": platform.release(),
        "python": platform.python_version(), "av": metadata.version("av"),
    }  # fmt: skip
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
