"""What is not taken, named as what it is, by its first bytes."""

from __future__ import annotations

from stmixer.media.errors import Code, MediaError

_SEND = "send the video itself"
_FETCHES = f"it would have us fetch other files; {_SEND}, or restream it as RTSP or MPEG-TS"
_NO_PICTURE = "there is no picture in it; send a video"
_ONE_PICTURE = "one still picture is no video; send a video, or pictures as a JPEG stream over WebSocket"
_NO_VIDEO = "send a video"

# (first bytes, where they lie, error code, what it is, what to do)
_MAGIC: tuple[tuple[bytes, int, Code, str, str], ...] = (
    (b"ID3", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xfb", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xf3", 0, "no_video", "an MP3", _NO_PICTURE),
    (b"\xff\xf1", 0, "no_video", "AAC sound", _NO_PICTURE),
    (b"\xff\xf9", 0, "no_video", "AAC sound", _NO_PICTURE),
    (b"fLaC", 0, "no_video", "a FLAC file", _NO_PICTURE),
    (b"WAVE", 8, "no_video", "a WAV file", _NO_PICTURE),
    (b"#!AMR", 0, "no_video", "AMR sound", _NO_PICTURE),
    (b"MThd", 0, "no_video", "a MIDI file", _NO_PICTURE),
    (b".snd", 0, "no_video", "a sound file", _NO_PICTURE),
    (b"\x89PNG\r\n\x1a\n", 0, "no_video", "a PNG picture", _ONE_PICTURE),
    (b"WEBP", 8, "no_video", "a WebP picture", _ONE_PICTURE),
    (b"BM", 0, "no_video", "a BMP picture", _ONE_PICTURE),
    (b"II*\0", 0, "no_video", "a TIFF picture", _ONE_PICTURE),
    (b"MM\0*", 0, "no_video", "a TIFF picture", _ONE_PICTURE),
    (b"ftypheic", 4, "no_video", "a HEIC picture", _ONE_PICTURE),
    (b"ftypavif", 4, "no_video", "an AVIF picture", _ONE_PICTURE),
    (b"%PDF", 0, "unreadable", "a PDF", _NO_VIDEO),
    (b"PK\x03\x04", 0, "unreadable", "a ZIP archive", "unpack it, and send the video in it"),
    (b"\x1f\x8b", 0, "unreadable", "a gzip archive", "unpack it, and send the video in it"),
    (b"7z\xbc\xaf\x27\x1c", 0, "unreadable", "a 7-Zip archive", "unpack it, and send the video in it"),
    (b"Rar!", 0, "unreadable", "a RAR archive", "unpack it, and send the video in it"),
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
)
_MARKUP: tuple[tuple[bytes, Code, str, str], ...] = (
    (b"<mpd", "external_resource", "a DASH manifest", _FETCHES),
    (b"<smoothstreamingmedia", "external_resource", "a Smooth Streaming manifest", _FETCHES),
    (b"<asx", "external_resource", "an ASX playlist", _FETCHES),
    (b"<smil", "external_resource", "a SMIL playlist", _FETCHES),
    (b"<svg", "no_video", "an SVG picture", _ONE_PICTURE),
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


def _found(head: bytes) -> tuple[Code, str, str] | None:
    for magic, at, code, what, advice in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return code, what, advice
    text = head[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, code, what, advice in _TEXTS:
        if text.startswith(start):
            return code, what, advice
    if text.startswith(b"<"):
        for mark, code, what, advice in _MARKUP:
            if mark in text:
                return code, what, advice
    return None
