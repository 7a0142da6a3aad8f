"""The tables of live MPEG-TS: where they begin, and when another video takes over from that which is read.

ISO/IEC 13818-1, 2.4.3 (packets) and 2.4.4 (tables). FFmpeg notices new streams, but goes on reading the old one,
of which nothing comes any more, or feeds a new codec to the old one's decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

PACKET = 188
SYNC = 0x47
_PAT_PID = 0
_PAT, _PMT = 0, 2
_VIDEO = {
    0x01: "MPEG-1", 0x02: "MPEG-2", 0x10: "MPEG-4", 0x1B: "H.264", 0x24: "H.265", 0x33: "H.266", 0xEA: "VC-1",
}  # fmt: skip
"""Stream types that are video, with their names."""
SNIFFED, UNTABLED = 5 * PACKET, 2 << 20
"""Bytes that tell whether it is MPEG-TS; and after which it is read without tables."""
_READ = 32 * 1024
SILENT_PICTURES, SILENT_TICKS = 100, 5 * 90_000
"""So many pictures of another video, over so long by its timestamps, without one of that which is read: that has
stopped, whatever the tables say. Either may be little: a picture may come in many pieces, or every few seconds."""
_CLOCK = 1 << 33
_STUFFING = 0xFF
_SECTION_PACKETS = 32
"""More than a section of 4 KiB fills; kept until it is whole."""

_Programme = tuple[int, int]
"""The PID of its table, which others may share, and its number."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """``kept``: how many of the bytes that were fed still belong to the old one. ``begin``: what the new one begins
    with, its tables before it. ``name``: the new one in words. ``pid``: of MPEG-TS, its own. ``is_file``: it is a file,
    whose clock has nothing to do with that of the one before it."""

    kept: int
    begin: bytes
    name: str
    pid: int | None = None
    is_file: bool = False


def from_tables_on(read: Callable[[int], bytes]) -> bytes:
    """Of a stream that may be MPEG-TS, joined anywhere: what is to be read first, instead of what was read for it.

    Skips what comes before the tables, without which hardly anything can be decoded. Where none comes for long, or
    none at all, that is everything: FFmpeg may guess what it is.
    """
    begun = b""
    while len(begun) < SNIFFED and (more := read(SNIFFED - len(begun))):
        begun += more
    if not is_transport(begun):
        return begun
    kept = bytearray(begun)

    def more_of_it(size: int) -> bytes:
        data = read(size) if len(kept) < UNTABLED else b""
        kept.extend(data)
        return data

    return first_tables(more_of_it, begun) or bytes(kept)


def first_tables(read: Callable[[int], bytes], begun: bytes = b"") -> bytes:
    """The first tables, behind ``begun`` or in it, and what was read behind them; b"" where none comes."""
    watch, data = TransportWatch(first=True), begun or read(_READ)
    while data:
        if (found := watch.feed(data)) is not None:
            return found.begin
        data = read(_READ)
    return b""


def transport_begins(begun: bytes | bytearray) -> int | None:
    """Where the first packet of MPEG-TS begins, by the four that follow each other; None: it is something else."""
    starts = range(len(begun) - 3 * PACKET)
    return next((at for at in starts if all(begun[at + PACKET * n] == SYNC for n in range(4))), None)


def is_transport(begun: bytes | bytearray) -> bool:
    """Whether a stream that begins so, maybe within a packet, is MPEG-TS."""
    return transport_begins(begun) is not None


class TransportWatch:
    """Looks at the packets of a stream. ``feed`` it from the beginning on; after ``follow`` it may find a takeover.

    ``first``: what it finds instead is the first programme's table, of whatever kind. Having found something it ends.
    ``tabled``: whether any programme's table has come.
    """

    def __init__(self, *, first: bool = False) -> None:
        self._first = first
        self.tabled = False
        self._pid, self._type = -1, -1
        self._seen: dict[int, tuple[_Programme, int]] = {}
        self._begun: dict[_Programme, dict[int, int]] = {}
        self._tail, self._pat, self._opened = b"", b"", b""
        self._sections: dict[int, _Section] = {}
        self._programmes: frozenset[_Programme] = frozenset()
        self._table_pids: frozenset[int] = frozenset()
        self._home: _Programme | None = None
        self._others: dict[int, int] = {}
        self._silent, self._silent_since = 0, -1

    def follow(self, pid: int) -> None:
        """The video with this PID is read."""
        self._pid = pid
        self._home, self._type = self._seen.get(pid, (None, -1))

    def feed(self, data: bytes) -> Takeover | None:
        """The stream's next bytes, however many."""
        buffer, at = self._tail + data, 0
        while len(buffer) - at >= PACKET:
            if buffer[at] != SYNC or (len(buffer) - at > PACKET and buffer[at + PACKET] != SYNC):
                if (at := buffer.find(SYNC, at + 1)) < 0:
                    at = len(buffer)
                continue
            if (new := self._packet(buffer[at : at + PACKET])) is not None:
                pid, kind = new
                begin = self._pat + self._opened + buffer[at:]
                return Takeover(max(0, at - len(self._tail)), begin, f"{_VIDEO.get(kind, 'video')}, PID {pid}", pid)
            at += PACKET
        self._tail = buffer[at:]
        return None

    def _packet(self, packet: bytes) -> tuple[int, int] | None:
        """What takes over with it, if anything does: its PID and type."""
        pid, starts = (packet[1] & 0x1F) << 8 | packet[2], bool(packet[1] & 0x40)
        if pid == self._pid:
            self._silent, self._silent_since = 0, -1
        elif pid in self._others and starts:
            self._silent += 1
            if self._lasts(_pts(packet)) and self._silent >= SILENT_PICTURES:
                return pid, self._others[pid]
        elif pid == _PAT_PID or pid in self._table_pids:
            for section, packets in self._whole(packet, pid, starts):
                if pid == _PAT_PID:
                    self._pat = packets
                    self._programmes = frozenset(_listed_programmes(section))
                    self._table_pids = frozenset(pid for pid, _ in self._programmes)
                    continue
                self.tabled, self._opened = True, packets[:-PACKET]
                if (new := self._table((pid, section[3] << 8 | section[4]), _listed_videos(section))) is not None:
                    return new
            self._opened = b""
        return None

    def _lasts(self, pts: int | None) -> bool:
        """Whether, at this picture of another video, that which is read has been silent for long."""
        if pts is None:
            return False
        silent = (pts - self._silent_since) % _CLOCK
        if self._silent_since < 0 or silent > _CLOCK // 2:  # the first one, or an earlier one after it
            self._silent_since, silent = pts, 0
        return silent >= SILENT_TICKS

    def _table(self, programme: _Programme, videos: dict[int, int]) -> tuple[int, int] | None:
        """A programme's table as it is now."""
        if self._pid < 0:
            return self._before(programme, videos)
        kind = videos.get(self._pid)
        if kind is not None and self._type in (-1, kind):
            self._home, self._type = programme, kind
            self._others = {other: kind for other, kind in videos.items() if other != self._pid}
            return None
        # another programme's, or one that has no video for now, takes nothing over
        if not videos or (programme != self._home and (self._home in self._programmes or self._home is None)):
            return None
        new = self._pid if kind is not None else next(iter(videos))
        return new, videos[new]

    def _before(self, programme: _Programme, videos: dict[int, int]) -> tuple[int, int] | None:
        """While nobody knows yet which video is read: what takes over from all that there were."""
        if self._first:
            return next(iter(videos.items()), (0, 0))
        if not videos:
            return None
        new, begun = next(iter(videos.items())), self._begun
        moved = bool(begun) and not begun.keys() & self._programmes
        changed = programme in begun and not begun[programme].items() & videos.items()
        if moved or changed:
            return new
        begun.setdefault(programme, videos)
        self._seen |= {video: (programme, kind) for video, kind in videos.items()}
        return None

    def _whole(self, packet: bytes, pid: int, starts: bool) -> Iterator[tuple[bytes, bytes]]:
        """Sections that this packet completes, those that are right, each with the packets that it came in."""
        payload = _payload(packet)
        if not payload:
            return
        ends, begins = (payload[1 : 1 + payload[0]], payload[1 + payload[0] :]) if starts else (payload, b"")
        if (opened := self._sections.pop(pid, None)) is not None:
            opened = _Section(opened.data + ends, opened.packets + packet)
            if (size := opened.size) is not None:
                if _is_right(found := opened.data[:size]):
                    yield found, opened.packets
            elif not starts and len(opened.packets) < _SECTION_PACKETS * PACKET:
                self._sections[pid] = opened
        while begins and begins[0] != _STUFFING:
            opened = _Section(begins, packet)
            if (size := opened.size) is None:
                self._sections[pid] = opened
                return
            if _is_right(found := begins[:size]):
                yield found, packet
            begins = begins[size:]


@dataclass(frozen=True, slots=True)
class _Section:
    """What has come of a table's, and the packets that it came in."""

    data: bytes
    packets: bytes

    @property
    def size(self) -> int | None:
        """Bytes that it has; None while there are fewer."""
        if len(self.data) < 3:
            return None
        size = 3 + ((self.data[1] & 0x0F) << 8 | self.data[2])
        return size if len(self.data) >= size else None


def _is_right(section: bytes) -> bool:
    """Whether it is valid now, and whole."""
    return len(section) >= 12 and bool(section[5] & 1) and _crc(section) == 0


def table_pids_of(packet: bytes) -> set[int]:
    """Where the tables of programmes are, by a packet of PID 0 that holds all of their table; else nothing."""
    payload = _payload(packet)
    section = payload[1 + payload[0] :] if payload and packet[1] & 0x40 else b""
    size = _Section(section, b"").size
    if size is None or not _is_right(section[:size]):
        return set()
    return {pid for pid, _ in _listed_programmes(section[:size])}


def _payload(packet: bytes) -> bytes:
    """What is in it behind its header."""
    control = packet[3] >> 4 & 3
    return packet[4 + (1 + packet[4] if control & 2 else 0) :] if control & 1 else b""


def _pts(packet: bytes) -> int | None:
    """The time of the picture that begins in it, where it has one."""
    head = _payload(packet)[:14]
    if len(head) < 14 or head[:3] != b"\0\0\1" or not head[7] & 0x80:
        return None
    return (head[9] >> 1 & 7) << 30 | head[10] << 22 | head[11] >> 1 << 15 | head[12] << 7 | head[13] >> 1


def _listed_programmes(section: bytes) -> list[_Programme]:
    """Where their tables are."""
    if section[0] != _PAT:
        return []
    entries = section[8:-4]
    return [
        ((entries[at + 2] & 0x1F) << 8 | entries[at + 3], entries[at] << 8 | entries[at + 1])
        for at in range(0, len(entries) - 3, 4)
        if entries[at] or entries[at + 1]
    ]


def _listed_videos(section: bytes) -> dict[int, int]:
    """A programme's videos: their PIDs, and of what stream type they are."""
    if section[0] != _PMT or len(section) < 16:
        return {}
    at, videos = 12 + ((section[10] & 0x0F) << 8 | section[11]), dict[int, int]()
    while at + 5 <= len(section) - 4:
        if section[at] in _VIDEO:
            videos[(section[at + 1] & 0x1F) << 8 | section[at + 2]] = section[at]
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
    return videos


def _crc(section: bytes) -> int:
    """CRC-32 of MPEG-2: 0 for a section whose last four bytes are right."""
    value = 0xFFFFFFFF
    for byte in section:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value
