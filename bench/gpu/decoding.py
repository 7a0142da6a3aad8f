"""Frames a second that are decoded: by FFmpeg on the CPU, and on the GPU with the frames left there for PyTorch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import torch
from av.codec.hwaccel import HWAccel
from torch import Tensor

from bench.gpu.films import make_film
from bench.gpu.notes import Notes
from bench.gpu.scene import Scene

ROUNDS = 4


def decoding(notes: Notes, scene: Scene, _: str) -> None:
    """Each film by each way; a way that does not work is a row with the reason."""
    ways: dict[str, Callable[[Path], int]] = {
        "CPU, one thread": lambda path: decode(path, threads=1),
        "CPU, all threads": lambda path: decode(path, threads=0),
        f"{scene.device}, frames left there": lambda path: decode(path, accelerated=scene.device),
        f"{scene.device}, frames as tensors": lambda path: decode(path, accelerated=scene.device, tensors=True),
        f"{scene.device}, frames fetched": lambda path: decode(path, accelerated=scene.device, owned=False),
    }
    with tempfile.TemporaryDirectory() as folder:
        for width, height in scene.films:
            path = Path(folder) / f"{height}.mp4"
            frames = make_film(path, width, height, scene.film_s, ROUNDS)
            for name, way in ways.items():
                row = {"film": f"{width} x {height} H.264", "how": name, "frames": frames}
                if not notes.left_s():
                    notes.add(**row, refused="no time")
                    continue
                began = time.perf_counter()
                try:
                    seen = way(path)
                except (av.error.FFmpegError, OSError, RuntimeError, ValueError, TypeError) as error:
                    notes.add(**row, refused=f"{type(error).__name__}: {error}"[:300].replace(folder, ""))
                    continue
                seconds = time.perf_counter() - began
                assert seen == frames, f"{seen} frames of {frames}"
                notes.add(**row, frames_per_s=round(frames / seconds, 1), seconds=round(seconds, 2))


def decode(
    path: Path, *, threads: int = 0, accelerated: str | None = None, tensors: bool = False, owned: bool = True
) -> int:
    """How many frames came. ``accelerated``: FFmpeg's name of the device; ``owned``: they stay there.

    Raises what PyAV raises where the device cannot, and RuntimeError where frames are not where they should be.
    """
    # no fall-back: a decoder that quietly runs on the CPU is not what is asked about
    hardware = None if accelerated is None else HWAccel(accelerated, allow_software_fallback=False, is_hw_owned=owned)
    count = 0
    with av.open(str(path), hwaccel=hardware) as video:
        stream = video.streams.video[0]
        if hardware is None:
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        for frame in video.decode(stream):
            if count == 0 and hardware is not None and owned and frame.format.name != accelerated:
                raise RuntimeError(f"frames come as {frame.format.name}")
            if tensors:
                brightness(frame)
            count += 1
    if tensors and torch.cuda.is_available():
        torch.cuda.synchronize()
    return count


def brightness(frame: Any) -> Tensor:
    """Something computed of a frame's pixels where they lie: the mean of what says how bright they are."""
    luma, *_ = planes(frame)
    return luma.float().mean()


def planes(frame: Any) -> list[Tensor]:
    """A frame's planes as tensors on its device, without a copy; they hold the frame.

    By capsules that we ask for: ``torch.from_dlpack`` of a plane itself names a stream to be waited for, which PyAV
    refuses. FFmpeg has waited for the copy into the frame when it hands it over.
    """
    return [torch.utils.dlpack.from_dlpack(plane.__dlpack__()) for plane in frame.planes]
