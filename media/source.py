"""The only way in which bytes reach FFmpeg: a file object without a name.

FFmpeg given a *name* interprets it (protocols, image sequences) and resolves what a file refers to against it. An
object that has only ``read`` leaves nothing to interpret; what a file then still asks for goes through
:meth:`ByteSource.refuse`, which notes it and opens nothing.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import BinaryIO

from stmixer.media import fragments
from stmixer.media.errors import MediaError
from stmixer.media.padded import PlainPackets, padding_of
from stmixer.media.parts import Part, Parts, parts_of
from stmixer.media.restarts import MarkWatch, VideoWatch, watch_of
from stmixer.media.takeover import SNIFFED, Takeover, TransportWatch, first_tables, from_tables_on, is_transport
from stmixer.media.takeover_in_file import takes_over

HEAD_BYTES = 1 << 20
_MAX_BOXES = 1000
_READ = 1 << 15
_MOST_BEHIND = 1 << 20
"""Bytes behind the end of a live video in which another one is looked for."""


class ResourceRefused(Exception):
    """Raised into FFmpeg when a file wants a further resource opened."""


class ByteSource:
    """Sequential bytes for FFmpeg; also remembers the beginning, which tells why a file could not be read.

    ``takeover``: where another video has taken over, what it is: the old one ends there, and ``next_part`` goes on.
    """

    def __init__(self, file: BinaryIO, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self.head = bytearray()
        self.refused: list[str] = []
        self.takeover: Takeover | None = None
        self._plain: PlainPackets | None = None
        self._watch: VideoWatch | None = None
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, waiting for the first; b'' at the end. Errors of the file object pass through."""
        if self.takeover is not None:
            return b""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return self._watched(data)
        data = (self._from_file if self._plain is None else self._plain.read)(size)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        return self._watched(data)

    def _from_file(self, size: int) -> bytes:
        data = self._file.read(size)
        if data is None:
            raise BlockingIOError("the source must be a blocking file: read() returned None")
        if len(data) > size:
            # PyAV copies whatever comes into a buffer of `size` bytes without looking.
            raise ValueError(f"the source returned {len(data)} bytes when asked for {size}")
        return bytes(data)

    def watch(self, fragmented_mp4: bool) -> None:
        """At its beginning: have it begin with tables, and look whether another video takes over in it."""
        if not fragmented_mp4:
            self._take_padding_off()
        self._ahead = (fragments.from_tables_on if fragmented_mp4 else from_tables_on)(self.read)
        self._watch = watch_of(self._ahead)

    def _take_padding_off(self) -> None:
        """Of MPEG-TS whose packets have any: from here on they are plain ones."""
        begun = b""
        while len(begun) < SNIFFED and (more := self.read(SNIFFED - len(begun))):
            begun += more
        self._ahead = begun
        if (padding := padding_of(begun)) is not None:
            at, size = padding
            self._plain, self._ahead = PlainPackets(self._from_file, begun[at:], size), b""
            self.head.clear()

    def wait_for_tables(self) -> bool:
        """Where MPEG-TS has begun without: goes on with the first ones, however long that takes. False: none."""
        watch = self._watch
        if not isinstance(watch, TransportWatch) or watch.tabled or not is_transport(self.head[:SNIFFED]):
            return False
        self._watch = None
        self._ahead = first_tables(self.read) + self._ahead
        self._watch = TransportWatch()
        return bool(self._ahead)

    def follow(self, pid: int | None) -> None:
        """Look whether another video takes over from the one of this PID; None: it is no MPEG-TS."""
        if not isinstance(self._watch, TransportWatch):
            return
        if pid is None:
            self._watch = None
        else:
            self._watch.follow(pid)

    def follows(self) -> Takeover | None:
        """Where what is read has come to its end: what goes on behind it, if anything does."""
        return self.takeover

    def pass_over(self) -> bool:
        """What is read has ended, as it says itself; where bytes still come, on to another of its kind, if one does
        soon. False: none did, and there may be more."""
        left = _MOST_BEHIND
        while isinstance(self._watch, MarkWatch) and self.takeover is None and left > 0:
            if not (data := self.read(_READ)):
                break
            left -= len(data)
        return left > 0 or self.takeover is not None

    def next_part(self) -> None:
        """Go on with what has taken over."""
        assert self.takeover is not None
        self._ahead, self.takeover = self.takeover.begin + self._ahead, None
        self._watch = watch_of(self._ahead)

    def _watched(self, data: bytes) -> bytes:
        """What of it belongs to the video that is read."""
        if self._watch is None or (found := self._watch.feed(data)) is None:
            return data
        self.takeover = found
        return data[: found.kept]

    def refuse(self, url: str, flags: int, options: dict[str, str]) -> BinaryIO:
        """FFmpeg's io_open: always raises ResourceRefused."""
        self.refused.append(url)
        raise ResourceRefused(url)

    def looks_encrypted(self) -> bool:
        """Whether the bytes seen hold an encrypted MP4 sample entry."""
        return b"encv" in self.head and b"ftyp" in self.head[:64]

    def lacks_index(self) -> bool:
        """Whether it is an MP4 with its media, and has no index, as far as it can be looked through."""
        at, media = 0, False
        for _ in range(_MAX_BOXES):
            head = self._look(at, 16)
            if len(head) < 8 or (at == 0 and head[4:8] != b"ftyp"):
                return media
            size, kind = int.from_bytes(head[:4]), head[4:8]
            size = int.from_bytes(head[8:16]) if size == 1 else size
            if kind == b"mdat" and size == 0:
                return True  # to the end, as it stands there while it is being written
            if kind in (b"moov", b"moof") or size < 8:
                return False
            media |= kind == b"mdat"
            at += size
        return False

    def _look(self, at: int, size: int) -> bytes:
        return bytes(self.head[at : at + size])

    def close(self) -> None:
        """Closes the file if it was opened here; a caller's file object stays the caller's."""
        if self._owned:
            self._file.close()


class SeekableByteSource(ByteSource):
    """A source that FFmpeg may also move about in. A class of its own: PyAV asks which methods there are."""

    def __init__(self, file: BinaryIO, owned: bool) -> None:
        super().__init__(file, owned)
        self._files: Parts | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Where it is then; as FFmpeg has it, less than 0 for a place that a damaged file names and that cannot be."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        except (ValueError, OverflowError):
            pass
        return -errno.EINVAL

    def tell(self) -> int:
        return self._file.tell()

    def _look(self, at: int, size: int) -> bytes:
        return b"" if self.seek(at) < 0 else self._file.read(size)

    def takes_over(self) -> bool:
        """Whether another video takes over in it."""
        return len(self._looked_through().all) > 1 or takes_over(self._file)

    def in_parts(self) -> PartedByteSource | None:
        """The same bytes as the files of which they are; it has the file then. None where it is one file alone."""
        if len(parts := self._looked_through().all) == 1:
            return None
        owned, self._owned = self._owned, False
        return PartedByteSource(self._file, owned, parts)

    def may_hold_more(self) -> bool:
        """Whether the look for the files of which it is was given up."""
        return not self._looked_through().complete

    def _looked_through(self) -> Parts:
        """The files of which it is: looked for once."""
        if self._files is None:
            self._files = parts_of(self._file)
        return self._files

    def straight_on(self) -> ByteSource:
        """The same bytes, to be read once from front to back; it has the file then."""
        owned, self._owned = self._owned, False
        return ByteSource(self._file, owned)


class PartedByteSource(SeekableByteSource):
    """Files put behind each other, of which each is read as if it were alone, one after the other."""

    def __init__(self, file: BinaryIO, owned: bool, parts: list[Part]) -> None:
        super().__init__(file, owned)
        self._parts = parts
        self.seek(0)

    def read(self, size: int) -> bytes:
        """As of a file that ends where the part does."""
        left = self._parts[0][1] - self._file.tell()
        return super().read(min(size, left)) if left > 0 else b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Within the part."""
        begin, end = self._parts[0]
        origins = (begin, self._file.tell(), end)
        if not 0 <= whence < len(origins) or (at := origins[whence] + offset) < begin:
            return -errno.EINVAL
        there = super().seek(at)
        return there if there < 0 else there - begin

    def tell(self) -> int:
        return self._file.tell() - self._parts[0][0]

    def follows(self) -> Takeover | None:
        """The next part."""
        if len(self._parts) == 1:
            return None
        return Takeover(0, b"", "a file behind the first, from its beginning", is_file=True)

    def next_part(self) -> None:
        """Go on with it."""
        del self._parts[0]
        self.head.clear()
        self.seek(0)


def open_source(source: str | Path | BinaryIO) -> ByteSource:
    """Wraps a path, opened here, or a binary file object, seekable or not.

    Raises:
        MediaError: ``unreadable`` when the path cannot be opened.
    """
    if not isinstance(source, str | Path):
        seekable = getattr(source, "seekable", None)
        can_seek = seekable() if seekable is not None else hasattr(source, "seek") and hasattr(source, "tell")
        return (SeekableByteSource if can_seek else ByteSource)(source, owned=False)
    try:
        file = open(source, "rb")  # noqa: SIM115 - closed by ByteSource.close
    except OSError as error:
        raise MediaError("unreadable", f"{source} cannot be opened: {error.strerror}; check the path") from error
    return (SeekableByteSource if file.seekable() else ByteSource)(file, owned=True)
