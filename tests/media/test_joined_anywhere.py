"""Live MPEG-TS and fragmented MP4 taken up in their middle."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits

FRAGMENTED = {"movflags": "empty_moov+default_base_moof", "frag_duration": "200000"}
"""Fragments of five pictures: most begin with none that can be decoded alone."""


def live_stream(pictures: int, codec: str, container: str = "mpegts") -> bytes:
    """Grey pictures, 25 a second, each as light as its number says, every 50th a keyframe."""
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=FRAGMENTED if container == "mp4" else {}) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.gop_size = 50
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": "scenecut=0:log-level=none"}
        for number in range(pictures):
            picture = np.full((96, 160, 3), 40 + number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


class Pipe:
    """What a live sender's bytes come through: it cannot go back, and gives less than was asked for."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self._data, self._most = io.BytesIO(data), most

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._most))


def numbers(data: bytes, most: int = 1 << 30, **reading: bool) -> list[int]:
    """Which pictures are read."""
    pipe = Pipe(data, most)
    with VideoReader(pipe, limits=Limits(), low_latency=True, **reading) as reader:  # type: ignore[arg-type]
        return [round(float(frame.rgb().mean())) - 40 for frame in reader]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_it_begins_with_the_next_keyframe(codec: str, share: float) -> None:
    """The cut falls anywhere, also within a packet."""
    data = live_stream(150, codec)
    cut = int(len(data) * share) + 77
    found = numbers(data[cut:])
    assert found[-1] == pytest.approx(149, abs=1)
    assert len(found) >= 50
    assert found == sorted(found)


@pytest.fixture(scope="module")
def fragmented() -> bytes:
    """150 pictures; keyframes are those of 0, 50 and 100."""
    return live_stream(150, "libx264", "mp4")


def boxes(data: bytes, kind: bytes) -> list[int]:
    """Where the boxes of a kind begin, of those that lie in no other."""
    found, at = [], 0
    while at < len(data):
        if data[at + 4 : at + 8] == kind:
            found.append(at)
        at += int.from_bytes(data[at : at + 4])
    return found


def test_fragmented_mp4_from_its_beginning_is_whole(fragmented: bytes) -> None:
    assert len(boxes(fragmented, b"moof")) >= 25
    for most in (7, 1000, 1 << 30):
        assert numbers(fragmented, most, fragmented_mp4=True) == pytest.approx([*range(150)], abs=1)


@pytest.mark.parametrize("where", ["moof", "within moof", "mdat", "within mdat"])
def test_behind_its_tables_it_may_be_joined_anywhere(fragmented: bytes, where: str) -> None:
    """A relay keeps the tables, and goes on wherever the sender is; the next keyframe is that of 50 or 100."""
    tables = fragmented[: boxes(fragmented, b"moof")[0]]
    for fragment in (6, 14):
        cut = boxes(fragmented, where.encode()[-4:])[fragment] + (101 if "within" in where else 0)
        found = numbers(tables + fragmented[cut:], 4000, fragmented_mp4=True)
        assert found == pytest.approx([*range(50 if fragment == 6 else 100, 150)], abs=1)


@pytest.mark.parametrize("where", ["moof", "mdat", "within mdat"])
def test_without_its_tables_it_waits_for_those_of_the_next_beginning(fragmented: bytes, where: str) -> None:
    cut = boxes(fragmented, where.encode()[-4:])[14] + (101 if "within" in where else 0)
    for most in (7, 1 << 30):
        assert numbers(fragmented[cut:] + fragmented, most, fragmented_mp4=True) == pytest.approx([*range(150)], abs=1)
    with pytest.raises(MediaError, match="lacks its beginning") as error:
        numbers(fragmented[cut:], fragmented_mp4=True)
    assert error.value.code == "unreadable"


@pytest.mark.parametrize("container", ["mpegts", "matroska", "flv"])
def test_what_is_said_to_be_mp4_and_is_none_is_read_as_what_it_is(container: str) -> None:
    found = numbers(live_stream(60, "libx264", container), 500, fragmented_mp4=True)
    assert found == pytest.approx([*range(60)], abs=1)
