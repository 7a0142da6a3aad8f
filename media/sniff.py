"""What is not taken, named as what it is, by its first bytes."""

from __future__ import annotations

import codecs
import math
import re

from stmixer.media.errors import Code, MediaError

_SEND = "send the video itself"
_FETCHES = f"it would have us fetch other files; {_SEND}, or restream it as RTSP or MPEG-TS"
_NO_PICTURE = "there is no picture in it; send a video"
ONE_PICTURE = "one still picture is no video; send a video, or pictures as a JPEG stream over WebSocket"
_NO_VIDEO = "send a video"
_UNPACK = "unpack it, and send the video in it"
_EXPORT = "export it as a video, and send that"
_BYTES = "send the bytes of the video themselves"

# (first bytes, where they lie, error code, what it is, what to do)
_MAGIC: tuple[tuple[bytes, int, Code, str, str], ...] = (
    (b"ID3", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xfb", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xf3", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xf1", 0, "no_video", "AAC sound", _NO_PICTURE),
    (b"\xff\xf9", 0, "no_video", "AAC sound", _NO_PICTURE),
    (b"fLaC", 0, "no_video", "a FLAC file", _NO_PICTURE),
    (b"WAVE", 8, "no_video", "a WAV file", _NO_PICTURE),
    (b"\xff\xf2", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xfa", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"AIFF", 8, "no_video", "an AIFF sound file", _NO_PICTURE),
    (b"AIFC", 8, "no_video", "an AIFF sound file", _NO_PICTURE),
    (b"caff", 0, "no_video", "a CAF sound file", _NO_PICTURE),
    (b"#!AMR", 0, "no_video", "AMR sound", _NO_PICTURE),
    (b"MThd", 0, "no_video", "a MIDI file", _NO_PICTURE),
    (b".snd", 0, "no_video", "a sound file", _NO_PICTURE),
    (b"\x89PNG\r\n\x1a\n", 0, "no_video", "a PNG picture", ONE_PICTURE),
    (b"WEBP", 8, "no_video", "a WebP picture", ONE_PICTURE),
    (b"BM", 0, "no_video", "a BMP picture", ONE_PICTURE),
    (b"II*\0", 0, "no_video", "a TIFF picture", ONE_PICTURE),
    (b"MM\0*", 0, "no_video", "a TIFF picture", ONE_PICTURE),
    (b"8BPS", 0, "no_video", "a Photoshop picture", ONE_PICTURE),
    (b"\0\0\0\x0cJXL ", 0, "no_video", "a JPEG XL picture", ONE_PICTURE),
    (b"\xff\x0a", 0, "no_video", "a JPEG XL picture", ONE_PICTURE),
    (b"\0\0\0\x0cjP  ", 0, "no_video", "a JPEG 2000 picture", ONE_PICTURE),
    (b"P6\n", 0, "no_video", "a PPM picture", ONE_PICTURE),
    (b"ftypheic", 4, "no_video", "a HEIC picture", ONE_PICTURE),
    (b"ftypheix", 4, "no_video", "a HEIC picture", ONE_PICTURE),
    (b"ftypmif1", 4, "no_video", "a HEIF picture", ONE_PICTURE),
    (b"ftypavif", 4, "no_video", "an AVIF picture", ONE_PICTURE),
    (b"%PDF", 0, "unreadable", "a PDF", _NO_VIDEO),
    (b"PK\x03\x04", 0, "unreadable", "a ZIP archive", _UNPACK),
    (b"PK\x05\x06", 0, "unreadable", "an empty ZIP archive", _NO_VIDEO),
    (b"\x1f\x8b", 0, "unreadable", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "unreadable", "a 7-Zip archive", _UNPACK),
    (b"Rar!", 0, "unreadable", "a RAR archive", _UNPACK),
    (b"\xfd7zXZ\0", 0, "unreadable", "an xz archive", _UNPACK),
    (b"BZh", 0, "unreadable", "a bzip2 archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "unreadable", "a Zstandard archive", _UNPACK),
    (b"ustar", 257, "unreadable", "a tar archive", _UNPACK),
    (b"CD001", 32769, "unreadable", "a disc image", "send a video that is on it, for instance a .vob or .m2ts"),
    (b"FWS", 0, "unreadable", "a Flash animation (SWF)", _EXPORT),
    (b"CWS", 0, "unreadable", "a Flash animation (SWF)", _EXPORT),
    (b"BLENDER", 0, "unreadable", "a Blender project", _EXPORT),
    (b"MZ", 0, "unreadable", "a program for Windows", _NO_VIDEO),
    (b"\x7fELF", 0, "unreadable", "a program for Linux", _NO_VIDEO),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0, "unreadable", "an Office document", _NO_VIDEO),
    (b"SQLite format 3\0", 0, "unreadable", "an SQLite database", _NO_VIDEO),
    (b"\x89HDF\r\n", 0, "unreadable", "an HDF5 file", _NO_VIDEO),
    (b"\x93NUMPY", 0, "unreadable", "a NumPy array", "encode its pictures as a video, and send that"),
    (b"\x80\x04\x95", 0, "unreadable", "a Python pickle", _NO_VIDEO),
    (b"\x80\x05\x95", 0, "unreadable", "a Python pickle", _NO_VIDEO),
    (b"d8:announce", 0, "external_resource", "a torrent", _FETCHES),
    (
        b"version https://git-lfs",
        0,
        "unreadable",
        "a Git LFS pointer",
        "fetch the file that it stands for (git lfs pull)",
    ),
    (b"WEBVTT", 0, "no_video", "a subtitle file", _NO_PICTURE),
)
_TEXTS: tuple[tuple[bytes, Code, str, str], ...] = (
    (b"#extm3u", "external_resource", "an HLS or M3U playlist", _FETCHES),
    (b"ffconcat", "external_resource", "an FFmpeg concat list", _FETCHES),
    (b"[playlist]", "external_resource", "a PLS playlist", _FETCHES),
    (b"[reference]", "external_resource", "an ASF reference file", _FETCHES),
    (b"v=0", "external_resource", "an SDP description", _FETCHES),
    (b"rtsp://", "external_resource", "an address", _FETCHES),
    (b"http://", "external_resource", "an address", _FETCHES),
    (b"https://", "external_resource", "an address", _FETCHES),
    (b"rtmp://", "external_resource", "an address", _FETCHES),
    (b"srt://", "external_resource", "an address", _FETCHES),
    (b"udp://", "external_resource", "an address", _FETCHES),
    (b"file://", "external_resource", "an address", _FETCHES),
    (b"magnet:", "external_resource", "an address", _FETCHES),
    (b"[internetshortcut]", "external_resource", "a link to an address", _FETCHES),
    (b"[script info]", "no_video", "a subtitle file", _NO_PICTURE),
    (b"data:", "unreadable", "a data URL", f"decode what follows the comma from base64, and {_BYTES}"),
)
_STREAMED: tuple[tuple[bytes, int, str, str], ...] = (
    (b"\x1aE\xdf\xa3", 0, "WebM", "webm"),
    (b"ftyp", 4, "an MP4", "mp4"),
    (b"styp", 4, "a piece of an MP4", "mp4"),
    (b"moof", 4, "a piece of an MP4", "mp4"),
)
"""(first bytes, where they lie, what it is, and what a live stream of it is begun with)."""
_SHAPES = ((4, 3), (16, 9), (3, 2), (5, 4), (8, 5), (11, 9), (1, 1), (3, 4), (9, 16))
_LEAST_RAW = 48
"""Pixels across."""
_PIECES = (b"styp", b"moof", b"sidx")
_SUBRIP = re.compile(rb"\d+\s*\n\d\d:\d\d:\d\d[,.]\d{3} -->")
_JSON = re.compile(rb"[{\[]\s*[\"{\[]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{400,}={0,2}\s*")
_LETTERS = 20
"""Of base64's 64 that there are at least; one alone may be a grey picture."""
_MARKUP: tuple[tuple[bytes, Code, str, str], ...] = (
    (b"<mpd", "external_resource", "a DASH manifest", _FETCHES),
    (b"<smoothstreamingmedia", "external_resource", "a Smooth Streaming manifest", _FETCHES),
    (b"<asx", "external_resource", "an ASX playlist", _FETCHES),
    (b"<smil", "external_resource", "a SMIL playlist", _FETCHES),
    (b"<playlist", "external_resource", "an XSPF playlist", _FETCHES),
    (b"<fcpxml", "unreadable", "an editing project", _EXPORT),
    (b"<xmeml", "unreadable", "an editing project", _EXPORT),
    (b"<mlt", "unreadable", "an editing project", _EXPORT),
    (b"<tt ", "no_video", "a subtitle file", _NO_PICTURE),
    (b"<svg", "no_video", "an SVG picture", ONE_PICTURE),
    (b"<html", "unreadable", "a web page", "send the video, not the page that shows it"),
    (b"<!doctype html", "unreadable", "a web page", "send the video, not the page that shows it"),
)


def sniff(head: bytes) -> MediaError | None:
    """What a file that could not be read is, if its first bytes (4 KiB are enough) show it to be no video."""
    found = _found(head)
    return None if found is None else MediaError(found[0], f"this is {found[1]}: {found[2]}")


def named(head: bytes) -> str | None:
    """The same, as a noun."""
    found = _found(head)
    return None if found is None else found[1]


def streamed(head: bytes) -> tuple[str, str] | None:
    """What a container that may be streamed is, as a noun, and its ``codec`` over WebSocket; None for anything else."""
    if head[:1] == b"G" and head[188:189] == b"G":
        return "MPEG-TS", "mpegts"
    return next(((what, codec) for magic, at, what, codec in _STREAMED if head[at : at + len(magic)] == magic), None)


def raw_pixels(size: int) -> str | None:
    """Of what pixels so many bytes would be a picture of a usual shape: of RGB, RGBA, YUV or grey; None: of none."""
    for across, down in _SHAPES:
        for doubled in (6, 8, 3, 4, 2):  # half bytes a pixel
            pixels, rest = divmod(2 * size, doubled)
            scale = math.isqrt(pixels // (across * down))
            width, height = scale * across, scale * down
            is_all = not rest and width * height == pixels
            if is_all and width >= _LEAST_RAW and not width % 8 and not height % 8:
                return f"{width} x {height} of {doubled / 2:g} bytes each"
    return None


def is_piece(head: bytes) -> bool:
    """Whether it is a segment of fragmented MP4 (DASH, HLS) alone, without what says how to read it."""
    return head[4:8] in _PIECES and b"moov" not in head


def _found(head: bytes) -> tuple[Code, str, str] | None:
    for magic, at, code, what, advice in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return code, what, advice
    text = _text(head[:4096])
    small = text.lower()
    for start, code, what, advice in _TEXTS:
        if small.startswith(start):
            return code, what, advice
    if text.startswith(b"<"):
        for mark, code, what, advice in _MARKUP:
            if mark in small:
                return code, what, advice
    if _SUBRIP.match(text):
        return "no_video", "a subtitle file", _NO_PICTURE
    if _JSON.match(text):
        return "unreadable", "JSON", _BYTES
    if _BASE64.fullmatch(text) and len(set(text)) >= _LETTERS:
        return "unreadable", "text, as if encoded in base64", f"decode it, and {_BYTES}"
    return None


def _text(head: bytes) -> bytes:
    """In UTF-8, without its byte order mark, where it is text; as shells and spreadsheets of Windows write it too."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head[: len(head) // 2 * 2].decode("utf-16", "replace").encode()
    return head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
