"""Containers as a live sender makes them, of pictures that say which one they are."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from ws_client import numbered

from stmixer.media.live import LiveCodec, live_container

KINDS: dict[str, tuple[str, LiveCodec]] = {
    "vp8": ("webm", "libvpx"),
    "vp9": ("webm", "libvpx-vp9"),
    "h264": ("mpegts", "libx264"),
}


def video(kind: str, frames: int, fps: int = 30) -> tuple[str, bytes, list[int]]:
    """The wire's codec name, the bytes, and how many of them there were after each frame."""
    container, codec = KINDS[kind]
    return container, *live_container((numbered(n) for n in range(frames)), fps, codec)


OPTIONS: dict[str, dict[str, object]] = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "log-level=none"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"},
    "mpeg2video": {},
}


def piece(first: int, count: int, codec: str = "libx264", pid: int | None = None) -> bytes:
    """Grey pictures, 25 a second of one clock, each as light as its number says, every 25th a keyframe."""
    target, options = io.BytesIO(), {} if pid is None else {"mpegts_start_pid": str(pid)}
    with av.open(target, "w", format="mpegts", options=options) as output:
        track = output.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt, track.options = 160, 96, "yuv420p", dict(OPTIONS[codec])
        track.codec_context.gop_size = 25
        for number in range(first, first + count):
            output.mux(track.encode(picture(number)))
        output.mux(track.encode(None))
    return target.getvalue()


def picture(number: int) -> av.VideoFrame:
    """As light as its number says, up to 200."""
    frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), 40 + number % 200, np.uint8), format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame
