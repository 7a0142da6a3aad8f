"""Live MPEG-TS taken up in its middle."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from stmixer.media.decode import VideoReader
from stmixer.media.limits import Limits


def transport_stream(pictures: int, codec: str) -> bytes:
    """Grey pictures, 25 a second, each as light as its number says, every 50th a keyframe."""
    target = io.BytesIO()
    with av.open(target, "w", format="mpegts") as output:
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


def numbers(data: bytes) -> list[int]:
    """Which pictures are read."""
    with VideoReader(io.BytesIO(data), limits=Limits(), low_latency=True) as reader:
        return [round(float(frame.rgb().mean())) - 40 for frame in reader]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_it_begins_with_the_next_keyframe(codec: str, share: float) -> None:
    """The cut falls anywhere, also within a packet."""
    data = transport_stream(150, codec)
    cut = int(len(data) * share) + 77
    found = numbers(data[cut:])
    assert found[-1] == pytest.approx(149, abs=1)
    assert len(found) >= 50
    assert found == sorted(found)
