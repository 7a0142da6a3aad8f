"""WebM, fragmented MP4, and what is known by its first bytes (``media.marks``), that begin anew in their middle.

A page that stops its MediaRecorder and starts another one, a sender that changes its size or codec, a recorder that
writes on: behind the old recording comes the beginning of a new one. FFmpeg passes over a second beginning, and reads
what follows as if it were of the first, or not at all.
"""

from __future__ import annotations

import re
from typing import Protocol

from stmixer.media.marks import MARK_BYTES, Mark, mark_of
from stmixer.media.takeover import Takeover, TransportWatch

_MOST_OPENING = 1 << 18
"""Bytes of a beginning; more are none."""
_EBML = b"\x1a\x45\xdf\xa3"
_TRACKS, _CLUSTER = b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"
_HEADER = re.compile(re.escape(_EBML) + rb".{1,72}?\x42\x82.(webm|matroska)", re.DOTALL)
_HEADER_BYTES = 96
"""That it takes, at most."""
_OPENS = (b"ftyp", b"moov")
_BETWEEN = (*_OPENS, b"free", b"skip", b"wide", b"uuid", b"pdin", b"styp", b"sidx", b"ssix", b"emsg", b"prft")
"""What may stand in a beginning, and before the first fragment."""
_MOST_BOXES = 20
_COUNTED = 24
"""Bytes of a fragment up to its number, which its first box has."""


class VideoWatch(Protocol):
    """Looks at a video as it is read, from its beginning on."""

    def feed(self, data: bytes) -> Takeover | None:
        """The next bytes, however many; what takes over in them."""


def watch_of(begun: bytes) -> VideoWatch:
    """The one for a stream that begins so."""
    if begun.startswith(_EBML):
        return HeaderWatch()
    if (mark := mark_of(begun)) is not None:
        return MarkWatch(mark)
    return BoxWatch() if begun[4:8] in _BETWEEN else TransportWatch()


class _Marks:
    """Where a mark stands in bytes that are gone through from front to back: each is looked at once, however many
    headers there are."""

    def __init__(self, buffer: bytes, mark: bytes) -> None:
        self._buffer, self._mark = buffer, mark
        self._next = buffer.find(mark)

    def after(self, at: int) -> int:
        """The first from there on, which rises from call to call; -1: there is none."""
        if 0 <= self._next < at:
            self._next = self._buffer.find(self._mark, at)
        return self._next


class HeaderWatch:
    """WebM and Matroska: a header in mid-stream whose tracks are others than those of the one before."""

    def __init__(self) -> None:
        self._held, self._opens = b"", False
        self._tracks = b""

    def feed(self, data: bytes) -> Takeover | None:
        """The next bytes, however many."""
        before, buffer, at = len(self._held), self._held + data, 0
        all_tracks, clusters = _Marks(buffer, _TRACKS), _Marks(buffer, _CLUSTER)
        while True:
            if not self._opens:
                header = _HEADER.search(buffer, at) if buffer.find(_EBML, at) >= 0 else None
                if header is None:
                    self._held = buffer[max(at, len(buffer) - _HEADER_BYTES) :]
                    return None
                at, self._opens = header.start(), True
            tracks_at = all_tracks.after(at)
            end = clusters.after(tracks_at + 1) if tracks_at >= 0 else -1
            if end < 0 and len(buffer) - at < _MOST_OPENING:
                self._held = buffer[at:]
                return None
            tracks = buffer[tracks_at:end] if end >= 0 else self._tracks
            if self._tracks not in (b"", tracks):
                return Takeover(max(0, at - before), buffer[at:], "a WebM recording, from its beginning")
            self._tracks, self._opens = tracks, False
            at = end if end >= 0 else at + len(_EBML)


class MarkWatch:
    """The bytes with which it begins, again in mid-stream."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._tail, self._begun = b"", False

    def feed(self, data: bytes) -> Takeover | None:
        """The next bytes, however many."""
        before, buffer = len(self._tail), self._tail + data
        found = next((at for at in self._mark.places(buffer) if at or self._begun), None)
        if found is not None:
            name = f"{self._mark.name}, from its beginning"
            return Takeover(max(0, found - before), buffer[found:], name, is_file=True)
        self._begun |= len(buffer) >= MARK_BYTES
        self._tail = buffer[1 - MARK_BYTES :] if self._begun else buffer
        return None


class BoxWatch:
    """MP4: boxes ``ftyp`` and ``moov`` behind fragments, other ones than before, or with fragments counted anew; or an
    ``ftyp`` behind media that is in none. ``lost``: what came is no boxes, and nothing more is looked at."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._opening: list[bytes] = []
        self._movie, self._new_movie = b"", b""
        self._fragment, self._media = -1, False
        self.lost = False

    def feed(self, data: bytes) -> Takeover | None:
        """The next bytes, however many; nothing more once they are no boxes."""
        at, starts, box = 0, -1, -1
        while at < len(data) and not self.lost:
            if self._left:
                passed = min(self._left, len(data) - at)
                at, self._left = at + passed, self._left - passed
                continue
            if not self._head:
                starts, box = starts if self._opening else at, at
            taken = min(self._needed() - len(self._head), len(data) - at)
            self._head, at = self._head + data[at : at + taken], at + taken
            if len(self._head) < 8 or len(self._head) < self._needed():
                continue
            if self._box():
                starts = box if len(self._opening) == 1 else starts
                return Takeover(max(0, starts), b"".join(self._opening) + data[at:], "an MP4, from its beginning")
        return None

    def pass_over(self) -> int:
        """Takes the rest of the box in hand for fed; how many bytes that is."""
        left, self._left = self._left, 0
        return left

    def _needed(self) -> int:
        """Bytes of the box in hand that are looked at: its head, and of what may begin anew all of it."""
        if len(self._head) < 8:
            return 8
        size, kind = int.from_bytes(self._head[:4]), self._head[4:8]
        if size == 1:
            return 16
        if kind == b"moof" and size >= _COUNTED:
            return _COUNTED
        return size if self._begins(kind) and 8 <= size <= _MOST_OPENING else 8

    def _begins(self, kind: bytes) -> bool:
        return kind in _OPENS or (kind in _BETWEEN and bool(self._opening))

    def _box(self) -> bool:
        """Takes the box in hand; whether something has begun anew with it."""
        head, self._head = self._head, b""
        size, kind = int.from_bytes(head[:4]), head[4:8]
        size = int.from_bytes(head[8:16]) if size == 1 else size
        if size < len(head) or not kind.isalnum() or len(self._opening) > _MOST_BOXES:
            self.lost = True
            return False
        self._left = size - len(head)
        if kind == b"ftyp" and self._media and self._fragment < 0:
            self._opening = [head]
            return True
        self._media |= kind == b"mdat"
        if self._begins(kind) and not self._left:
            self._opening.append(head)
            if kind == b"moov":
                self._new_movie = head
            return False
        if kind == b"moof" and len(head) == _COUNTED:
            number, before = int.from_bytes(head[-4:]), self._fragment
            other = self._opening and self._new_movie not in (b"", self._movie)
            self._fragment = number
            if before >= 0 and self._opening and (other or number <= before):
                self._opening.append(head)
                return True
            self._movie = self._new_movie
        self._opening = []
        return False
