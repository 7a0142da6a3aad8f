"""How many frames a second ``media`` decodes, by codec and size, on clips that it makes itself.

    python -m bench.decode -o bench/results/decode_cpu.json

A frame counts when it has been decoded and resized to the model's input size, in the one thread that a decoder process
has. The figure is the median of the rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import typer

from bench.hardware import processor
from stmixer.media.decode import Limits, VideoReader
from stmixer.model.clip import input_size

CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1", "mpeg4": "mpeg4"}
SIZES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
SHORT_SIDE = 256


def make_clip(path: Path, codec: str, width: int, height: int, frames: int) -> None:
    """Coloured noise that moves: neither still nor random, as video is."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 8 + 8, width // 8 + 8, 3), np.uint8)
    noise = noise.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(CODECS[codec], rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = width * height * 3
        for i in range(frames):
            picture = np.ascontiguousarray(noise[i % 60 : i % 60 + height, i % 60 : i % 60 + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


def frames_per_second(path: Path) -> float:
    """Decode and resize the whole file once."""
    count, started = 0, time.perf_counter()
    with VideoReader(path, limits=Limits.unlimited()) as reader:
        for frame in reader:
            frame.resized(*input_size(frame.width, frame.height, SHORT_SIDE), antialias=True)
            count += 1
    return count / (time.perf_counter() - started)


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    frames: Annotated[int, typer.Option(min=30, help="per clip")] = 150,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure and write."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for codec, encoder in CODECS.items():
            if encoder not in av.codecs_available:
                rows.append({"codec": codec, "skipped": f"this build of FFmpeg has no {encoder} to make a clip with"})
                continue
            for width, height in SIZES:
                path = Path(folder, "clip.mkv")
                make_clip(path, codec, width, height, frames)
                rates = [frames_per_second(path) for _ in range(rounds)]
                size = f"{width}x{height}"
                rows.append({"codec": codec, "size": size, "frames_per_s": round(statistics.median(rates), 1)})
                typer.echo(rows[-1])
    result = {
        "what": "frames decoded and resized to the model's input size, a second, in one thread",
        "frames": frames,
        "rows": rows,
        "device": f"CPU, {os.cpu_count()} cores",
        "processor": processor(),
        "python": platform.python_version(),
        "av": metadata.version("av"),
        "ffmpeg": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
    }
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
