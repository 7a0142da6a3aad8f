"""What a container crops off its picture: Matroska's PixelCrop and MP4's clean aperture.

FFmpeg's libraries read both and leave them to programs, which PyAV gives no way to. Everything here is untrusted: what
is malformed crops nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from stmixer.media.display import WHOLE, Crop
from stmixer.media.ebml import SEGMENT, elements
from stmixer.media.source import ByteSource, SeekableByteSource

MAX_HEADER = 8 << 20
"""Bytes of an MP4's index that are looked at."""
_MAX_BOXES = 10_000

_TRACKS, _ENTRY, _VIDEO = 0x1654AE6B, 0xAE, 0xE0
_PIXEL_CROP = {0x54CC: "left", 0x54BB: "top", 0x54DD: "right", 0x54AA: "bottom"}
_VISUAL_ENTRY_BYTES = 78


@dataclass(frozen=True, slots=True)
class TrackAt:
    """Which of a container's tracks: its number among all, from 0, and the one that it calls itself by."""

    index: int
    id: int


def container_crop(source: ByteSource, container: str, track: TrackAt, width: int, height: int) -> Crop:
    """What is cropped off the track's pictures of this size; leaves the source where it was.

    Args:
        source: from which FFmpeg has read the container's header.
        container: FFmpeg's name of it.
    """
    try:
        if "matroska" in container:
            crop = _pixel_crop(bytes(source.head), track.index)
        elif "mp4" in container:
            crop = _clean_aperture(_movie_box(source), track.id, width, height)
        else:
            return WHOLE
    except (struct.error, ValueError, IndexError, ZeroDivisionError, OSError):
        return WHOLE
    return crop if crop.leaves(width, height) else WHOLE


# -- Matroska


def _pixel_crop(head: bytes, index: int) -> Crop:
    for identity, start, end in elements(head, 0, len(head)):
        if identity != SEGMENT:
            continue
        for inner, at, stop in elements(head, start, end):
            if inner == _TRACKS:
                entries = [(a, b) for kind, a, b in elements(head, at, stop) if kind == _ENTRY]
                return _crop_of_entry(head, *entries[index])
    return WHOLE


def _crop_of_entry(head: bytes, start: int, end: int) -> Crop:
    for kind, at, stop in elements(head, start, end):
        if kind == _VIDEO:
            inside = elements(head, at, stop)
            return Crop(**{_PIXEL_CROP[k]: int.from_bytes(head[a:b]) for k, a, b in inside if k in _PIXEL_CROP})
    return WHOLE


# -- MP4


def _movie_box(source: ByteSource) -> bytes:
    """The content of ``moov``, wherever it lies; of a source that cannot be wound, if it is among the first bytes."""
    for kind, start, end in _boxes(bytes(source.head), 0, len(source.head)):
        if kind == b"moov" and end <= len(source.head):
            return bytes(source.head[start:end])
    if not isinstance(source, SeekableByteSource):
        return b""
    before = source.tell()
    try:
        return _movie_box_further_on(source)
    finally:
        source.seek(before)


def _movie_box_further_on(source: SeekableByteSource) -> bytes:
    at = 0
    for _ in range(_MAX_BOXES):
        source.seek(at)
        head = source.read(16)
        if len(head) < 8:
            break
        size, kind = struct.unpack_from(">I4s", head)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", head, 8), 16
        if kind == b"moov":
            source.seek(at + header)
            return source.read(min(max(size - header, 0), MAX_HEADER))
        if size < header:
            break
        at += size
    return b""


def _clean_aperture(movie: bytes, track_id: int, width: int, height: int) -> Crop:
    for kind, start, end in _boxes(movie, 0, len(movie)):
        if kind == b"trak" and _track_id(movie, start, end) == track_id:
            at = _path(movie, start, end, b"mdia", b"minf", b"stbl", b"stsd")
            if at is None:
                return WHOLE
            for _, entry, stop in _boxes(movie, at[0] + 8, at[1]):
                for box, inner, _ in _boxes(movie, entry + _VISUAL_ENTRY_BYTES, stop):
                    if box == b"clap":
                        return _aperture(movie, inner, width, height)
    return WHOLE


def _aperture(movie: bytes, at: int, width: int, height: int) -> Crop:
    numbers = struct.unpack_from(">IIIIiIiI", movie, at)
    wide, high, right_of_middle, below_middle = (
        Fraction(n, d) for n, d in zip(numbers[::2], numbers[1::2], strict=True)
    )
    left, top = round((width - wide) / 2 + right_of_middle), round((height - high) / 2 + below_middle)
    right, bottom = width - round(wide) - left, height - round(high) - top
    return Crop(*(max(side, 0) for side in (left, top, right, bottom)))


def _track_id(movie: bytes, start: int, end: int) -> int | None:
    at = _path(movie, start, end, b"tkhd")
    if at is None:
        return None
    (number,) = struct.unpack_from(">I", movie, at[0] + (20 if movie[at[0]] else 12))
    return int(number)


def _path(movie: bytes, start: int, end: int, *kinds: bytes) -> tuple[int, int] | None:
    """Where the content of a box in a box in … begins and ends."""
    for wanted in kinds:
        found = next(((a, b) for kind, a, b in _boxes(movie, start, end) if kind == wanted), None)
        if found is None:
            return None
        start, end = found
    return start, end


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of each MP4 box; an end beyond the data is told as it is said."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, at + 8), 16
        elif size == 0:
            size = end - at
        if size < header:
            return
        yield kind, at + header, at + size
        at += size
