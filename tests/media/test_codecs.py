"""Which codecs are decoded: those that are listed, and no other, whatever FFmpeg could do besides."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits
from stmixer.media.probe import DECODERS

TAKEN = [
    ("libx264", "matroska", "yuv420p"), ("libx264", "mov", "yuv420p"), ("libx265", "mp4", "yuv420p"),
    ("libvpx", "webm", "yuv420p"), ("libvpx-vp9", "webm", "yuv420p"), ("mpeg1video", "mpeg", "yuv420p"),
    ("mpeg2video", "mpegts", "yuv420p"), ("mpeg4", "avi", "yuv420p"), ("mjpeg", "avi", "yuvj420p"),
    ("prores_ks", "mov", "yuv422p10le"), ("ffv1", "matroska", "yuv420p"), ("rawvideo", "avi", "yuv420p"),
    ("h263", "3gp", "yuv420p"), ("flv", "flv", "yuv420p"), ("msmpeg4v2", "avi", "yuv420p"),
    ("msmpeg4", "avi", "yuv420p"), ("wmv1", "asf", "yuv420p"), ("wmv2", "asf", "yuv420p"),
    ("jpeg2000", "mov", "yuv420p"), ("png", "mov", "rgb24"), ("apng", "apng", "rgb24"), ("gif", "gif", "rgb8"),
    ("cinepak", "avi", "rgb24"), ("svq1", "mov", "yuv410p"), ("msvideo1", "avi", "rgb555le"),
    ("huffyuv", "avi", "yuv422p"), ("ffvhuff", "avi", "yuv420p"), ("v210", "mov", "yuv422p10le"),
]  # fmt: skip
"""What PyAV's FFmpeg can also write, so that something is there to be read."""

REFUSED = [
    ("utvideo", "avi", "yuv420p", "utvideo"), ("magicyuv", "avi", "yuv420p", "magicyuv"),
    ("flashsv", "flv", "bgr24", "flashsv"), ("qtrle", "mov", "rgb24", "qtrle"), ("zmbv", "avi", "bgr0", "zmbv"),
    ("asv2", "avi", "yuv420p", "asv2"), ("snow", "avi", "yuv420p", "snow"),
]  # fmt: skip


def written(encoder: str, container: str, pixels: str, frames: int = 5) -> bytes:
    """A video of 176 x 144, a size that even H.263 has."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        track = output.add_stream(encoder, rate=25)
        track.width, track.height, track.pix_fmt = 176, 144, pixels
        track.codec_context.options = {"strict": "-2"}  # some are experimental
        for number in range(frames):
            picture = np.full((144, 176, 3), 40 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return target.getvalue()


def made(encoder: str, container: str, pixels: str) -> bytes:
    """The same; skips where this FFmpeg has no such encoder."""
    if encoder not in av.codec.codecs_available:
        pytest.skip(f"no encoder {encoder} in this FFmpeg")
    return written(encoder, container, pixels)


@pytest.mark.parametrize(("encoder", "container", "pixels"), TAKEN)
def test_a_listed_codec_is_read(encoder: str, container: str, pixels: str) -> None:
    with VideoReader(io.BytesIO(made(encoder, container, pixels)), limits=Limits()) as reader:
        frames = sum(1 for _ in reader)
    assert (round(reader.info.width / reader.info.sample_aspect_ratio), reader.info.height, frames) == (176, 144, 5)
    assert reader.dropped == {}


@pytest.mark.parametrize(("encoder", "container", "pixels", "name"), REFUSED)
def test_any_other_codec_is_named_in_the_error(encoder: str, container: str, pixels: str, name: str) -> None:
    with pytest.raises(MediaError, match=f"encoded as {name} is not taken") as raised:
        VideoReader(io.BytesIO(made(encoder, container, pixels)), limits=Limits())
    assert raised.value.code == "unsupported_codec"


def test_another_track_is_read_where_the_first_has_such_a_codec() -> None:
    target = io.BytesIO()
    sources = [
        av.open(io.BytesIO(written(*how))) for how in (("utvideo", "avi", "yuv420p"), ("ffv1", "avi", "yuv420p"))
    ]
    with av.open(target, "w", format="avi") as output:
        tracks = [output.add_stream_from_template(source.streams.video[0]) for source in sources]
        for source, track in zip(sources, tracks, strict=True):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = track
                    output.mux(packet)
            source.close()
    with VideoReader(io.BytesIO(target.getvalue()), limits=Limits()) as reader:
        assert reader.info.codec == "ffv1"
        assert sum(1 for _ in reader) == 5


def test_ffmpeg_itself_decodes_no_sound() -> None:
    """Not even to learn what a container does not say of it, as it does when it opens one."""
    assert all(av.Codec(name, "r").type == "video" for name in DECODERS.split(","))
    assert len(DECODERS.split(",")) == len(set(DECODERS.split(","))) < 60
