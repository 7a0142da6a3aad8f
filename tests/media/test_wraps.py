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


Cluster = tuple[int, range]
"""Its time, and how far from that each of its blocks is; in ticks."""


def matroska(clusters: list[Cluster], tick_ns: int = 1_000_000, every_ns: int = 0) -> bytes:
    """JPEGs; a block's place in its cluster has 16 bits with a sign, and begins anew where that is not enough.
    ``every_ns``: from one to the next, where the file says that."""
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    size = element("b0", (64).to_bytes(1)) + element("ba", (48).to_bytes(1))
    track = element("d7", b"\x01") + element("73c5", b"\x01") + element("83", b"\x01") + element("86", b"V_MJPEG")
    track += element("23e383", every_ns.to_bytes(4)) if every_ns else b""
    head = element("4286", b"\x01") + element("42f7", b"\x01") + element("42f2", b"\x04") + element("42f3", b"\x08")
    head += element("4282", b"matroska") + element("4287", b"\x04") + element("4285", b"\x02")
    segment = element("1549a966", element("2ad7b1", tick_ns.to_bytes(4)))
    segment += element("1654ae6b", element("ae", track + element("e0", size)))
    for begin, places in clusters:
        blocks = [element("a3", b"\x81" + (at % (1 << 16)).to_bytes(2) + b"\x80" + jpeg) for at in places]
        segment += element("1f43b675", element("e7", begin.to_bytes(4)) + b"".join(blocks))
    return element("1a45dfa3", head) + element("18538067", segment)


LEAST, MOST = -(1 << 15), (1 << 15) - 1
VALID: dict[str, tuple[list[Cluster], int]] = {
    "as long as milliseconds allow": ([(32_700 * n, range(0, 32_700, 100)) for n in range(4)], 1_000_000),
    "around their own time": ([(32_700 + 65_500 * n, range(-32_700, 32_800, 100)) for n in range(3)], 1_000_000),
    "of 300 s, of 10 ms a tick": ([(0, range(0, 30_000, 10))], 10_000_000),
    "of 300 s, around its own time": ([(15_000, range(-15_000, 15_000, 10))], 10_000_000),
}  # fmt: skip


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
@pytest.mark.parametrize("kind", VALID)
def test_clusters_as_long_as_they_may_be(kind: str, live: bool) -> None:
    """RFC 9559, 10.2: all that 16 bits with a sign hold; so over 32.8 s of a cluster only where ticks are longer."""
    clusters, tick_ns = VALID[kind]
    assert all(places[0] >= LEAST and places[-1] <= MOST for _, places in clusters)
    found, warnings = times(matroska(clusters, tick_ns), live=live)
    assert found == [100_000 * number for number in range(sum(len(places) for _, places in clusters))]
    assert warnings == []


TOO_LONG: dict[str, list[Cluster]] = {
    "one from zero": [(0, range(0, 200_000, 100))],
    "one from 40 s": [(40_000, range(0, 200_000, 100))],
    "each by 10 s": [(42_000 * n, range(0, 42_000, 100)) for n in range(5)],
    "each by 10 s, after a day": [(86_400_000 + 42_000 * n, range(0, 42_000, 100)) for n in range(5)],
}


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
@pytest.mark.parametrize("every_ns", [0, 100_000_000], ids=["", "the rate is said"])
@pytest.mark.parametrize("kind", TOO_LONG)
def test_clusters_that_are_longer_than_their_blocks_can_count(kind: str, every_ns: int, live: bool) -> None:
    """No valid writer makes them. From 32.8 s on a block says that it is 32.8 s before its cluster, and all over again;
    where that would be before zero, FFmpeg has no time for it."""
    clusters = TOO_LONG[kind]
    found, warnings = times(matroska(clusters, every_ns=every_ns), live=live)
    assert found == [100_000 * number for number in range(sum(len(places) for _, places in clusters))]
    assert all(line.startswith("frames without a timestamp: ") for line in warnings)
