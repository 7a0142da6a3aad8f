"""What cameras of the bench send: a clip's pictures, as JPEG or as a live container, made once for all of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stmixer.media.decode import Limits, VideoReader
from stmixer.media.encode import encode_jpeg
from stmixer.media.live import LiveCodec, live_container

MAX_PICTURES = 300
LIVE_CODECS: dict[str, LiveCodec] = {"webm": "libvpx", "mpegts": "libx264"}


@dataclass(frozen=True)
class Film:
    """The first frames of ``clip``, at most ``MAX_PICTURES``, to and fro; ``fps`` is the camera's."""

    clip: Path
    fps: int

    def prepare(self, codec: str) -> None:
        """Make what cameras of this codec send, which takes a while: before any of them has the service wait for it."""
        _ = self.jpegs if codec == "jpeg" else self.containers

    @cached_property
    def pictures(self) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB, of even size. Raises MediaError."""
        with VideoReader(self.clip, limits=Limits.unlimited()) as reader:
            width, height = reader.info.width // 2 * 2, reader.info.height // 2 * 2
            frames = [f.resized(width, height) for f in itertools.islice(reader, MAX_PICTURES)]
        return [*frames, *reversed(frames[1:-1])]

    @cached_property
    def jpegs(self) -> list[bytes]:
        """The pictures as JPEG."""
        return [encode_jpeg(picture) for picture in self.pictures]

    @cached_property
    def containers(self) -> dict[str, tuple[bytes, list[int]]]:
        """By codec: the bytes of one round, and where each picture ends."""
        return {name: live_container(self.pictures, self.fps, codec) for name, codec in LIVE_CODECS.items()}
