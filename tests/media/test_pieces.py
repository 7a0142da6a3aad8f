"""Pieces of longer recordings: segments of HLS and DASH, files that were cut, and a beginning with a later middle."""

import io
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import pytest

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits

Codec = Literal["libx264", "libvpx", "wmv2", "mjpeg", "flv"]
RATE, GOP = 25, 10
CONTAINERS: dict[str, tuple[Codec, dict[str, str]]] = {
    "mpegts": ("libx264", {}),
    "matroska": ("libx264", {"cluster_time_limit": "400"}),
    "webm": ("libvpx", {"cluster_time_limit": "400"}),
    "flv": ("flv", {}),
    "asf": ("wmv2", {}),
    "avi": ("mjpeg", {}),
    "mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
}


def recording(container: str, pictures: int = 100, starts_at_s: float = 0.0) -> bytes:
    """Grey pictures, each as light as its number says, every ``GOP``-th a keyframe."""
    codec, options = CONTAINERS[container]
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options) as output:
        track = output.add_stream(codec, rate=RATE)
        track.width, track.height = 160, 96
        track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        track.codec_context.gop_size, track.codec_context.max_b_frames = GOP, 0
        track.codec_context.time_base = Fraction(1, RATE)
        if codec == "libx264":
            track.options = {"preset": "ultrafast", "x264-params": "scenecut=0:log-level=none"}
        if codec == "libvpx":
            track.options = {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}
        if codec in ("wmv2", "flv", "mjpeg"):
            track.options = {"qscale": "2", "flags": "+qscale", "global_quality": "236"}
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), 40 + number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(starts_at_s * RATE) + number, Fraction(1, RATE)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


def seen(data: bytes) -> list[tuple[int, int]]:
    """Which pictures, and when in µs."""
    with VideoReader(io.BytesIO(data), limits=Limits()) as reader:
        return [(round(float(frame.rgb().mean())) - 40, frame.pts_us) for frame in reader]


def are(found: list[tuple[int, int]], first: int, last: int, tick_us: int = 1000) -> None:
    """All pictures from one to another, the first at 0."""
    assert [number for number, _ in found] == pytest.approx(list(range(first, last + 1)), abs=2)
    times = [number * 1_000_000 / RATE for number in range(last - first + 1)]
    assert [pts_us for _, pts_us in found] == pytest.approx(times, abs=tick_us)


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "avi"])  # which counts from 0
@pytest.mark.parametrize("starts_at_s", [700.0, 4000.0])
def test_a_segment_whose_clock_began_long_ago(container: str, starts_at_s: float) -> None:
    """Its start lies behind the limit of 600 s; its length is its own."""
    are(seen(recording(container, 50, starts_at_s)), 0, 49)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_that_ends_too_early(container: str) -> None:
    """What there is of it, to the picture before the cut."""
    data = recording(container)
    found = seen(data[: len(data) * 6 // 10])
    assert 40 <= len(found) <= 75
    are(found, 0, len(found) - 1)


def places(data: bytes, mark: bytes) -> list[int]:
    """Where these bytes are."""
    found, at = list[int](), data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


@pytest.mark.parametrize("container", ["matroska", "webm"])
@pytest.mark.parametrize("cluster", [3, 7])
def test_the_head_of_a_matroska_file_with_later_clusters(container: str, cluster: int) -> None:
    data = recording(container)
    clusters = places(data, b"\x1f\x43\xb6\x75")
    clusters = [at for at in clusters if data[at + 4] & 0xF0]  # not the seek head's mention of them
    piece = data[: clusters[0]] + data[clusters[cluster] :]
    found = seen(piece)
    are(found, 100 - len(found), 99)
    assert 100 - len(found) >= cluster * GOP - GOP


@pytest.mark.parametrize("fragment", [2, 5, 9])
def test_a_segment_of_dash_behind_its_head(fragment: int) -> None:
    """``init.mp4`` and one of the segments, as a player puts them together."""
    data = recording("mp4")
    fragments = [at - 4 for at in places(data, b"moof\0\0\0\x10mfhd")]
    assert len(fragments) == 10
    end = fragments[fragment + 1] if fragment < 9 else len(data)
    styp = b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix"
    are(seen(data[: fragments[0]] + styp + data[fragments[fragment] : end]), fragment * GOP, fragment * GOP + GOP - 1)


def test_segments_of_hls_put_behind_each_other() -> None:
    """Each starts where the one before it ended, but for the second, whose clock starts anew."""
    pieces = recording("mpegts", 20, 500), recording("mpegts", 20, 1.0), recording("mpegts", 20, 1.8)
    with VideoReader(io.BytesIO(b"".join(pieces)), limits=Limits()) as reader:
        times = [frame.pts_us for frame in reader]
        warnings = reader.warnings
    assert times == pytest.approx([number * 1_000_000 / RATE for number in range(60)], abs=12)
    assert warnings == ["times the timestamps start anew: 1; time goes on without a gap"]
