"""What is not taken is named as what it is, with what to do."""

from __future__ import annotations

import base64
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable

import av
import cv2
import numpy as np
import pytest

from stmixer.media.decode import VideoReader
from stmixer.media.errors import MediaError
from stmixer.media.limits import Limits

NO_PICTURE = "there is no picture in it"
Make = Callable[[bytes], bytes]


def sound(container: str, codec: str) -> bytes:
    """A second of silence."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        track = output.add_stream(codec, rate=44100)
        for number in range(40):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152 * 2), np.int16), format="s16", layout="stereo")
            silence.sample_rate, silence.pts = 44100, number * 1152
            output.mux(track.encode(silence))
        output.mux(track.encode(None))
    return target.getvalue()


def picture(kind: str) -> bytes:
    """Grey."""
    return bytes(cv2.imencode(kind, np.full((48, 64, 3), 90, np.uint8))[1].tobytes())


def packed(video: bytes, kind: str) -> bytes:
    """In an archive."""
    target = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("clip.mp4", video)
    else:
        with tarfile.open(fileobj=target, mode="w") as tar:
            entry = tarfile.TarInfo("clip.mp4")
            entry.size = len(video)
            tar.addfile(entry, io.BytesIO(video))
    return target.getvalue()


HLS, FETCHES = "an HLS or M3U playlist", "fetch other files"
M3U8 = "#EXTM3U\n#EXTINF:4,\nsegment0.ts\n"
SRT = b"1\r\n00:00:01,000 --> 00:00:02,500\r\nHello\r\n"
NAMED: dict[str, tuple[Make, str, str, str]] = {
    "MP3": (lambda _: sound("mp3", "libmp3lame"), "no_video", "an MP3", NO_PICTURE),
    "FLAC": (lambda _: sound("flac", "flac"), "no_video", "a FLAC file", NO_PICTURE),
    "WAV": (lambda _: sound("wav", "pcm_s16le"), "no_video", "a WAV file", NO_PICTURE),
    "AIFF": (lambda _: sound("aiff", "pcm_s16be"), "no_video", "an AIFF sound file", NO_PICTURE),
    "CAF": (lambda _: sound("caf", "pcm_s16le"), "no_video", "a CAF sound file", NO_PICTURE),
    "AAC": (lambda _: b"\xff\xf1\x50\x80" + bytes(2000), "no_video", "AAC sound", NO_PICTURE),
    "JPEG": (lambda _: picture(".jpg"), "no_video", "a JPEG picture", "one still picture is no video"),
    "PNG": (lambda _: picture(".png"), "no_video", "a PNG picture", "one still picture is no video"),
    "WebP": (lambda _: picture(".webp"), "no_video", "a WebP picture", "one still picture is no video"),
    "BMP": (lambda _: picture(".bmp"), "no_video", "a BMP picture", "one still picture is no video"),
    "PPM": (lambda _: picture(".ppm"), "no_video", "a PPM picture", "one still picture is no video"),
    "a pickle": (lambda _: pickle.dumps([1], 4), "unreadable", "a Python pickle", "send a video"),
    "TIFF": (lambda _: picture(".tiff"), "no_video", "a TIFF picture", "one still picture is no video"),
    "zip": (lambda video: packed(video, "zip"), "unreadable", "a ZIP archive", "unpack it"),
    "tar": (lambda video: packed(video, "tar"), "unreadable", "a tar archive", "unpack it"),
    "gzip": (gzip.compress, "unreadable", "a gzip archive", "unpack it"),
    "xz": (lzma.compress, "unreadable", "an xz archive", "unpack it"),
    "HLS": (lambda _: M3U8.encode(), "external_resource", HLS, "restream it as RTSP or MPEG-TS"),
    "HLS, UTF-16": (lambda _: M3U8.encode("utf-16"), "external_resource", HLS, FETCHES),
    "HLS, BOM": (lambda _: M3U8.encode("utf-8-sig"), "external_resource", HLS, FETCHES),
    "a shortcut": (
        lambda _: b"[InternetShortcut]\r\nURL=https://example.org/v.mp4\r\n",
        "external_resource", "a link to an address", "fetch other files",
    ),
    "SubRip": (lambda _: SRT, "no_video", "a subtitle file", NO_PICTURE),
    "WebVTT": (lambda _: b"WEBVTT\n\n00:01.000 --> 00:04.000\nHello\n", "no_video", "a subtitle file", NO_PICTURE),
    "a data URL": (
        lambda video: b"data:video/mp4;base64," + base64.b64encode(video),
        "unreadable", "a data URL", "decode what follows the comma from base64",
    ),
    "base64": (base64.encodebytes, "unreadable", "text, as if encoded in base64", "decode it"),
    "JSON": (lambda _: b'{"url": "https://example.org/v.mp4"}', "unreadable", "JSON", "send the bytes of the video"),
    "a web page": (lambda _: b"<!DOCTYPE html>\n<html>", "unreadable", "a web page", "not the page that shows it"),
    "NumPy": (lambda _: saved(np.zeros((4, 8, 8, 3), np.uint8)), "unreadable", "a NumPy array", "encode its pictures"),
}  # fmt: skip


def saved(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


@pytest.mark.parametrize("kind", NAMED)
def test_it_is_named(make_video: Callable[..., bytes], kind: str) -> None:
    make, code, what, advice = NAMED[kind]
    with pytest.raises(MediaError) as raised:
        VideoReader(io.BytesIO(make(make_video(3))), limits=Limits())
    assert (raised.value.code, raised.value.message.partition(":")[0]) == (code, f"this is {what}")
    assert advice in raised.value.message


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_an_mp4_that_broke_off_lacks_its_index(make_video: Callable[..., bytes], share: float) -> None:
    """A phone's battery, a copy that was not finished: the index is written last."""
    data = make_video(60)
    assert data.index(b"mdat") < data.index(b"moov")
    with pytest.raises(MediaError, match="index \\(moov\\) is missing") as raised:
        VideoReader(io.BytesIO(data[: int(data.index(b"moov") * share)]), limits=Limits())
    assert raised.value.code == "unreadable"


def test_an_mp4_whose_recorder_was_killed_lacks_its_index(make_video: Callable[..., bytes]) -> None:
    """The length of what it holds is written last, too."""
    data = make_video(60)
    at = data.index(b"mdat") - 4
    cut = data[:at] + bytes(4) + data[at + 4 : data.index(b"moov") - 4]
    with pytest.raises(MediaError, match="index \\(moov\\) is missing") as raised:
        VideoReader(io.BytesIO(cut), limits=Limits())
    assert raised.value.code == "unreadable"


def test_an_index_that_is_there_and_wrong_is_not_missing(make_video: Callable[..., bytes]) -> None:
    data = bytearray(make_video(9))
    at = data.index(b"stsd")
    data[at - 4 : at + 60] = b"\xff" * 64
    with pytest.raises(MediaError) as raised:
        VideoReader(io.BytesIO(data), limits=Limits())
    assert "index" not in raised.value.message


@pytest.mark.parametrize("first", [b"", b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix"], ids=["moof", "styp"])
def test_a_segment_without_its_beginning_is_named(make_video: Callable[..., bytes], first: bytes) -> None:
    """As players fetch them: `init.mp4`, and then `1.m4s`."""
    data = make_video(30, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    at = data.index(b"moof") - 4
    with pytest.raises(MediaError, match="put the initialisation segment before it") as raised:
        VideoReader(io.BytesIO(first + data[at:]), limits=Limits())
    assert raised.value.code == "unreadable"
    with VideoReader(io.BytesIO(data[:at] + first + data[at:]), limits=Limits()) as reader:
        assert len(list(reader)) == 30


def test_noise_is_nothing_in_particular() -> None:
    noise = np.random.default_rng(3).integers(0, 256, 9000, np.uint8).tobytes()
    for data in (noise, b"just some words\n" * 9):
        with pytest.raises(MediaError, match="cannot be read as a video") as raised:
            VideoReader(io.BytesIO(data), limits=Limits())
        assert raised.value.code == "unreadable"
