"""How many frames a second ``media`` decodes, by codec and size, on clips that it makes itself.

    python -m bench.decode -o bench/results/decode_cpu.json
    python -m bench.decode --other ../old -o decode_turns.json

A frame counts when it has been decoded and resized to the model's input size, in the one thread that a decoder process
has. The figure is the median of the rounds. Interlaced clips are read twice: as they are read, made whole of both
fields, and with their pictures left as they are stored.

``--other``, a checkout of another version (of before the package ``stmixer`` too): both read each clip in turns, a
process each, which reads it once to warm up. Milliseconds of a frame, by the clock and of CPU; ratios are ours over
theirs. A version that leaves fields as they are is ahead in interlaced clips, and only there. ``--sizes
640x360,interlaced``: progressive clips of these sizes, and all interlaced ones where that is among them.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import typer

from bench.checkouts import OURS, Turn, commit, compared, package_of, run_script, tell
from bench.hardware import measured_on, processor
from stmixer.media import decode
from stmixer.media.decode import Limits, VideoReader
from stmixer.media.deinterlace import Deinterlacer
from stmixer.model.clip import input_size

CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1", "mpeg4": "mpeg4"}
SIZES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
SHORT_SIDE = 256
FIELDS = {"h264": {"x264-params": "interlaced=1:tff=1:log-level=none"}, "mpeg2video": {"flags": "+ildct+ilme"}}
"""How an encoder marks what it writes as interlaced."""
INTERLACED = {"h264": "libx264", "mpeg2video": "mpeg2video"}
INTERLACED_SIZES = ((720, 576), (1920, 1080))

SCRIPT = """
import importlib, json, sys, time

package, path, width, height, seconds = sys.argv[1:]
width, height, seconds = int(width), int(height), float(seconds)
decode = importlib.import_module(package + "media.decode")


def frames():
    with decode.VideoReader(path, limits=decode.Limits.unlimited()) as reader:
        return sum(frame.resized(width, height, antialias=True) is not None for frame in reader)


frames()
count, wall, cpu = 0, time.perf_counter(), time.process_time()
while count == 0 or time.perf_counter() - wall < seconds:
    count += frames()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall_ms_per_frame": 1000 * wall / count, "cpu_ms_per_frame": 1000 * cpu / count}))
"""


@dataclass(frozen=True, slots=True)
class Film:
    """What is read: ``fields``: it is marked as interlaced."""

    codec: str
    width: int
    height: int
    fields: bool = False

    @property
    def row(self) -> dict[str, object]:
        """As a result names it."""
        row: dict[str, object] = {"codec": self.codec, "size": f"{self.width}x{self.height}"}
        return row | {"interlaced": True} if self.fields else row

    @property
    def read_at(self) -> tuple[int, int]:
        """The model's input size."""
        return input_size(self.width, self.height, SHORT_SIDE)

    @property
    def encoder(self) -> str:
        """FFmpeg's name."""
        return (INTERLACED if self.fields else CODECS)[self.codec]

    def make(self, path: Path, frames: int) -> None:
        """Writes it."""
        make_clip(path, self.encoder, self.width, self.height, frames, FIELDS[self.codec] if self.fields else {})


FILMS = [
    *(Film(codec, *size) for codec in CODECS for size in SIZES),
    *(Film(codec, *size, fields=True) for codec in INTERLACED for size in INTERLACED_SIZES),
]


def films_of(sizes: str) -> list[Film]:
    """Progressive ones of these sizes, with commas between them, and ``interlaced``; all films where none is named.

    Raises typer.BadParameter for one that no film has.
    """
    named = sizes.split(",") if sizes else []
    known = {"interlaced", *(str(film.row["size"]) for film in FILMS if not film.fields)}
    if unknown := [name for name in named if name not in known]:
        raise typer.BadParameter(f"no clip is called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [film for film in FILMS if not sizes or ("interlaced" if film.fields else film.row["size"]) in named]


def make_clip(path: Path, encoder: str, width: int, height: int, frames: int, options: dict[str, str]) -> None:
    """Coloured noise that moves: neither still nor random, as video is."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 8 + 8, width // 8 + 8, 3), np.uint8)
    noise = noise.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(encoder, rate=30)
        stream.options = options
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = width * height * 3
        for i in range(frames):
            picture = np.ascontiguousarray(noise[i % 60 : i % 60 + height, i % 60 : i % 60 + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


class AsStored(Deinterlacer):
    """Leaves interlaced pictures as they are."""

    def put(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The same picture."""
        yield picture


def frames_per_second(path: Path, reading: type[Deinterlacer] = Deinterlacer) -> float:
    """Decode and resize the whole file once."""
    decode.Deinterlacer = reading  # type: ignore[misc]
    try:
        count, started = 0, time.perf_counter()
        with VideoReader(path, limits=Limits.unlimited()) as reader:
            for frame in reader:
                frame.resized(*input_size(frame.width, frame.height, SHORT_SIDE), antialias=True)
                count += 1
        return count / (time.perf_counter() - started)
    finally:
        decode.Deinterlacer = Deinterlacer  # type: ignore[misc]


def alone(film: Film, path: Path, rounds: int) -> dict[str, object]:
    """Frames a second; of an interlaced one also as it is stored, in turns."""
    if not film.fields:
        return {"frames_per_s": round(statistics.median(frames_per_second(path) for _ in range(rounds)), 1)}
    whole, stored = list[float](), list[float]()
    for _ in range(rounds):
        whole.append(frames_per_second(path))
        stored.append(frames_per_second(path, AsStored))
    return {
        "frames_per_s": round(statistics.median(whole), 1),
        "as_stored": round(statistics.median(stored), 1),
        "made_whole_ms": round(1000 * (1 / statistics.median(whole) - 1 / statistics.median(stored)), 2),
    }


def in_turns(film: Film, path: Path, other: Path, rounds: int, seconds: float) -> dict[str, object]:
    """What a frame takes of the other version and of ours. Raises FileNotFoundError where that is none."""
    found = list[Turn](), list[Turn]()
    sides = [(other, found[0]), (OURS, found[1])]
    for number in range(rounds):
        for folder, turns in sides if number % 2 == 0 else reversed(sides):
            arguments = [package_of(folder), str(path), *map(str, film.read_at), str(seconds)]
            turns.append(run_script(SCRIPT, arguments, folder))
    return dict(compared(*found))


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="the result, JSON")],
    other: Annotated[Path | None, typer.Option(help="a checkout of another version, to take turns with")] = None,
    frames: Annotated[int, typer.Option(min=30, help="per clip")] = 150,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=0, help="that a turn lasts at least")] = 2.0,
    sizes: Annotated[str, typer.Option(help="progressive clips of these, and interlaced: 640x360,interlaced")] = "",
) -> None:
    """Measure and write."""
    rows = list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as folder:
        for film in films_of(sizes):
            if film.encoder not in av.codecs_available:
                rows.append({**film.row, "skipped": f"this build of FFmpeg has no {film.encoder} to make a clip with"})
                continue
            path = Path(folder, "clip.mkv")
            film.make(path, frames)
            measured = in_turns(film, path, other.resolve(), rounds, seconds) if other else alone(film, path, rounds)
            rows.append({**film.row, **measured})
            typer.echo(rows[-1])
    if other:
        about: dict[str, object] = {
            "what": "a frame decoded and resized to the model's input size; ratios are ours over the other's",
            "other": commit(other),
            "ours": commit(OURS),
            "rounds": rounds,
            **measured_on(),
        }
    else:
        about = {
            "what": "frames decoded and resized to the model's input size, a second, in one thread",
            "device": f"CPU, {os.cpu_count()} cores",
            "processor": processor(),
            "python": platform.python_version(),
        }
    ffmpeg = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    tell({**about, "frames": frames, "rows": rows, "av": metadata.version("av"), "ffmpeg": ffmpeg}, output)


if __name__ == "__main__":
    typer.run(main)
