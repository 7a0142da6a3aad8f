"""Counters that run over within a file, through FFmpeg: 33 bits of MPEG's clocks, 16 of a block within its cluster."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from live_video import picture

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits

TURN = 1 << 33


def over_the_end(container: str, codec: str) -> bytes:
    """100 pictures, 25 a second, the 51st of which is at the end of the clock."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        track = output.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        track.codec_context.max_b_frames = 0
        track.options = {"preset": "ultrafast", "tune": "zerolatency"} if codec == "libx264" else {}
        packets = [packet for number in range(100) for packet in track.encode(picture(number))]
        for number, packet in enumerate([*packets, *track.encode(None)]):
            packet.time_base = Fraction(1, 90_000)
            packet.pts = packet.dts = TURN + (number - 50) * 3600
            output.mux(packet)
    return target.getvalue()


class Pipe:
    """What a live sender's bytes come through."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, 4000))


def times(data: bytes, *, live: bool) -> tuple[list[int], list[str]]:
    """µs of each picture, and the warnings."""
    source = Pipe(data) if live else io.BytesIO(data)
    with VideoReader(source, limits=Limits(), low_latency=live) as reader:  # type: ignore[arg-type]
        found = [frame.pts_us for frame in reader]
    return found, reader.warnings


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
@pytest.mark.parametrize(("container", "codec"), [("mpegts", "libx264"), ("mpeg", "mpeg2video")])
def test_mpegs_clock(container: str, codec: str, live: bool) -> None:
    found, warnings = times(over_the_end(container, codec), live=live)
    assert found == [40_000 * number for number in range(100)]
    assert warnings == []


def element(identity: str, content: bytes) -> bytes:
    """Of EBML, its size in eight bytes."""
    return bytes.fromhex(identity) + b"\x01" + len(content).to_bytes(7) + content


def one_cluster(seconds: int) -> bytes:
    """A Matroska file of JPEGs, ten a second, whose only cluster is longer than its blocks can count."""
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    size = element("b0", (64).to_bytes(1)) + element("ba", (48).to_bytes(1))
    track = element("d7", b"\x01") + element("73c5", b"\x01") + element("83", b"\x01") + element("86", b"V_MJPEG")
    blocks = b"".join(
        element("a3", b"\x81" + (100 * number % (1 << 16)).to_bytes(2) + b"\x80" + jpeg)
        for number in range(10 * seconds)
    )
    head = element("4286", b"\x01") + element("42f7", b"\x01") + element("42f2", b"\x04") + element("42f3", b"\x08")
    head += element("4282", b"matroska") + element("4287", b"\x04") + element("4285", b"\x02")
    segment = element("1549a966", element("2ad7b1", (1_000_000).to_bytes(4)))
    segment += element("1654ae6b", element("ae", track + element("e0", size)))
    segment += element("1f43b675", element("e7", b"\0") + blocks)
    return element("1a45dfa3", head) + element("18538067", segment)


def test_a_matroska_cluster() -> None:
    """From 32.8 s on a block says that it is 32.8 s before its cluster; and all over again."""
    found, warnings = times(one_cluster(200), live=False)
    assert found == [100_000 * number for number in range(2000)]
    assert warnings == []
