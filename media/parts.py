"""Whole files put behind each other, as `cat a.mp4 b.mp4` makes them: where each begins and ends.

Of most FFmpeg reads the first, and of the others nothing, often without a word; of some it stumbles over the second
one's beginning, or takes their clocks for one. Fragmented MP4, WebM and Matroska are another matter
(``media.restarts``). QuickTime without an ``ftyp``, as of before 2004, is taken for one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from stmixer.media.marks import MARK_BYTES, Mark, mark_of

Part = tuple[int, int]
"""From a byte on, and up to another."""

MOST_PARTS = 1000
"""That are told apart."""
_MOST_BOXES = 100_000
_GIVEN_UP = b""
_LOOK = 64
_CHUNK = 1 << 20
_PAGE = b"OggS"
_MOST_PAGES = 1_000_000
_FIRST_PAGE = 2
"""The flag of one with which a stream begins (RFC 3533)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """``all``: from front to back, at least one. ``complete``: False where the look for them was given up, so that the
    last of them may hold more."""

    all: list[Part]
    complete: bool


def parts_of(file: BinaryIO) -> Parts:
    """Where the files in a file are, from where it is on; one where there is no other. Leaves it there.

    Errors of the file object pass through.
    """
    before = file.tell()
    try:
        file.seek(0, 2)
        size = file.tell()
        begins, complete = [before], True
        for begin in iter(()) if before else _begins(file, _looked(file, 0, _LOOK), size):
            if begin is None or len(begins) == MOST_PARTS:
                complete = False
                break
            begins.append(begin)
        return Parts(list(zip(begins, [*begins[1:], size], strict=True)), complete)
    finally:
        file.seek(before)


def _begins(file: BinaryIO, head: bytes, size: int) -> Iterator[int | None]:
    """Where another one begins; None, as the last: what is behind that was not looked through."""
    if head[4:8] == b"ftyp":
        return _of_boxes(file, size)
    if head[:4] == b"RIFF":
        return _of_chunks(file, size)
    if head[:4] == _PAGE:
        return _of_pages(file)
    return iter(()) if (mark := mark_of(head)) is None else _of_marks(file, mark)


def _of_boxes(file: BinaryIO, size: int) -> Iterator[int | None]:
    """MP4: behind index and media another ``ftyp``. Fragments behind fragments have their own way of beginning anew."""
    begin, before, seen, kind = 0, set[bytes](), set[bytes](), b"ftyp"
    for kind, at in _boxes(file, size):
        if kind == b"ftyp" and {b"moov", b"mdat"} <= seen:
            if begin and _is_another(before, seen):
                yield begin
            begin, before, seen = at, seen, set()
        seen.add(kind)
    if begin and _is_another(before, seen):
        yield begin
    if kind == _GIVEN_UP:
        yield None


def _is_another(before: set[bytes], boxes: set[bytes]) -> bool:
    """Whether boxes are a file of their own behind those before them. Senders of fragments repeat their tables."""
    return b"moof" not in before or (b"moof" not in boxes and b"mdat" in boxes)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Of what kind they are, and where; ``_GIVEN_UP`` behind the last that is looked at where there may be more."""
    at = 0
    for _ in range(_MOST_BOXES):
        head = _looked(file, at, 16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        length = int.from_bytes(head[8:16]) if length == 1 else length
        if len(head) < 8 or not kind.isascii():
            return
        yield kind, at
        if length < 8 or at + length >= size:
            return
        at += length
    yield _GIVEN_UP, at


def _of_chunks(file: BinaryIO, size: int) -> Iterator[int | None]:
    """AVI: another list of its own kind; ``AVIX`` goes on with the one before."""
    at = 0
    for _ in range(_MOST_BOXES):
        head = _looked(file, at, 12)
        if len(head) < 12 or head[:4] != b"RIFF":
            return
        if at and head[8:] == b"AVI ":
            yield at
        length = int.from_bytes(head[4:8], "little")
        at += 8 + length + length % 2
        if not length or at >= size:
            return
    yield None


def _of_pages(file: BinaryIO) -> Iterator[int | None]:
    """Ogg: pages that begin streams behind such as do not."""
    at, begins = 0, True
    for _ in range(_MOST_PAGES):
        head = _looked(file, at, 27 + 255)
        if head[:4] != _PAGE or len(head) <= 27:
            return
        first = bool(head[5] & _FIRST_PAGE)
        if first and not begins:
            yield at
        at, begins = at + 27 + head[26] + sum(head[27 : 27 + head[26]]), first
    yield None


def _of_marks(file: BinaryIO, mark: Mark) -> Iterator[int]:
    """What is known by its first bytes alone: wherever they stand again."""
    file.seek(0)
    tail, before, newest = b"", 0, 0
    while data := file.read(_CHUNK):
        buffer, begin = tail + data, before - len(tail)
        for at in mark.places(buffer):
            if begin + at > newest:
                newest = begin + at
                yield newest
        tail, before = buffer[1 - MARK_BYTES :], before + len(data)


def _looked(file: BinaryIO, at: int, size: int) -> bytes:
    try:
        file.seek(at)
    except (OSError, ValueError, OverflowError):  # no file is as long as a damaged one says
        return b""
    return file.read(size) or b""
