"""A container as a live sender makes it: written once from front to back, every frame out at once."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.video.stream import VideoStream

LiveCodec = Literal["libvpx", "libvpx-vp9", "libx264"]

_CONTAINERS = {"libvpx": "webm", "libvpx-vp9": "webm", "libx264": "mpegts"}
_WEBM = {"live": "1", "cluster_time_limit": "0", "flush_packets": "1"}
_CODEC_OPTIONS: dict[str, dict[str, object]] = {
    "webm": {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"},
    "mpegts": {"preset": "ultrafast", "tune": "zerolatency"},
}


class _Pipe(io.RawIOBase):
    """Only written to: the muxer can neither seek back nor put a duration in."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, part: Any) -> int:
        self.data += part
        return len(part)


def live_container(pictures: Iterable[np.ndarray], fps: int, codec: LiveCodec) -> tuple[bytes, list[int]]:
    """Pictures, (H, W, 3) uint8 RGB of one even size, as WebM or MPEG-TS; how many bytes there were after each one."""
    container, pipe, ends = _CONTAINERS[codec], _Pipe(), []
    options = _WEBM if container == "webm" else {"flush_packets": "1"}
    with av.open(pipe, "w", format=container, options=options) as output:
        track: VideoStream | None = None
        for number, rgb in enumerate(pictures):
            if track is None:
                track = output.add_stream(codec, rate=fps)
                track.height, track.width = rgb.shape[:2]
                track.pix_fmt, track.options = "yuv420p", dict(_CODEC_OPTIONS[container])
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(track.encode(frame))
            ends.append(len(pipe.data))
        if track is not None:
            output.mux(track.encode(None))
    return bytes(pipe.data), ends
